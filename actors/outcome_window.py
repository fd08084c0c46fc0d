"""Sliding windows over the outcomes of calls, by count or by time.

Both answer the same question in constant time and bounded memory: of the recent calls,
how many failed and how many were slow? The two kinds and their edges follow resilience4j's
`FixedSizeSlidingWindowMetrics` and `SlidingTimeWindowMetrics`.
"""

from collections import deque
from typing import Any, NamedTuple

_SECOND = 1_000_000_000
_FEWEST_BUCKETS = 5
_MOST_BUCKETS = 60

_FAILED = 1
_SLOW = 2


class Rates(NamedTuple):
    """Shares of the counted calls, each between 0 and 1."""

    failure: float
    slow: float


class Counts(NamedTuple):
    """What a window holds: all calls, and how many of them failed or were slow (or both)."""

    calls: int
    failures: int
    slow: int

    def rates(self, min_calls: int) -> Rates | None:
        """The shares, or None while fewer than `min_calls` calls are counted."""
        if self.calls < max(1, min_calls):
            return None
        return Rates(self.failures / self.calls, self.slow / self.calls)


class CountWindow:
    """The last `size` outcomes."""

    __slots__ = ("_failures", "_outcomes", "_slow", "min_calls", "size")

    def __init__(self, size: int, min_calls: int) -> None:
        self.size = size
        self.min_calls = min(min_calls, size)
        self._outcomes: deque[int] = deque()
        self._failures = 0
        self._slow = 0

    @property
    def shape(self) -> tuple[str, int, int]:
        """Kind, size in calls, fewest calls for a rate: windows of one shape are alike."""
        return ("count", self.size, self.min_calls)

    def add(self, now: int, failed: bool, slow: bool) -> None:
        """Count one outcome; the oldest one leaves a full window."""
        self._push(failed * _FAILED | slow * _SLOW)

    def counts(self, now: int) -> Counts:
        """What is counted; time does not matter here."""
        return Counts(len(self._outcomes), self._failures, self._slow)

    def row(self) -> list[Any]:
        """The window as plain values, for `window_from_row`."""
        return [*self.shape, bytes(self._outcomes)]

    def refill(self, stored: bytes) -> None:
        """Count the outcomes of a row's last field, oldest first."""
        for flags in stored:
            self._push(flags)

    def _push(self, flags: int) -> None:
        if len(self._outcomes) == self.size:
            oldest = self._outcomes.popleft()
            self._failures -= oldest & _FAILED
            self._slow -= (oldest & _SLOW) >> 1
        self._outcomes.append(flags)
        self._failures += flags & _FAILED
        self._slow += (flags & _SLOW) >> 1


class TimeWindow:
    """The outcomes of the last `window_ns` nanoseconds, kept in 5 to 60 buckets.

    Buckets lie on whole multiples of their width (one second for windows of 5 to 60 s),
    and an outcome leaves with its bucket: it is counted for at most `window_ns`, and for
    at least that less one bucket.
    """

    __slots__ = (
        "_buckets",
        "_calls",
        "_failures",
        "_slots",
        "_slow",
        "_width",
        "min_calls",
        "size",
    )

    def __init__(self, window_ns: int, min_calls: int) -> None:
        self.size = window_ns
        self.min_calls = min_calls
        self._slots = min(_MOST_BUCKETS, max(_FEWEST_BUCKETS, window_ns // _SECOND))
        self._width = max(1, window_ns // self._slots)
        self._buckets: deque[list[int]] = deque()
        self._calls = 0
        self._failures = 0
        self._slow = 0

    @property
    def shape(self) -> tuple[str, int, int]:
        """Kind, length in nanoseconds, fewest calls for a rate: windows of one shape are alike."""
        return ("time", self.size, self.min_calls)

    def add(self, now: int, failed: bool, slow: bool) -> None:
        """Count one outcome at `now` (nanoseconds, never before the previous one's)."""
        self._expire(now)
        self._pour(now // self._width, 1, int(failed), int(slow))

    def counts(self, now: int) -> Counts:
        """What is still counted at `now`."""
        self._expire(now)
        return Counts(self._calls, self._failures, self._slow)

    def row(self) -> list[Any]:
        """The window as plain values, for `window_from_row`."""
        return [*self.shape, [list(bucket) for bucket in self._buckets]]

    def refill(self, stored: list[list[int]], width: int | None = None) -> None:
        """Count the buckets of a row's last field; `width`: theirs, if it is another."""
        for index, calls, failures, slow in stored:
            here = index if width is None else index * width // self._width
            self._pour(here, calls, failures, slow)

    def take_over(self, other: "TimeWindow") -> None:
        """Count what a window of another length counted, each bucket by its start."""
        self.refill(list(other._buckets), other._width)

    def _pour(self, index: int, calls: int, failures: int, slow: int) -> None:
        if not self._buckets or self._buckets[-1][0] != index:
            self._buckets.append([index, 0, 0, 0])
        bucket = self._buckets[-1]
        bucket[1] += calls
        bucket[2] += failures
        bucket[3] += slow
        self._calls += calls
        self._failures += failures
        self._slow += slow

    def _expire(self, now: int) -> None:
        oldest = now // self._width - self._slots + 1
        while self._buckets and self._buckets[0][0] < oldest:
            _, calls, failures, slow = self._buckets.popleft()
            self._calls -= calls
            self._failures -= failures
            self._slow -= slow


OutcomeWindow = CountWindow | TimeWindow


def window_from_row(row: list[Any]) -> OutcomeWindow:
    """Rebuild a window from what its `row()` gave (lists for tuples are fine)."""
    kind, size, min_calls, stored = row
    window = CountWindow(size, min_calls) if kind == "count" else TimeWindow(size, min_calls)
    window.refill(stored)
    return window


def carry_over(old: OutcomeWindow, new: OutcomeWindow) -> OutcomeWindow:
    """Fill an empty window of another shape with what the old one counted, and return it.

    Counts do not tell times and times do not tell order, so a window of the other kind
    starts empty.
    """
    if isinstance(old, TimeWindow) and isinstance(new, TimeWindow):
        new.take_over(old)
    elif isinstance(old, CountWindow) and isinstance(new, CountWindow):
        new.refill(old.row()[-1])
    return new
