"""The one actor class: runs batches, commits, replies, and serves watches.

Nothing here knows Ray: the registry turns `Host` into an actor, and the in-process
transport calls it directly.
"""

import asyncio
import importlib
import logging
import os
import pickle
import time
from pathlib import Path
from typing import Any, NamedTuple

from actors.clock import restored
from actors.errors import InvalidRequest, RaygateError
from actors.mechanism import Gone, Mechanism, Pending, Row
from actors.store import Store
from actors.watchers import Watchers

VIEW_NS = 2_000_000_000
"""How long a view is good for, from the sending of the watch that brought it."""

_HOST_TABLES = {"_meta": "live", "_callers": "live", "_results": "live"}
_MAX_CALLERS = 20_000
_CALLER_MEMORY_NS = 48 * 3600 * 1_000_000_000
_DURATIONS = ("retry_after_ns", "wait_ns", "resets_in_ns", "reset_ns")

log = logging.getLogger(__name__)


_Item = tuple[str, tuple[Any, ...]]


class OutOfStep(NamedTuple):
    """The reply to a batch that is neither the caller's last nor its next: start anew."""

    number: int


class Reply(NamedTuple):
    """epoch: of the host's claim; restarts: of its process since; replies: one per item."""

    epoch: int
    restarts: int
    replies: list[Any] | OutOfStep


class _Caller(NamedTuple):
    number: int
    at_ns: int
    replies: list[Any]


def mechanism_of(factory: str) -> Mechanism:
    """The mechanism that `module:Class` names."""
    module, _, name = factory.partition(":")
    made: Mechanism = getattr(importlib.import_module(module), name)()
    return made


