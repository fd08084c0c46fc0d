"""One call back, at the time that was set last."""

import asyncio
from collections.abc import Callable


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

    def left_s(self) -> float | None:
        """Seconds until it rings; None: it will not."""
        if self._timer is None:
            return None
        return self._timer.when() - asyncio.get_running_loop().time()

    def close(self) -> None:
        """Never ring again, whatever is set."""
        self._closed = True
        self.set(None)
