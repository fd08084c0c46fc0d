"""A slow and obvious bucket, to judge the quick one by: it keeps all that ever happened."""

from collections.abc import Iterable


class History:
    """One limit for one subject, in ticks: `rate` a nanosecond, `period_ns` for each unit.

    A refund rewrites history: the take was smaller. That is exact when the bucket was
    never full since the take, which is what bounds a refund by the smallest lack since.
    """

    def __init__(self, rate: int, period_ns: int, burst: int, debt: int = 0) -> None:
        self.rate = rate
        self.unit = period_ns
        self.burst = burst * period_ns
        self.debt = debt * period_ns
        self.events: list[tuple[int, int, object]] = []

    def lacks(self, now: int) -> list[int]:
        """The lack just before each event, and now."""
        lacks: list[int] = []
        lack = at = 0
        for time, ticks, _ in [*self.events, (now, 0, None)]:
            lack = max(0, lack - (time - at) * self.rate)
            lacks.append(lack)
            lack, at = lack + ticks, time
        return lacks

    def fits(self, now: int, quantity: int, high: bool = False) -> bool:
        """Whether a take of this quantity (and of what is lent) is allowed."""
        most = self.burst + (self.debt if high else 0)
        return self.lacks(now)[-1] + quantity * self.unit <= most

    def take(self, now: int, quantity: int, id: object) -> None:
        """Debit."""
        self.events.append((now, quantity * self.unit, id))

    def give_back(self, now: int, id: object, quantity: int) -> int:
        """End a take; below 0, debit on top. Returns the ticks that came back."""
        if quantity < 0:
            self.take(now, -quantity, None)
            return 0
        place = next(i for i, event in enumerate(self.events) if event[2] == id)
        lacks = self.lacks(now)
        back = min(quantity * self.unit, *lacks[place + 1 :])
        time, taken, _ = self.events[place]
        self.events[place] = (time, taken - back, id)
        assert self.lacks(now)[-1] == lacks[-1] - back
        return back

    def standing(self, now: int, lent: int = 0) -> tuple[int, int]:
        """(whole units left beside those that are lent, nanoseconds until nothing is lacking)."""
        lack = self.lacks(now)[-1]
        return max(0, (self.burst - lack) // self.unit - lent), -(-lack // self.rate)

    def excess(self, uses: Iterable[tuple[int, int]] | None = None) -> int:
        """By how much the worst window goes beyond burst + debt + rate · window; > 0 is a leak.

        uses: (stamp, ticks) of what was admitted, less what was given back; unless they are
        told, the takes at the times of their debits. Corrections beyond an estimate are no
        admissions.
        """
        if uses is None:
            uses = [(time, ticks) for time, ticks, id in self.events if id is not None]
        admitted = sorted(uses)
        worst = -self.burst
        for first, (start, _) in enumerate(admitted):
            total = 0
            for end, ticks in admitted[first:]:
                total += ticks
                worst = max(worst, total - self.burst - self.debt - (end - start) * self.rate)
        return worst
