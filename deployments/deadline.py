"""One deadline over many short waits."""

import asyncio
from types import TracebackType


class Deadline:
    """What `asyncio.timeout_at` does, for a loop that waits thousands of times.

    One timer stands for all of its waits, each of which is a `with` block; a timer of its own for
    each shows in profiles of streams.

    at: on the event loop's clock. A wait that is under way then ends with TimeoutError, as does
    every later one. Call `close` when there is nothing more to wait for.
    """

    __slots__ = ("_at", "_before", "_cut", "_passed", "_task", "_timer")

    def __init__(self, at: float) -> None:
        self._at = at
        self._timer: asyncio.TimerHandle | None = None
        self._passed = False
        self._task: asyncio.Task[object] | None = None
        self._before = 0
        self._cut = False

    def __enter__(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._at, self._pass)
        if self._passed:
            raise TimeoutError
        self._task = task = asyncio.current_task()
        assert task is not None
        self._before = task.cancelling()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if self._cut and task is not None:
            self._cut = False
            # Somebody else's cancellation stays one.
            if task.uncancel() <= self._before and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def close(self) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _pass(self) -> None:
        self._passed = True
        if self._task is not None:
            self._cut = True
            self._task.cancel()
