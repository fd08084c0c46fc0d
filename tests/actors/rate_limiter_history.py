"""A slow and obvious bucket, to judge the quick one by: it keeps all that ever happened."""

from fractions import Fraction


class History:
    """One limit for one subject. A refund rewrites history: the take was smaller.

    That is exact when the bucket was never full since the take, which is what bounds a
    refund by the smallest lack since.
    """

    def __init__(self, rate: int, period_ns: int, burst: int, debt: int = 0) -> None:
        self.rate = Fraction(rate, period_ns)
        self.burst = burst
        self.debt = debt
        self.events: list[tuple[int, Fraction, object]] = []

    def lacks(self, now: int) -> list[Fraction]:
        """The lack just before each event, and now."""
        lacks: list[Fraction] = []
        lack, at = Fraction(0), 0
        for time, quantity, _ in [*self.events, (now, Fraction(0), None)]:
            lack = max(Fraction(0), lack - (time - at) * self.rate)
            lacks.append(lack)
            lack, at = lack + quantity, time
        return lacks

    def fits(self, now: int, quantity: int, high: bool = False) -> bool:
        """Whether a take of this quantity is allowed."""
        return self.lacks(now)[-1] + quantity <= self.burst + (self.debt if high else 0)

    def take(self, now: int, quantity: int, id: object) -> None:
        """Debit."""
        self.events.append((now, Fraction(quantity), id))

    def give_back(self, now: int, id: object, quantity: int) -> None:
        """End a take; below 0, debit on top."""
        if quantity < 0:
            return self.take(now, -quantity, None)
        place = next(i for i, event in enumerate(self.events) if event[2] == id)
        lacks = self.lacks(now)
        back = min(Fraction(quantity), *lacks[place + 1 :])
        time, taken, _ = self.events[place]
        self.events[place] = (time, taken - back, id)
        assert self.lacks(now)[-1] == lacks[-1] - back
        return None

    def standing(self, now: int) -> tuple[int, int]:
        """(whole units left, nanoseconds until it is full)."""
        lack = self.lacks(now)[-1]
        return max(0, (self.burst - lack) // 1), -(-lack // self.rate)

    def excess(self) -> Fraction:
        """By how much the worst window goes beyond burst + debt + rate · window; > 0 is a leak.

        Counts takes at their stamps, less what they gave back; corrections beyond an
        estimate are no admissions.
        """
        admitted = [(time, quantity) for time, quantity, id in self.events if id is not None]
        worst = Fraction(-self.burst)
        for first, (start, _) in enumerate(admitted):
            units = Fraction(0)
            for end, quantity in admitted[first:]:
                units += quantity
                bound = self.burst + self.debt + (end - start) * self.rate
                worst = max(worst, units - bound)
        return worst
