"""The generic cell rate algorithm with quantities, in exact integers.

A bucket is full at first and lacks what was taken until time has brought it back. The
lack is counted in ticks: `pace` ticks come back per nanosecond, and a unit costs `cost`
ticks, where pace / cost is rate / period in lowest terms. So nothing is ever rounded.

Source: the GCRA of ATM Forum TM 4.0, in the form that the Go library `throttled` and
redis-cell gave it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import gcd
from typing import Any

# What a row can hold with room to spare; more than a century.
_FOREVER_NS = 2**62


class Bucket:
    """One bucket, and what its outstanding takes could still give back.

    A take may give back at most the smallest lack since it happened: below that, time
    has made good for it, and others may have used the capacity again. Takes that share
    the same smallest lack form a group; groups are kept in order of their marks, and
    their lows rise strictly, so a new low merges the groups at the end. Giving back lowers
    the lows of a group and all later ones; as the oldest takes mostly end first, `given`
    is lowered for all of them at once, and the few groups before are set right.
    """

    __slots__ = (
        "at",
        "burst",
        "cost",
        "counts",
        "credit",
        "given",
        "lack",
        "lows",
        "pace",
        "size",
        "starts",
    )

    def __init__(self, rate: int, period_ns: int, burst: int, debt: int) -> None:
        """Make a full bucket.

        rate: units per `period_ns`. burst: units in a full bucket. debt: units below empty
        that a take of high priority may go.
        """
        self._shape(rate, period_ns, burst, debt)
        self.at = 0
        self.lack = 0
        self.starts: list[int] = []
        self.lows: list[int] = []
        self.counts: list[int] = []
        self.given = 0

    def _shape(self, rate: int, period_ns: int, burst: int, debt: int) -> None:
        common = gcd(rate, period_ns)
        self.pace = rate // common
        self.cost = period_ns // common
        self.burst = burst
        self.size = burst * self.cost
        self.credit = (burst + debt) * self.cost

    def _refill(self, now: int) -> None:
        """Let time bring back what it brings; only for a clock that has moved on."""
        if self.lack:
            lack = self.lack - (now - self.at) * self.pace
            self.lack = lack if lack > 0 else 0
        self.at = now

    def _note_low(self) -> None:
        """Merge the groups for which the present lack is a new low."""
        starts, lows, counts = self.starts, self.lows, self.counts
        low = self.lack + self.given
        if lows[-1] < low:
            return
        if not self.lack:
            starts.clear()
            lows.clear()
            counts.clear()
            self.given = 0
            return
        lows[-1] = low
        while len(lows) > 1 and lows[-2] >= low:
            self._merge(len(lows) - 2)

    def _merge(self, group: int) -> None:
        """Let this group and the next be one, with the low of the next."""
        del self.starts[group + 1], self.lows[group]
        self.counts[group : group + 2] = [self.counts[group] + self.counts[group + 1]]

    def wait(self, now: int, quantity: int, high: bool = False) -> int | None:
        """Nanoseconds until `quantity` units fit; 0: they fit now.

        A quantity above the burst is answered as if the bucket could lend the rest, which
        is the time until so much has come back. The None of the type is for meters that
        cannot tell; a bucket always can.
        """
        if now > self.at:
            self._refill(now)
        excess = self.lack + quantity * self.cost - (self.credit if high else self.size)
        if excess <= 0:
            return 0
        return self.at - now - (-excess // self.pace)

    def take(self, now: int, quantity: int, mark: int) -> None:
        """Debit `quantity` units under `mark`, which must be above all earlier marks."""
        if now > self.at:
            self._refill(now)
        if self.lows:
            self._note_low()
        self.lack += quantity * self.cost
        self.starts.append(mark)
        self.lows.append(self.lack + self.given)
        self.counts.append(1)

    def close(self, now: int, mark: int, quantity: int) -> None:
        """End the take of this mark, and give back up to `quantity` of its units.

        A negative quantity is debited on top, whatever is left. Each outstanding mark must
        be closed once; one from before the bucket was last full is unknown by then, and has
        nothing left to give back.
        """
        if now > self.at:
            self._refill(now)
        if self.lows:
            self._note_low()
        starts, lows, counts = self.starts, self.lows, self.counts
        group = bisect_right(starts, mark) - 1
        if group >= 0:
            back = min(quantity * self.cost, lows[group] - self.given)
            if back > 0:
                # Had the take been smaller, all later lows would have been lower.
                self.lack -= back
                self.given += back
                lows[:group] = [low + back for low in lows[:group]]
                while group and lows[group - 1] >= lows[group]:
                    group -= 1
                    self._merge(group)
            counts[group] -= 1
            if not counts[group]:
                del starts[group], lows[group], counts[group]
        if quantity < 0:
            self.lack -= quantity * self.cost

    def standing(self, now: int) -> tuple[int, int]:
        """(whole units left, never below 0; nanoseconds until it is full, at most 2**62)."""
        if now > self.at:
            self._refill(now)
        left = (self.size - self.lack) // self.cost
        reset = self.at - now - (-self.lack // self.pace) if self.lack else 0
        return (left if left > 0 else 0), (reset if reset < _FOREVER_NS else _FOREVER_NS)

    def reshape(self, now: int, rate: int, period_ns: int, burst: int, debt: int) -> None:
        """Follow a changed limit; the units that were used stay used."""
        if now > self.at:
            self._refill(now)
        before = self.cost
        self._shape(rate, period_ns, burst, debt)
        self.lack = -(-self.lack * self.cost // before)
        self.lows = [(low - self.given) * self.cost // before for low in self.lows]
        self.given = 0

    def dump(self) -> list[Any]:
        """The bucket as a row's value. Ticks are text, as they may exceed 64 bits."""
        return [
            self.at,
            str(self.lack),
            self.starts[:],
            [str(low - self.given) for low in self.lows],
            self.counts[:],
        ]

    def restore(self, dumped: Sequence[Any]) -> None:
        """Become what was dumped from a bucket of the same shape."""
        self.at, lack, starts, lows, counts = dumped
        self.lack = int(lack)
        self.given = 0
        self.starts, self.lows, self.counts = list(starts), [*map(int, lows)], list(counts)
