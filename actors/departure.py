"""When the next batch leaves."""

import asyncio


class Departure:
    """A time that can be brought forward, and that somebody waits for."""

    __slots__ = ("_at", "_now", "_timer")

    def __init__(self) -> None:
        self._now = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def within(self, delay_s: float) -> None:
        """Have it come so soon, or sooner; 0: at once."""
        if delay_s <= 0.0 or self._now.is_set():
            self._now.set()
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + delay_s
        if self._timer is not None:
            if self._at <= at:
                return
            self._timer.cancel()
        self._timer, self._at = loop.call_at(at, self._now.set), at

    async def due(self) -> None:
        """Wait for it; afterwards there is no next one until it is set."""
        await self._now.wait()
        self._now.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
