"""How much this replica takes on: requests in progress, bytes of their bodies, its loop's lag.

Asked before a request's body is read, so that to refuse costs next to nothing. Where there is no
room for all, low priority goes first and high last. What a provider can do is another matter:
see `target_gate.py`.
"""

import random
from collections import deque
from collections.abc import Callable

TICK_S = 0.05
"""`Front.tick` is to be called so often."""

# Of what is allowed. A request's own word counts here: its key is not known yet, and whoever may
# not be high is told so when it is.
_SHARE = (1.0, 0.9, 0.8)
_LAG_TIMES = (2.0, 1.0, 0.4)
# One slow step of the loop is no lag, however slow it is.
_FOR_S = 0.25
# With fewer requests it is late for other reasons, and to refuse them would not help.
_CROWD = 100
_TICKS = 5
_AFTER_S = 2.0


class Front:
    """One replica's front door.

    most: requests at once; low priority may use 80 % of them, normal 90 %.
    lag_s: how late the event loop may be, for a quarter of a second on end, before requests
        of normal priority are refused: some, and all at twice as much. Low ones from 40 % of
        it on, high ones from twice as much. With fewer than a hundred requests, none.
    body_bytes: of all bodies that have been read or are being read.
    late_s: by how much the loop has been late all that time.
    """

    __slots__ = (
        "_body_bytes", "_dice", "_due", "_lag_s", "_lags", "_most", "bytes", "late_s", "requests",
    )  # fmt: skip

    def __init__(
        self,
        most: int,
        lag_s: float,
        body_bytes: int,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._most = most
        self._lag_s = lag_s
        self._body_bytes = body_bytes
        self._dice = dice
        self._due: float | None = None
        self._lags: deque[float] = deque([0.0] * _TICKS, maxlen=_TICKS)
        self.late_s = 0.0
        self.requests = 0
        self.bytes = 0

    @property
    def calm(self) -> bool:
        """Whether there is room for everybody, whatever their priority."""
        requests = self.requests
        if requests >= self._most * _SHARE[-1]:
            return False
        return requests < _CROWD or self.late_s <= self._lag_s * _LAG_TIMES[-1]

    def tick(self, now: float) -> None:
        """Time for this has come, `TICK_S` after the last one or later. now: seconds."""
        if self._due is not None:
            self._lags.appendleft(max(now - self._due, 0.0))
            self.late_s = self._late_s()
        self._due = now + TICK_S

    def _late_s(self) -> float:
        covered_s, least_s = 0.0, self._lags[0]
        for number, lag_s in enumerate(self._lags):
            least_s = min(least_s, lag_s)
            covered_s += TICK_S + lag_s
            if number > 0 and covered_s >= _FOR_S:
                break
        return least_s

    def refuses(self, priority: int) -> float | None:
        """None where a request may come in; else seconds after which to come back."""
        allowed_s = self._lag_s * _LAG_TIMES[priority]
        share = (self.late_s - allowed_s) / allowed_s if self.requests >= _CROWD else 0.0
        if self.requests < self._most * _SHARE[priority] and self._dice() >= share:
            return None
        return _AFTER_S * (0.5 + self._dice())

    def has_room(self, size: int) -> bool:
        """Whether so many more bytes of bodies may be held."""
        return self.bytes + size <= self._body_bytes
