"""A host's right to answer: good for some seconds after it was last seen to be in charge.

A process may sleep (it was stopped, its machine was) and wake up in a world in which another
one has taken its place. So what it says is held back until it has looked: a successor on
another node waits for as long as a look is good for before it says its first word.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

GOOD_FOR_S = 4.0
"""After a look, counted from its beginning."""

_EVERY_S = 1.0

Act = Callable[[], None]

log = logging.getLogger(__name__)


def _now_s() -> float:
    # The monotonic clock stands still while a machine sleeps; this one does not.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if _BOOTTIME else time.monotonic()


_BOOTTIME = hasattr(time, "CLOCK_BOOTTIME")


class Tenure:
    """See the module's docstring.

    look: whether this host is still in charge; blocks. on_over: called once it is not.
    """

    def __init__(self, look: Callable[[], bool], on_over: Act) -> None:
        self._look = look
        self._on_over = on_over
        self._seen_s = float("-inf")
        self._held: deque[Act] = deque()

    def when_held(self, act: Act) -> None:
        """Do this now, or as soon as this host is known to be in charge."""
        if _now_s() - self._seen_s < GOOD_FOR_S:
            act()
        else:
            self._held.append(act)

    async def run(self) -> None:
        """Look again and again, until it is over."""
        while True:
            asked_s = _now_s()
            try:
                in_charge = await asyncio.to_thread(self._look)
            except Exception as error:
                log.warning("nobody tells whether this host is still in charge: %s", error)
            else:
                if not in_charge:
                    self._on_over()
                    return
                self._seen_s = asked_s
                while self._held:
                    self._held.popleft()()
            await asyncio.sleep(_EVERY_S)
