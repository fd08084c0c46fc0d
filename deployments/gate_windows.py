"""What ended calls tell of a target: whether it has a queue, and what it works on."""

from typing import Literal, NamedTuple

GAIN = 2.0
"""Calls may take so many times as long as they would without a queue."""

_SAMPLES = 20
_SHORTEST_S = 0.1
# A call of a few milliseconds may take a few more; nobody is the worse for it.
_SLACK_S = 0.3


class Window(NamedTuple):
    """Some calls that ended: among how many each began, and how much longer they took than usual.

    longer: 0 for as long as usual, 1 for twice as long.
    """

    among: float
    longer: float

    @property
    def works_on(self) -> float:
        """How many of them the target worked on; the others waited."""
        return self.among / (1.0 + self.longer)


class Sums:
    """What a window is made of."""

    __slots__ = ("among", "count", "excess_s", "held_s", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = self.among = 0
        self.held_s = self.excess_s = 0.0

    def add(self, among: int, held_s: float, excess_s: float) -> None:
        """One more call."""
        self.count += 1
        self.among += among
        self.held_s += held_s
        self.excess_s += excess_s

    @property
    def mean_s(self) -> float:
        """How long they took."""
        return self.held_s / max(self.count, 1)

    @property
    def enough(self) -> bool:
        """Whether something can be said about them."""
        return self.count >= _SAMPLES

    def full(self, now: float) -> bool:
        """Whether there is enough of them, from long enough."""
        return self.enough and now - self.since >= max(self.mean_s, _SHORTEST_S)

    def window(self) -> Window:
        """What they tell together."""
        usual_s = max((self.held_s - self.excess_s) / self.count, _SLACK_S)
        return Window(self.among / self.count, self.excess_s / self.count / usual_s)


class Trial:
    """Less is let in, to see whether those who are let in fare better.

    unit_s: about as long as a call takes now. After one such time the target has got rid of
        what it had too much; who begins then tells, until two and a half times have passed.
    before: of calls that began earlier. limit: for afterwards.
    """

    __slots__ = ("before", "limit", "over_at", "sums", "until")

    def __init__(self, now: float, unit_s: float, before: Window, limit: float) -> None:
        self.before = before
        self.limit = limit
        self.sums = Sums(now + unit_s)
        self.until = now + 2.5 * unit_s
        self.over_at = now + 8.0 * unit_s

    def saw(self, window: Window) -> None:
        """Calls that began earlier have ended meanwhile: of these the worst is compared with."""
        if window.among >= self.before.among:
            self.before = window

    def verdict(self) -> Literal["queue", "slow", "unknown"]:
        """What made calls take longer."""
        if not self.sums.enough:
            return "unknown"
        during, before = self.sums.window(), self.before
        share = during.among / max(before.among, 1.0)
        if share > 0.9:
            return "unknown"
        if_queue = (1.0 + before.longer) * share - 1.0
        if during.longer > max((if_queue + before.longer) / 2, 0.75):
            return "slow"
        return "queue"
