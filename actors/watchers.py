"""Who is told what: view entries for all, results for those who asked, barriers."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

_QUIET_NS = 4_000_000_000
_MAX_RESULTS_PER_CALLER = 50_000


class News(NamedTuple):
    """The reply to a watch.

    incarnation: (epoch, restarts) of the host; cursor: send it next time.
    results: (id, reply) pairs that this caller has not acknowledged yet.
    views: (key, value) of entries that changed since the cursor, None for one that is gone.
    snapshot: `views` is all there is; what is not in it does not exist.
    """

    incarnation: tuple[int, int]
    cursor: int
    results: list[tuple[str, Any]]
    views: list[tuple[str, Any]]
    snapshot: bool


class _Watcher:
    """One process that watches. cursor: everything before it has arrived there."""

    __slots__ = ("asked_ns", "cursor", "results", "wake")

    def __init__(self) -> None:
        self.cursor = 0
        self.asked_ns = 0
        self.results: deque[tuple[int, str, Any]] = deque()
        self.wake: asyncio.Event | None = None


class Watchers:
    """The watching half of a host. Sequence numbers count what there is to tell."""

    def __init__(self) -> None:
        self._sequence = 0
        self._changed: OrderedDict[str, int] = OrderedDict()
        self._watchers: dict[str, _Watcher] = {}
        self._barriers: list[tuple[str, str, int, int]] = []
        self._acknowledged: list[str] = []
        self._woken: set[str] = set()

    def answer(self, caller: str, id: str, reply: Any) -> None:
        """Queue a late reply for one caller."""
        self._sequence += 1
        watcher = self._watchers.setdefault(caller, _Watcher())
        watcher.results.append((self._sequence, id, reply))
        if len(watcher.results) > _MAX_RESULTS_PER_CALLER:
            self._acknowledged.append(f"{caller}|{watcher.results.popleft()[1]}")
        self._woken.add(caller)

    def changed(self, keys: Iterable[str]) -> None:
        """View entries are different now."""
        for key in keys:
            self._sequence += 1
            self._changed[key] = self._sequence
            self._changed.move_to_end(key)
            self._woken = set(self._watchers)

    def wake(self) -> None:
        """Let the parked watches that have something to hear return."""
        for caller in self._woken:
            event = self._watchers[caller].wake
            if event is not None:
                event.set()
        self._woken = set()

    def barrier(self, caller: str, id: str, until_ns: int) -> None:
        """Answer `id` once every live watcher has asked from a cursor not before now."""
        self._barriers.append((caller, id, self._sequence, until_ns))

    def lift_barriers(self) -> None:
        """Answer the barriers that hold no longer, and wake those who wait for them."""
        now = time.monotonic_ns()
        live = [w.cursor for w in self._watchers.values() if now - w.asked_ns < _QUIET_NS]
        seen = min(live, default=self._sequence)
        standing = []
        lifted = []
        for barrier in self._barriers:
            (lifted if barrier[2] <= seen or barrier[3] <= now else standing).append(barrier)
        self._barriers = standing
        for caller, id, _, _ in lifted:
            self.answer(caller, id, True)
        self.wake()

    def take_acknowledged(self) -> list[str]:
        """Keys `caller|id` of results that have arrived, to be forgotten on disk as well."""
        taken, self._acknowledged = self._acknowledged, []
        return taken

    async def news(
        self,
        caller: str,
        mine: tuple[int, int],
        theirs: tuple[int, int],
        cursor: int,
        patience_s: float,
        view: Callable[[str], Any],
    ) -> News:
        """What changed since `cursor` (of incarnation `theirs`), at once or when it does."""
        if theirs != mine:
            cursor = 0
        self._forget_quiet(caller)
        watcher = self._watchers.setdefault(caller, _Watcher())
        watcher.cursor, watcher.asked_ns = cursor, time.monotonic_ns()
        while watcher.results and watcher.results[0][0] <= cursor:
            self._acknowledged.append(f"{caller}|{watcher.results.popleft()[1]}")
        if self._barriers:
            self.lift_barriers()
        if cursor == self._sequence and theirs == mine:
            if watcher.wake is not None:
                watcher.wake.set()
            watcher.wake = woken = asyncio.Event()
            try:
                await asyncio.wait_for(woken.wait(), patience_s)
            except TimeoutError:
                pass
            watcher.wake = None if watcher.wake is woken else watcher.wake
        views: list[tuple[str, Any]] = []
        for key, sequence in reversed(self._changed.items()):
            if sequence <= cursor:
                break
            views.append((key, view(key)))
        results = [(id, reply) for _, id, reply in watcher.results]
        return News(mine, self._sequence, results, views, snapshot=cursor == 0)

    def _forget_quiet(self, but: str) -> None:
        """Drop watchers that have not asked for long: their process is gone."""
        horizon = time.monotonic_ns() - 900_000_000_000
        for caller, watcher in list(self._watchers.items()):
            if caller != but and 0 < watcher.asked_ns < horizon:
                self._acknowledged += [f"{caller}|{id}" for _, id, _ in watcher.results]
                del self._watchers[caller]
