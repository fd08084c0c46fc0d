"""Rows on disk: a batch is one transaction, and recovery is reading the live rows.

SQLite in WAL mode, one file per singleton, held by one process at a time. Rows are stored by
the batch, not one by one: live ones in pages (`actors/pages.py`), those of an archive together.
"""

import fcntl
import os
import sqlite3
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from actors.errors import InvalidRequest
from actors.filesystems import untrusted
from actors.mechanism import Kind, Row
from actors.pages import Pages

_LOCK_PATIENCE_S = 30.0
_TAKEN_AT_ONCE = 1_000
# As much as a large batch changes.
_PROBE_BYTES = 1 << 18

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class StoreError(Exception):
    """The store can't be opened or can't be trusted; the message says what to do."""


class Store:
    """One singleton's rows.

    path: the database file; its folder is made where missing.
    tables: as `Mechanism.TABLES`, plus the host's own.
    durable: commit with fsync (survives a power cut) or without (survives a kill).
    Raises StoreError when another process holds the file, or its file system's locks
    can't be trusted.
    """

    def __init__(self, path: Path, tables: Mapping[str, Kind], durable: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        kind = untrusted(path.parent)
        if kind is not None:
            raise StoreError(
                f"storage_path {path.parent} is on {kind}, whose locks can't be trusted; "
                "name a folder on a local disk of this node"
            )
        self._tables = dict(tables)
        self._lock = _hold(path.with_suffix(".lock"))
        self._head = os.open(path.with_suffix(".head"), os.O_RDWR | os.O_CREAT, 0o600)
        self._path, self._durable = path, durable
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._closed = self._doubtful = False
        try:
            os.chmod(path, 0o600)
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        for pragma in (
            "locking_mode=EXCLUSIVE",
            "journal_mode=WAL",
            f"synchronous={'FULL' if self._durable else 'OFF'}",
            "temp_store=MEMORY",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        self._archives = [table for table, kind in self._tables.items() if kind == "archive"]
        live = self._tables.keys() - self._archives
        self._pages = Pages(self._db, live)
        for table in self._archives:
            self._db.execute(
                f'CREATE TABLE IF NOT EXISTS "{table}_batches" (last TEXT PRIMARY KEY, rows BLOB)'
            )

        self._take_over()

    def _take_over(self) -> None:
        """Take in what versions before 0.2 stored, a row for each row."""
        found = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for table in self._tables.keys() & {name for (name,) in found}:
            with self._transaction():
                old = self._db.execute(f'SELECT key, value FROM "{table}" ORDER BY key').fetchall()
                for start in range(0, len(old), _TAKEN_AT_ONCE):
                    some = old[start : start + _TAKEN_AT_ONCE]
                    self._write(Row(table, key, _unpack(value)) for key, value in some)
                self._db.execute(f'DROP TABLE "{table}"')

    def load(self) -> list[Row]:
        """All live rows, values with lists in place of tuples."""
        if self._doubtful:
            # Whether a write that failed half-way counts is what the file says, read anew.
            self._db.close()
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._set_up()
            self._doubtful = False
        found = self._pages.load()
        return [Row(table, key, value) for table in found for key, value in found[table].items()]

    def page(self, table: str, after: str, limit: int) -> list[Row]:
        """Up to `limit` rows of one table whose keys come after `after`, in their order.

        Raises InvalidRequest for a table that does not exist.
        """
        if table not in self._tables:
            raise InvalidRequest(f"there is no table {table}")
        found = self._archived(table, after) if table in self._archives else self._live(table)
        later = (Row(table, key, value) for key, value in found if key > after)
        return list(islice(later, limit))

    def _live(self, table: str) -> Iterable[tuple[str, Any]]:
        return sorted(self._pages.load()[table].items())

    def _archived(self, table: str, after: str) -> Iterable[tuple[str, Any]]:
        batches = self._db.execute(
            f'SELECT rows FROM "{table}_batches" WHERE last > ? ORDER BY last', (after,)
        )
        for (rows,) in batches:
            yield from _unpack(rows)

    def commit(self, rows: Iterable[Row], head: tuple[int, str] | None = None) -> None:
        """Write the rows in one transaction; then the chain's head beside the database.

        Of several live rows with one key the last counts; keys of an archive only rise.
        """
        with self._transaction():
            self._write(rows)
        if head is not None:
            # Two slots in turn: a torn write leaves the previous head readable.
            words = f"{head[0]:020d} {head[1]:>64}".encode()
            record = b"%s %08x\n" % (words, zlib.crc32(words))
            os.pwrite(self._head, record, head[0] % 2 * len(record))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            self._pages.distrust()
            code = getattr(error, "sqlite_errorcode", 0)
            self._doubtful |= code & 0xFF == sqlite3.SQLITE_IOERR
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _write(self, rows: Iterable[Row]) -> None:
        latest: dict[str, dict[str, Any]] = defaultdict(dict)
        for table, key, value in rows:
            latest[table][key] = value
        for table in self._archives:
            if batch := sorted(latest.pop(table, {}).items()):
                put = f'INSERT INTO "{table}_batches" VALUES (?, ?)'
                self._db.execute(put, (batch[-1][0], _pack(batch)))
        self._pages.commit(latest)

    def probe(self) -> None:
        """Raise what a commit of some size would raise; nothing is different afterwards."""
        # What is in the log already can make room there, where it replaces what is in the file.
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with self._transaction():
            self._db.execute("CREATE TABLE IF NOT EXISTS _room (content BLOB)")
            self._db.execute("INSERT INTO _room VALUES (zeroblob(?))", (_PROBE_BYTES,))
        with self._transaction():
            self._db.execute("DELETE FROM _room")

    def check(self, row: Row) -> None:
        """Raise what storing this row would raise, whatever the state of the disk."""
        self._tables[row.table], row.key.encode(), _pack(row.value)

    def head(self) -> tuple[int, str] | None:
        """The newest head that was written beside the database, whole."""
        heads: list[tuple[int, str]] = []
        for line in os.pread(self._head, 4096, 0).split(b"\n"):
            words, _, check = line.strip(b"\0").rpartition(b" ")
            if words and check == b"%08x" % zlib.crc32(words):
                sequence, hash = words.split()
                heads.append((int(sequence), hash.decode()))
        return max(heads, default=None)

    def close(self) -> None:
        """Let go of the file. A second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._db.close()
        os.close(self._head)
        os.close(self._lock)


def _hold(path: Path) -> int:
    """Take the lock that tells that a process lives; it goes with the process."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    give_up = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                os.close(lock)
                raise StoreError(
                    f"{path} is held by another process; two hosts never write one store. "
                    "Stop the other gateway of this name, or give this one another name."
                ) from None
            time.sleep(0.02)
        else:
            return lock


def as_plain(value: Any) -> Any:
    """The value as it will come back from the store (for tests of `Mechanism.load`)."""
    return _unpack(_pack(value))
