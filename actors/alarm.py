"""One call back, at the time that was set last."""

import asyncio
from collections.abc import Callable

# An event loop's own clock ticks in milliseconds, and who is always due must leave the loop to
# others.
_SHORTEST_SLEEP_S = 0.001
_LONGEST_SLEEP_S = 60.0


class Alarm:
    """ring: what is called, on the event loop on which the alarm was set."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def set(self, delay_s: float | None) -> None:
        """Ring so much later, in place of any time set before; None: not at all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay_s is not None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def at(self, due_ns: int | None, now_ns: int) -> None:
        """Ring when a clock that reads `now_ns` reads this, or in a minute; None: not at all."""
        # A wall clock may be set; a long sleep must not trust it.
        late = None if due_ns is None else min((due_ns - now_ns) / 1e9, _LONGEST_SLEEP_S)
        self.set(None if late is None else max(_SHORTEST_SLEEP_S, late))

    def left_s(self) -> float | None:
        """Seconds until it rings; None: it will not."""
        if self._timer is None:
            return None
        return self._timer.when() - asyncio.get_running_loop().time()

    def close(self) -> None:
        """Never ring again, whatever is set."""
        self._closed = True
        self.set(None)
