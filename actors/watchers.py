"""Who is told what: view entries for all, results for those who asked, barriers."""

import asyncio
import pickle
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from actors.mechanism import Changes, Result, Row

TABLE = "_results"

_QUIET_NS = 4_000_000_000
_FORGOTTEN_NS = 900_000_000_000
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
    """One process that watches. cursor: everything before it has arrived there.

    heard_ns: when it asked last, or when the first result came up for one that never did.
    asks: whether it ever asked. shown: view entries that it alone is to have, by key, until
    they have arrived.
    """

    __slots__ = ("asks", "cursor", "heard_ns", "results", "shown", "wake")

    def __init__(self) -> None:
        self.cursor = 0
        self.heard_ns = time.monotonic_ns()
        self.asks = False
        self.results: deque[tuple[int, str, Any]] = deque()
        self.shown: dict[str, int] = {}
        self.wake: asyncio.Event | None = None


class Watchers:
    """The watching half of a host. Sequence numbers count what there is to tell."""

    def __init__(self) -> None:
        # A cursor of 0 knows nothing yet; one that knows of nothing yet is another thing.
        self._sequence = 1
        self._settled_ns = 0
        self._changed: OrderedDict[str, int] = OrderedDict()
        self._watchers: dict[str, _Watcher] = {}
        self._barriers: list[tuple[str, str, int, int]] = []
        self._acknowledged: list[str] = []
        self._woken: set[str] = set()

    def tell(
        self,
        results: Iterable[Result],
        every: Iterable[Changes],
        barriers: Iterable[tuple[str, str]],
        view_ns: int,
    ) -> None:
        """Let everybody see what a batch has changed; it is stored.

        results: of all of `every`. barriers: (caller, id), see `barrier`.
        """
        for caller, id, reply in results:
            self.answer(caller, id, reply)
        for changes in every:
            self.changed(changes.views)
            for caller, key in changes.shown:
                self.show(caller, key)
        for caller, id in barriers:
            self.barrier(caller, id, view_ns)
        self.lift_barriers()

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
        before = self._sequence
        for key in keys:
            self._sequence += 1
            self._changed[key] = self._sequence
            self._changed.move_to_end(key)
        if self._sequence > before:
            self._woken.update(self._watchers)

    def show(self, caller: str, key: str) -> None:
        """One caller is to have a view entry, if it watches."""
        watcher = self._watchers.get(caller)
        if watcher is not None and watcher.asks:
            self._sequence += 1
            watcher.shown[key] = self._sequence
            self._woken.add(caller)

    def reread(self, keys: Iterable[str], rows: Iterable[Row]) -> None:
        """State was read from the store: tell what may not have been told.

        keys: of all view entries; rows: of the store, the results among them.
        """
        told = {f"{name}|{id}" for name, one in self._watchers.items() for _, id, _ in one.results}
        told.update(self._acknowledged)
        for table, key, value in rows:
            if table == TABLE and key not in told:
                caller, _, id = key.partition("|")
                self.answer(caller, id, pickle.loads(value))
        # What was shown and is gone now has to be looked at as well.
        self.changed({*self._changed, *keys})
        self.wake()

    def settle(self, view_ns: int) -> None:
        """For so long there may be views out there that nobody here has shown."""
        self._settled_ns = time.monotonic_ns() + view_ns

    def wake(self) -> None:
        """Let the parked watches that have something to hear return."""
        for caller in self._woken:
            watcher = self._watchers.get(caller)
            if watcher is not None and watcher.wake is not None:
                watcher.wake.set()
        self._woken = set()

    def barrier(self, caller: str, id: str, view_ns: int) -> None:
        """Answer `id` with True once every live watcher has asked from a cursor not before now.

        view_ns: how long anybody trusts a view; after that it is answered in any case.
        """
        until_ns = time.monotonic_ns() + view_ns
        self._barriers.append((caller, id, self._sequence, until_ns))
        asyncio.get_running_loop().call_later(view_ns / 1e9, self.lift_barriers)

    def lift_barriers(self) -> None:
        """Answer the barriers that hold no longer, and wake whoever has something to hear."""
        if self._barriers:
            now = time.monotonic_ns()
            live = (w for w in self._watchers.values() if w.asks and now - w.heard_ns < _QUIET_NS)
            seen = min((w.cursor for w in live), default=self._sequence)
            if now < self._settled_ns:
                seen = 0
            barriers, self._barriers = self._barriers, []
            for caller, id, sequence, until_ns in barriers:
                if sequence <= seen or until_ns <= now:
                    self.answer(caller, id, True)
                else:
                    self._barriers.append((caller, id, sequence, until_ns))
        self.wake()

    def take_acknowledged(self) -> list[Row]:
        """Rows of results that have arrived, to be forgotten on disk as well."""
        taken, self._acknowledged = self._acknowledged, []
        return [Row(TABLE, key, None) for key in taken]

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
        self._forget_quiet(caller)
        watcher = self._watchers.setdefault(caller, _Watcher())
        if theirs != mine or not watcher.asks:
            cursor = 0
        watcher.cursor, watcher.heard_ns, watcher.asks = cursor, time.monotonic_ns(), True
        self._acknowledge(caller, watcher)
        self.lift_barriers()
        if cursor == self._sequence:
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
        views += [(key, view(key)) for key in watcher.shown]
        if cursor == 0:
            self._drop_gone([key for key, value in views if value is None], caller)
            views = [entry for entry in views if entry[1] is not None]
        results = [(id, reply) for _, id, reply in watcher.results]
        return News(mine, self._sequence, results, views, snapshot=cursor == 0)

    def _acknowledge(self, caller: str, watcher: _Watcher) -> None:
        """Forget what has arrived at a watcher."""
        if watcher.shown:
            came = watcher.cursor
            watcher.shown = {key: place for key, place in watcher.shown.items() if place > came}
        arrived: list[str] = []
        while watcher.results and watcher.results[0][0] <= watcher.cursor:
            arrived.append(watcher.results.popleft()[1])
        if arrived:
            # A recall may come twice under one id; the row is then the second one's.
            under_way = {id for _, id, _ in watcher.results}
            self._acknowledged += [f"{caller}|{id}" for id in arrived if id not in under_way]

    def _drop_gone(self, keys: list[str], but: str) -> None:
        """Forget entries of which all others know that they are gone; `but` gets a snapshot."""
        others = (one.cursor for caller, one in self._watchers.items() if caller != but)
        told = min(others, default=self._sequence)
        for key in keys:
            if self._changed.get(key, told + 1) <= told:
                del self._changed[key]

    def _forget_quiet(self, but: str) -> None:
        """Drop watchers that have not asked for long: their process is gone."""
        horizon = time.monotonic_ns() - _FORGOTTEN_NS
        for caller, watcher in list(self._watchers.items()):
            if caller != but and watcher.heard_ns < horizon:
                self._acknowledged += [f"{caller}|{id}" for _, id, _ in watcher.results]
                del self._watchers[caller]


def row(result: Result, kept: Any) -> Row:
    """The row of a late result. kept: what of its reply may be stored."""
    return Row(TABLE, f"{result.caller}|{result.id}", pickle.dumps(kept, 5))
