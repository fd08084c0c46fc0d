"""The stores of a singleton's shards: made, given one clock, and dealt out anew.

With another number of shards a key may live on another host. What must not be forgotten moves
there before any of them starts: what was used of limits, and which idempotency keys were
used. Nobody holds anything at that time (the number changes only with a new home, when all
replicas have ended), so whatever still seems to be held ends as if its owner were dead: what
was lent or reserved counts as used. Tickets, leads and cached answers are gone.

The shards of one singleton are on one machine and share its steady clock, so that stamps of
different shards can be compared (`actors/spread_take.py`).
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from actors.clock import SteadyClock, boot_id
from actors.host_tables import HOST_TABLES
from actors.incarnation import TABLE as META
from actors.mechanism import Row, mechanism_of
from actors.rendezvous import shard_of
from actors.sharded import KINDS, shard_names
from actors.store import Store

# The file of a host that began where it is. A copy of one (`actors/terms.py`) has a number.
_OWN = re.compile(r"[a-z_]+(-\d+)?\.sqlite")

# Rows that move: to every shard, or to the one that has their key.
_EVERYWHERE = {"rate_limiter": ("policy",)}
_BY_KEY = {"rate_limiter": ("buckets",), "response_cache": ("repeats",)}


class _State(NamedTuple):
    """What a folder knows of a singleton's shards.

    shards: how many stores there are. boot: in which their common clock was set. moving: new
    stores are made, and not all of them are in their places.
    """

    shards: int = 1
    boot: str = ""
    moving: bool = False


def prepare(
    folder: Path, factory: str, names: Callable[[str], list[str]], file: str | None = None
) -> None:
    """See to it that a host can open its store in this folder.

    file: its database (None: that of its name); a copy was dealt where it was made.
    factory: `module:Class` of its mechanism. names: of all hosts of a singleton. For a
    singleton that has one host, and always had, there is nothing to do. Raises StoreError
    while a host of an earlier home still has its store.
    """
    mechanism = mechanism_of(factory)
    if mechanism.NAME not in KINDS or (file is not None and not _OWN.fullmatch(file)):
        return
    hosts = names(mechanism.NAME)
    state = folder / f"{mechanism.NAME}.shards"
    if len(hosts) == 1 and not state.exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(state.with_suffix(".dealing")):
        stores = Stores(folder, factory, state)
        stores.deal(hosts)
        stores.set_clocks(hosts)


class Stores:
    """All stores of one singleton in one folder. Only one process may have this at a time."""

    def __init__(self, folder: Path, factory: str, file: Path) -> None:
        self._folder = folder
        self._factory = factory
        self._mechanism = mechanism_of(factory)
        self._tables = {**self._mechanism.TABLES, **HOST_TABLES}
        self._file = file
        self._new = file.with_suffix(".new")
        self._state = _State(**json.loads(file.read_text())) if file.exists() else _State()
        self._policy: list[Any] | None = None

    def deal(self, hosts: list[str]) -> None:
        """Have one store for each of these hosts, with the rows that belong there."""
        if self._state.moving:
            self._put_in_place()
        if self._state.shards == len(hosts):
            return
        if self._present():
            self._write_new(hosts)
            self._remember(self._state._replace(shards=len(hosts), moving=True))
            self._put_in_place()
        else:
            self._remember(self._state._replace(shards=len(hosts)))

    def set_clocks(self, hosts: list[str]) -> None:
        """Let the clocks of these hosts be one, after a boot as before it."""
        boot = boot_id()
        if self._state.boot == boot:
            return
        # A clock that is behind goes on from the latest time that any of them has told; as
        # they were one before, that time has passed for all of them.
        offset_ns = max(_clock(self._read(host)).offset_ns for host in hosts)
        for host in hosts:
            with closing(Store(self._path(host), self._tables, durable=False)) as store:
                store.commit([Row(META, "boot", boot), Row(META, "offset_ns", offset_ns)])
        self._remember(self._state._replace(boot=boot))

    def _present(self) -> list[str]:
        """The hosts that have a store now."""
        name = self._mechanism.NAME
        files = [*self._folder.glob(f"{name}.sqlite"), *self._folder.glob(f"{name}-*.sqlite")]
        return sorted(file.stem for file in files if _OWN.fullmatch(file.name))

    def _path(self, host: str, folder: Path | None = None) -> Path:
        return (folder or self._folder) / f"{host}.sqlite"

    def _read(self, host: str) -> list[Row]:
        """All live rows of a host's store; waits for the lock of whoever has it."""
        with closing(Store(self._path(host), self._tables, durable=False)) as store:
            return store.load()

    def _write_new(self, hosts: list[str]) -> None:
        """Make the stores of these hosts, beside the present ones."""
        shutil.rmtree(self._new, ignore_errors=True)
        dealt: list[list[Row]] = [[] for _ in hosts]
        metas = []
        for present in self._present():
            rows = self._read(present)
            metas.append({row.key: row.value for row in rows if row.table == META})
            for row in self._nobodys(rows):
                if row.table in _EVERYWHERE.get(self._mechanism.NAME, ()):
                    for mine in dealt:
                        mine.append(row)
                elif row.table in _BY_KEY[self._mechanism.NAME]:
                    dealt[shard_of(row.key, len(hosts))].append(row)
        clock = {key: metas[0].get(key, least) for key, least in (("boot", ""), ("offset_ns", 0))}
        latest = {key: max(meta.get(key, 0) for meta in metas) for key in ("epoch", "now")}
        meta = [Row(META, key, value) for key, value in (clock | latest).items()]
        for host, rows in zip(hosts, dealt, strict=True):
            path = self._path(host, self._new)
            with closing(Store(path, self._tables, durable=True)) as store:
                store.commit([*rows, *meta])

    def _nobodys(self, rows: list[Row]) -> list[Row]:
        """The rows of the mechanism as they are when nobody holds anything."""
        mechanism: Any = mechanism_of(self._factory)
        own = {(row.table, row.key): row for row in rows if row.table not in HOST_TABLES}
        mechanism.load(own.values())
        now = next((row.value for row in rows if row[:2] == (META, "now")), 0)
        if self._policy is not None:
            # A policy that came to one shard and not to another: rows go by one of them.
            mechanism.configure(now, "", *self._policy)
        elif policy := own.get(("policy", "policy")):
            self._policy = policy.value
        for owner in tuple(mechanism.owners()):
            mechanism.bury(now, "", owner, False)
        own |= {(row.table, row.key): row for row in mechanism.take_changes().rows}
        return [row for row in own.values() if row.value is not None]

    def _put_in_place(self) -> None:
        """Put the new stores where hosts look for them; again: what is left of that."""
        hosts = shard_names(self._mechanism.NAME, self._state.shards)
        for host in {*self._present(), *hosts}:
            path, new = self._path(host), self._path(host, self._new)
            if new.exists() or host not in hosts:
                for end in ("-wal", "-shm", ""):
                    path.with_name(path.name + end).unlink(missing_ok=True)
            if new.exists():
                new.rename(path)
        shutil.rmtree(self._new, ignore_errors=True)
        self._remember(self._state._replace(moving=False))

    def _remember(self, state: _State) -> None:
        draft = self._file.with_suffix(".draft")
        with draft.open("w") as out:
            json.dump(state._asdict(), out)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self._file)
        self._state = state


def _clock(rows: list[Row]) -> SteadyClock:
    """The clock of a host with these rows, as it goes on now."""
    meta = {row.key: row.value for row in rows if row.table == META}
    return SteadyClock(meta.get("boot", ""), meta.get("offset_ns", 0), meta.get("now", 0))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until nobody else is at it."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