class Host:
    """One singleton.

    factory: `module:Class` of its mechanism.
    path: its database.
    claim: names the right to run here; a new one begins a new epoch.
    """

    def __init__(self, factory: str, path: str, claim: str) -> None:
        self._factory = factory
        self._mechanism = mechanism_of(factory)
        self._store = Store(
            Path(path), {**self._mechanism.TABLES, **_HOST_TABLES}, self._mechanism.DURABLE
        )
        self._timer: asyncio.TimerHandle | None = None
        self._watchers = Watchers()
        self._awake = False
        for caller, id, reply in self._load():
            self._watchers.answer(caller, id, reply)
        same = self._meta.get("claim") == claim
        self._epoch = self._meta.get("epoch", 0) + (0 if same else 1)
        self._restarts = self._meta.get("restarts", -1) + 1 if same else 0
        clock = self._clock
        self._meta |= {"claim": claim, "epoch": self._epoch, "restarts": self._restarts}
        self._meta |= {"boot": clock.boot, "offset_ns": clock.offset_ns}
        self._commit([Row("_meta", key, value) for key, value in self._meta.items()], clock.now())

    # The two verbs.

    async def consult(self, payload: bytes) -> bytes:
        """Run a batch: `(caller, number, ((command, args), ...))` → `Reply`, both pickled.

        Runs without an await, so that the batch is atomic among all batches.
        """
        self._get_up()
        caller, number, items = pickle.loads(payload)
        replies = self._batch(caller, number, items)
        return pickle.dumps(Reply(self._epoch, self._restarts, replies), 5)

    async def watch(self, payload: bytes) -> bytes:
        """Park until something changed: `(caller, incarnation, cursor)` → `News`, pickled.

        Returns after half a view's life at the latest.
        """
        self._get_up()
        caller, incarnation, cursor = pickle.loads(payload)
        news = await self._watchers.news(
            caller, (self._epoch, self._restarts), incarnation, cursor, VIEW_NS / 2e9, self._view
        )
        return pickle.dumps(news, 5)

    def info(self) -> dict[str, Any]:
        """Epoch, restarts and process of this host."""
        return {"epoch": self._epoch, "restarts": self._restarts, "pid": os.getpid()}

    def close(self) -> None:
        """Stop the timer and let go of the store (in-process hosts, and retirement)."""
        if self._timer is not None:
            self._timer.cancel()
        self._store.close()

    # Inside.

    def _get_up(self) -> None:
        """Start the timer with the first call: a constructor has no event loop."""
        if not self._awake:
            self._awake = True
            self.tick()

    def _load(self) -> list[tuple[str, str, Any]]:
        """Take everything from the store: at the start, and after a commit that failed.

        Returns the results that nobody has acknowledged.
        """
        rows = self._store.load()
        self._meta = {row.key: row.value for row in rows if row.table == "_meta"}
        self._callers = {
            row.key: _Caller(row.value[0], row.value[1], pickle.loads(row.value[2]))
            for row in rows
            if row.table == "_callers"
        }
        meta = self._meta
        self._clock = restored(
            self._mechanism.CLOCK,
            meta.get("boot", ""),
            meta.get("offset_ns", 0),
            meta.get("now", 0),
        )
        self._mechanism = mechanism_of(self._factory)
        self._mechanism.load(row for row in rows if row.table not in _HOST_TABLES)
        self._mechanism.restored(self._store.head())
        self._watchers.changed(self._mechanism.view_keys())
        self._due: int | None = None
        results = (row for row in rows if row.table == "_results")
        return [(*row.key.split("|", 1), pickle.loads(row.value)) for row in results]

    def _batch(self, caller: str, number: int, items: list[_Item]) -> list[Any] | OutOfStep:
        now = self._clock.now()
        last = self._callers.get(caller)
        if last is not None and number == last.number:
            return [aged(reply, now - last.at_ns) for reply in last.replies]
        if number != (last.number if last else 0) + 1:
            return OutOfStep(last.number if last else 0)
        try:
            replies = self._run(now, caller, items)
            kept = [self._mechanism.keep(reply) for reply in replies]
            row = Row("_callers", caller, (number, now, pickle.dumps(kept, 5)))
            self._finish(now, [row])
        except Exception:
            log.exception("%s: a batch failed; state is read anew", self._factory)
            self._load()
            self._wake()
            raise
        self._callers.pop(caller, None)
        self._callers[caller] = _Caller(number, now, replies)
        return replies

    def _run(self, now: int, caller: str, items: list[_Item]) -> list[Any]:
        """The replies; a command that breaks is left out, and undone by reading state anew."""
        broken: dict[int, RaygateError] = {}
        while True:
            if self._due is not None and self._due <= now:
                self._due = self._mechanism.advance(now)
            replies: list[Any] = []
            for index, (command, args) in enumerate(items):
                try:
                    replies.append(broken.get(index) or self._command(now, caller, command, args))
                except RaygateError as error:
                    replies.append(error)
                except Exception:
                    log.exception("%s: %s broke", self._factory, command)
                    broken[index] = RaygateError(f"{self._mechanism.NAME} failed at {command}")
                    self._load()
                    break
            else:
                return replies

    def _command(self, now: int, caller: str, command: str, args: tuple[Any, ...]) -> Any:
        if command in self._mechanism.COMMANDS:
            return getattr(self._mechanism, command)(now, caller, *args)
        if command == "rows":
            return self._store.page(*args)
        if command == "everywhere":
            return self._everywhere(caller, *args)
        raise InvalidRequest(f"{self._mechanism.NAME} has no command {command}")

    def _everywhere(self, caller: str, id: str) -> Pending:
        """Answer `id` when every watcher has seen all changes so far, or views have died."""
        self._watchers.barrier(caller, id, time.monotonic_ns() + VIEW_NS)
        asyncio.get_running_loop().call_later(VIEW_NS / 1e9, self._watchers.lift_barriers)
        return Pending(VIEW_NS)

    def _finish(self, now: int, rows: list[Row]) -> None:
        """Advance, commit what changed, and only then let anybody see it."""
        self._due = self._mechanism.advance(now)
        changes = self._mechanism.take_changes()
        rows += changes.rows
        for caller, id, reply in changes.results:
            kept = pickle.dumps(self._mechanism.keep(reply), 5)
            rows.append(Row("_results", f"{caller}|{id}", kept))
        rows += [Row("_results", key, None) for key in self._watchers.take_acknowledged()]
        rows += [Row("_callers", key, None) for key in self._forgotten(now)]
        self._commit(rows, now)
        for caller, id, reply in changes.results:
            self._watchers.answer(caller, id, reply)
        self._watchers.changed(changes.views)
        self._watchers.wake()
        self._wake()

    def _commit(self, rows: list[Row], now: int) -> None:
        rows.append(Row("_meta", "now", now))
        self._store.commit(rows, self._mechanism.head())

    def _forgotten(self, now: int) -> list[str]:
        """Callers that no deadline can bring back (callers are in order of their last batch)."""
        gone: list[str] = []
        for key, last in self._callers.items():
            spare = len(self._callers) - len(gone) - _MAX_CALLERS
            if spare <= 0 and now - last.at_ns < _CALLER_MEMORY_NS:
                break
            gone.append(key)
        for key in gone:
            del self._callers[key]
        return gone

    def _wake(self) -> None:
        """Have the timer call `tick` when the mechanism wants it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due is None:
            return
        delay_s = max(0.0, (self._due - self._clock.now()) / 1e9)
        # A wall clock may be set; a long sleep must not trust it.
        self._timer = asyncio.get_running_loop().call_later(min(delay_s, 60.0), self.tick)

    def tick(self) -> None:
        """Do what time brings."""
        try:
            self._finish(self._clock.now(), [])
        except Exception:
            log.exception("%s: time's work failed; state is read anew", self._factory)
            self._load()
            self._timer = asyncio.get_running_loop().call_later(0.1, self.tick)

    def _view(self, key: str) -> Any:
        return self._mechanism.view(key, self._clock.now())


def aged(reply: Any, by_ns: int) -> Any:
    """A stored reply as it reads `by_ns` later: its durations are that much shorter."""
    fields = getattr(reply, "_fields", ())
    shorter = {
        name: max(0, getattr(reply, name) - by_ns)
        for name in _DURATIONS
        if name in fields and getattr(reply, name) is not None
    }
    return reply._replace(**shorter) if shorter else reply


__all__ = ["VIEW_NS", "Gone", "Host", "OutOfStep", "Reply", "aged"]
