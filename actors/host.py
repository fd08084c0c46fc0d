"""The one actor class: runs batches, commits, replies, and serves watches.

Nothing here knows Ray: the registry turns `Host` into an actor, and the in-process
transport calls it directly.
"""

import logging
import os
import pickle
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from actors import batch_run, callers, incarnation, storage_trouble, watchers, wire
from actors.alarm import Alarm
from actors.errors import RaygateError
from actors.host_commands import HostCommands, commands_of
from actors.host_tables import HOST_TABLES
from actors.incarnation import Incarnation
from actors.life import SILENCE_NS, Lives, Undertaker
from actors.mechanism import Changes, Gone, Row, mechanism_of
from actors.replies import OutOfStep, Reply
from actors.storage_trouble import StorageTrouble, patiently, unwritable
from actors.store import Store, StoreError
from actors.upkeep import Upkeep
from actors.watchers import Watchers

VIEW_NS = 2_000_000_000
"""How long a view is good for, from the sending of the watch that brought it."""

# Three returns within a view's life: it stays good while one of them is late.
_PATIENCE_S = VIEW_NS / 3e9
_RELOAD_PAUSE_S = 0.2

log = logging.getLogger(__name__)

_Item = tuple[str, tuple[Any, ...]]


class Host:
    """One singleton.

    factory: `module:Class` of its mechanism.
    path: its database.
    claim: names the right to run here; a new one begins a new epoch.
    undertaker: looks after owners that are silent for `silence_ns`; see `Lives`.
    least_epoch: its epoch is not lower than this.

    store: its rows on disk. protection: tells what protects them beside that, in words.
    """

    def __init__(
        self,
        factory: str,
        path: str,
        claim: str,
        undertaker: Undertaker | None = None,
        silence_ns: int = SILENCE_NS,
        least_epoch: int = 1,
    ) -> None:
        self._factory = factory
        self._mechanism = mechanism_of(factory)
        self._readers = wire.readers(type(self._mechanism))
        tables = {**self._mechanism.TABLES, **HOST_TABLES}
        self.store = patiently(lambda: Store(Path(path), tables, self._mechanism.DURABLE))
        self.protection: Callable[[], str] = lambda: ""
        self._alarm = Alarm(self.tick)
        self._watchers = Watchers()
        self._callers = callers.Callers()
        self._lives = Lives(undertaker, lambda: self._mechanism.owners(), silence_ns)
        self._trouble = StorageTrouble(self._mechanism.NAME)
        self._awake = self._closed = False
        self._batches = self._ran = 0
        rows = self._reload()
        self._now = Incarnation(rows, claim, self._mechanism.CLOCK, least_epoch)
        self._clock = self._now.clock
        self._upkeep = Upkeep(self.store, lambda: self._mechanism, self._clock.now)
        patiently(lambda: self._commit(self._now.rows(), self._clock.now()))

    # The two verbs.

    def consult(self, payload: bytes) -> bytes:
        """Run a batch, atomic among all batches: `wire.pack_batch` → `wire.pack_reply`."""
        self._get_up()
        caller, number, items = wire.unpack_batch(payload, self._readers)
        self._lives.heard(caller)
        replies = self._batch(caller, number, items)
        return wire.pack_reply(Reply(*self._now.number, replies))

    async def watch(self, payload: bytes) -> bytes:
        """Park until something changed: `(caller, incarnation, cursor)` → `News`, pickled.

        Returns after a third of a view's life at the latest.
        """
        self._get_up()
        caller, theirs, cursor = pickle.loads(payload)
        self._lives.heard(caller)
        news = await self._watchers.news(
            caller, self._now.number, theirs, cursor, _PATIENCE_S, self._view
        )
        return pickle.dumps(news, 5)

    def info(self) -> dict[str, Any]:
        """Epoch, restarts, process; batches and commands since its start; see `Lives.status`."""
        return {
            "epoch": self._now.epoch,
            "restarts": self._now.restarts,
            "pid": os.getpid(),
            "batches": self._batches,
            "commands": self._ran,
            **self._lives.status(),
            "storage": self._trouble.word(),
        }

    def lived(self, mark: tuple[str, int]) -> bool:
        """See `Incarnation.lived`."""
        return self._now.lived(mark)

    def close(self) -> None:
        """Stop the timers and let go of the store; whoever calls later gets a StoreError."""
        self._closed = True
        self._lives.close()
        self._upkeep.close()
        self._alarm.close()
        self.store.close()

    def _get_up(self) -> None:
        """Start the timer with the first call: a constructor has no event loop."""
        if self._closed:
            raise StoreError(f"the host of {self._factory} is closed")
        if not self._awake:
            self._awake = True
            if self._now.earlier:
                # Who watched its earlier life, perhaps until now, may trust those views so long.
                self._watchers.settle(VIEW_NS)
            self._lives.start()
            self._upkeep.start()
            self.tick()

    def _reload(self) -> list[Row]:
        """Take everything from the store: at the start, and after what failed half-way.

        While this fails, memory can't be trusted, and nothing is served from it.
        """
        self._sound = False
        rows = self.store.load()
        self._callers.load(rows)
        self._lives.load(rows)
        self._mechanism = mechanism_of(self._factory)
        self._mechanism.load(row for row in rows if row.table not in HOST_TABLES)
        self._mechanism.restored(self.store.head())
        self._due: int | None = 0
        self._own = HostCommands(
            self._mechanism, self.store, self._callers, self._lives, self._trouble,
            lambda: self.protection(), VIEW_NS,
        )  # fmt: skip
        self._command = commands_of(self._mechanism, self._own)
        self._asked_again = self._own.TRANSIENT | self._mechanism.REPEATABLE
        self._checked: list[Changes] = []
        self._watchers.reread(self._mechanism.view_keys(), rows)
        self._sound = True
        return rows

    def _distrust(self) -> None:
        """Something failed half-way: have memory read anew before it is used again."""
        self._sound, self._due = False, 0
        self._wake()

    def _batch(self, caller: str, number: int, items: list[_Item]) -> list[Any] | OutOfStep:
        try:
            if not self._sound:
                self._reload()
            now = self._clock.now()
            known = self._callers.answer(caller, number, now)
            if known is not None:
                return known
            if self._trouble.lasts:
                return self._read_only(now, caller, number, items)
            try:
                replies = self._attempt(now, caller, number, items)
            except (sqlite3.Error, OSError):
                raise
            except Exception:
                log.exception("%s: a batch can't be stored; now each by itself", self._factory)
                self._reload()
                replies = self._attempt(now, caller, number, items, careful=True)
        except Exception as error:
            if unwritable(error) and not self._trouble.lasts:
                self._trouble.begins(error)
                self._distrust()
                # Perhaps it is stored after all, and its replies with it; else it is refused.
                return self._batch(caller, number, items)
            log.exception("%s: a batch failed; state is read anew", self._factory)
            self._distrust()
            raise
        self._batches += 1
        self._ran += len(items)
        self._callers.remember(caller, callers.Batch(number, now, replies))
        return replies

    def _attempt(
        self, now: int, caller: str, number: int, items: list[_Item], careful: bool = False
    ) -> list[Any]:
        replies = self._run(now, caller, items, careful)
        gone, again, keep = Gone(), self._asked_again, self._mechanism.keep
        kept = [
            gone if command in again else keep(reply)
            for (command, _), reply in zip(items, replies, strict=True)
        ]
        self._finish(now, [callers.row(caller, number, now, kept)], caller)
        return replies

    def _read_only(self, now: int, caller: str, number: int, items: list[_Item]) -> list[Any]:
        """Answer what changes nothing, refuse the rest, and have it remembered here only."""
        replies = self._run(now, caller, items, careful=False)
        changes = self._mechanism.take_changes()
        if changes.rows or changes.results:
            # Of what time has brought: it waits for the next commit.
            self._checked.append(changes)
        else:
            self._watchers.tell([], [changes], self._own.take_barriers(), VIEW_NS)
        self._callers.remember(caller, callers.Batch(number, now, replies), refused=True)
        return replies

    def _run(self, now: int, caller: str, items: list[_Item], careful: bool) -> list[Any]:
        """The replies; a command that breaks is left out, and undone by reading state anew.

        careful: find the commands whose rows or reply can't be stored, and leave them out.
        """
        broken: dict[int, RaygateError] = {}
        check = self._check if careful else None
        while True:
            if self._due is not None and self._due <= now and not self._trouble.lasts:
                self._due = self._mechanism.advance(now)
            one = partial(self._command, now, caller)
            replies = batch_run.run(self._mechanism.NAME, items, one, check, broken)
            if replies is not None:
                return replies
            self._reload()

    def _check(self, reply: Any) -> None:
        """Raise what storing this reply, and the changes since the last check, would raise."""
        changes = self._mechanism.take_changes()
        for row in changes.rows:
            self.store.check(row)
        pickle.dumps((reply, changes.results), 5)
        self._checked.append(changes)

    def _finish(self, now: int, rows: list[Row], caller: str = "") -> None:
        """Advance, commit what changed, and only then let anybody see it."""
        self._due = self._mechanism.advance(now)
        every = [*self._checked, self._mechanism.take_changes()]
        results = [result for changes in every for result in changes.results]
        rows += [row for changes in every for row in changes.rows]
        # An id may come again: first what is over with, then what is new.
        rows += self._watchers.take_acknowledged()
        rows += [watchers.row(one, self._mechanism.keep(one.reply)) for one in results]
        rows += self._callers.forget(now, caller)
        rows += self._lives.take_rows()
        if rows:
            self._commit(rows, now)
        self._checked = []
        self._watchers.tell(results, every, self._own.take_barriers(), VIEW_NS)
        self._wake()

    def _commit(self, rows: list[Row], now: int) -> None:
        rows += (Row(incarnation.TABLE, "now", now), self._now.mark())
        self.store.commit(rows, self._mechanism.head())

    def _wake(self) -> None:
        """Have the alarm call `tick` when the mechanism wants it."""
        if self._trouble.lasts:
            self._alarm.set(storage_trouble.PAUSE_S)
        elif not self._sound:
            self._alarm.set(_RELOAD_PAUSE_S)
        else:
            self._alarm.at(self._due, self._clock.now())

    def tick(self) -> None:
        """Do what time brings."""
        try:
            if not self._sound:
                self._reload()
            if self._trouble.lasts and not self._trouble.over(self.store):
                self._wake()
                return
            self._finish(self._clock.now(), [])
        except Exception as error:
            if unwritable(error):
                self._trouble.begins(error)
            else:
                log.exception("%s: time's work failed; state is read anew", self._factory)
            self._distrust()

    def _view(self, key: str) -> Any:
        if not self._sound:
            self._reload()
        return self._mechanism.view(key, self._clock.now())
