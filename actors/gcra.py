"""The generic cell rate algorithm with quantities, in exact integers.

A bucket is full at first and lacks what was taken until time has brought it back. The
lack is counted in ticks: `pace` ticks come back per nanosecond, and a unit costs `cost`
ticks, where pace / cost is rate / period in lowest terms. So nothing is ever rounded.

Source: the GCRA of ATM Forum TM 4.0, in the form that the Go library `throttled` and
redis-cell gave it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import gcd
from typing import Any

# What a row can hold with room to spare; more than a century.
_FOREVER_NS = 2**62
_MOST_IN_A_ROW = 2**63
_MOST_GROUPS = 128
# Stands in for the lists of all buckets that have no outstanding takes; never changed.
_NONE: list[int] = []


@lru_cache(maxsize=1024)
def _ticks(rate: int, period_ns: int, burst: int, debt: int) -> tuple[int, int, int, int]:
    """(pace, cost, size, credit) of a bucket; all buckets of a limit share the integers."""
    common = gcd(rate, period_ns)
    cost = period_ns // common
    return rate // common, cost, burst * cost, (burst + debt) * cost


class Bucket:
    """One bucket, and what its outstanding takes could still give back.

    Units that are lent (`held`) are out of the bucket without being lacking: they do not
    come back with time, and lower what lack there may be.

    A take may give back at most the smallest lack since it happened: below that, time
    has made good for it, and others may have used the capacity again. Takes that share
    the same smallest lack form a group; groups are kept in order of their marks, and
    their lows rise strictly, so a new low merges the groups at the end. Giving back lowers
    the lows of a group and all later ones; as the oldest takes mostly end first, `given`
    is lowered for all of them at once, and the few groups before are set right. When groups
    are too many, those with nearly the same low share the lowest: their takes may then give
    back a little less in all than they might, never more.
    """

    __slots__ = (
        "at",
        "burst",
        "cost",
        "counts",
        "credit",
        "given",
        "held",
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
        self.pace, self.cost, self.size, self.credit = _ticks(rate, period_ns, burst, debt)
        self.burst = burst
        self.at = self.lack = self.held = self.given = 0
        self.starts = self.lows = self.counts = _NONE

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
            self._forget()
            return
        lows[-1] = low
        while len(lows) > 1 and lows[-2] >= low:
            del starts[-1], lows[-2]
            counts[-2:] = [counts[-2] + counts[-1]]

    def _forget(self) -> None:
        """Let there be no outstanding takes."""
        self.starts = self.lows = self.counts = _NONE
        self.given = 0

    def _coarsen(self) -> None:
        """Merge the groups whose lows differ by less than a quarter."""
        groups = zip(self.starts, self.lows, self.counts, strict=True)
        self.starts, self.lows, self.counts = [], [], []
        enough = 0
        for start, low, count in groups:
            if low - self.given < enough:
                self.counts[-1] += count
            else:
                self.starts.append(start)
                self.lows.append(low)
                self.counts.append(count)
                enough = (low - self.given) * 5 // 4

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

    def take(self, now: int, quantity: int, mark: int, takes: int = 1) -> tuple[int, int]:
        """Debit `quantity` units under `mark`, which must be above all earlier marks.

        takes: how many takes they are that will be closed; 0: nothing can come back.
        Returns the `standing` after it.
        """
        if now > self.at:
            self._refill(now)
        if self.lows:
            self._note_low()
        self.lack = lack = self.lack + quantity * self.cost
        if takes:
            if self.lows:
                self.starts.append(mark)
                self.lows.append(lack + self.given)
                self.counts.append(takes)
                if len(self.lows) > _MOST_GROUPS:
                    self._coarsen()
            else:
                self.starts, self.lows, self.counts = [mark], [lack], [takes]
        # Once more what `standing` says: this runs for every limit of every request.
        left = (self.size - lack) // self.cost
        reset = self.at - now - (-lack // self.pace)
        return (left if left > 0 else 0), (reset if reset < _FOREVER_NS else _FOREVER_NS)

    def close(self, now: int, mark: int, quantity: int, takes: int = 1) -> None:
        """End so many takes of this mark, and give back up to `quantity` of their units.

        A negative quantity is debited on top, whatever is left. Each outstanding take must
        be closed once; a mark from before the bucket was last full is unknown by then, and
        has nothing left to give back.
        """
        if quantity:
            if now > self.at:
                self._refill(now)
            if self.lows:
                self._note_low()
        group = bisect_right(self.starts, mark) - 1
        if group >= 0:
            if quantity > 0:
                group = self._give_back(group, quantity * self.cost)
            self.counts[group] -= takes
            if self.counts[group] <= 0:
                if len(self.counts) == 1:
                    self._forget()
                else:
                    del self.starts[group], self.lows[group], self.counts[group]
        if quantity < 0:
            self.lack -= quantity * self.cost

    def _give_back(self, group: int, ticks: int) -> int:
        """Lower the lack by what this group may give back; returns where the group is then."""
        starts, lows, counts = self.starts, self.lows, self.counts
        back = min(ticks, lows[group] - self.given)
        if back > 0:
            # Had the take been smaller, all later lows would have been lower.
            self.lack -= back
            self.given += back
            lows[:group] = [low + back for low in lows[:group]]
            while group and lows[group - 1] >= lows[group]:
                group -= 1
                del starts[group + 1], lows[group]
                counts[group : group + 2] = [counts[group] + counts[group + 1]]
        return group

    def lend(self, quantity: int) -> None:
        """Let so many units more be out; below 0: so many are out no longer."""
        self.held += quantity
        self.size -= quantity * self.cost
        self.credit -= quantity * self.cost

    def spare(self, now: int, most: int) -> int:
        """Units that can be lent while at most `most` are lacking or lent; may be below 0."""
        if now > self.at:
            self._refill(now)
        return most - self.held - -(-self.lack // self.cost)

    def standing(self, now: int) -> tuple[int, int]:
        """(whole units left, never below 0; nanoseconds until it is full, at most 2**62).

        What is lent is not left; it is not waited for either.
        """
        if now > self.at:
            self._refill(now)
        left = (self.size - self.lack) // self.cost
        reset = self.at - now - (-self.lack // self.pace) if self.lack else 0
        return (left if left > 0 else 0), (reset if reset < _FOREVER_NS else _FOREVER_NS)

    def reshape(self, now: int, rate: int, period_ns: int, burst: int, debt: int) -> None:
        """Follow a changed limit; the units that were used, or are lent, stay so."""
        if now > self.at:
            self._refill(now)
        before, held = self.cost, self.held
        self.pace, self.cost, self.size, self.credit = _ticks(rate, period_ns, burst, debt)
        self.burst = burst
        self.held = 0
        self.lend(held)
        self.lack = -(-self.lack * self.cost // before)
        self.lows = [(low - self.given) * self.cost // before for low in self.lows]
        self.given = 0

    def last(self) -> int:
        """The mark of the latest outstanding take; 0 without any."""
        return self.starts[-1] if self.starts else 0

    def dump(self) -> list[Any]:
        """The bucket as a row's value, but for what is lent; ticks of many bits are text."""
        lack: int | str = self.lack if self.lack < _MOST_IN_A_ROW else str(self.lack)
        if not self.lows:
            return [self.at, lack]
        lows: list[Any] = self.lows[:]
        if lows[-1] >= _MOST_IN_A_ROW:
            lows = [str(low) for low in lows]
        return [self.at, lack, str(self.given), self.starts[:], lows, self.counts[:]]

    def restore(self, dumped: Sequence[Any]) -> None:
        """Become what was dumped from a bucket of the same shape."""
        self.at, lack, *groups = dumped
        self.lack = int(lack)
        self._forget()
        if groups:
            given, starts, lows, counts = groups
            self.given = int(given)
            self.starts, self.lows, self.counts = list(starts), [*map(int, lows)], list(counts)
