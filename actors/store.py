"""Rows on disk: a batch is one transaction, and recovery is reading the live rows.

SQLite in WAL mode, one file per singleton, held by one process at a time. Rows are stored by
the batch, not one by one: live ones in pages (`actors/pages.py`), those of an archive together,
and by month in files of their own when the month is over (`actors/archive.py`).
"""

import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from actors import formats, inspection
from actors.archive import Archive, Move
from actors.errors import InvalidRequest, LedgerDamaged
from actors.filesystems import untrusted
from actors.ledger_audit import Audit
from actors.mechanism import Kind, Row
from actors.pages import Pages
from actors.shipments import Batch, Position, Shipment, apply, position, since
from actors.store_errors import StoreDamaged, StoreError, damaged, sound
from actors.store_files import hold, newest_head, write_head

_TAKEN_AT_ONCE = 1_000
# As much as a large batch changes.
_PROBE_BYTES = 1 << 18

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class Store:
    """One singleton's rows.

    path: the database file; its folder is made where missing.
    tables: as `Mechanism.TABLES`, plus the host's own.
    durable: commit with fsync (survives a power cut) or without (survives a kill).
    Raises StoreError when another process holds the file, its file system's locks can't be
    trusted, or newer code has written it; StoreDamaged when it is not what was written.

    archives: by table. audit: of an archive's last rows, where one runs or ran since the start.
    ship: told what each commit has written, once it is done; None: perhaps something, by one
    that failed.
    """

    def __init__(self, path: Path, tables: Mapping[str, Kind], durable: bool) -> None:
        self.ship: Callable[[Shipment | None], None] | None = None
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        kind = untrusted(path.parent)
        if kind is not None:
            raise StoreError(
                f"storage_path {path.parent} is on {kind}, whose locks can't be trusted; "
                "name a folder on a local disk of this node"
            )
        self._tables = dict(tables)
        self._path = path
        self.audit: Audit | None = None
        self._lock = hold(path.with_suffix(".lock"))
        self._head = os.open(path.with_suffix(".head"), os.O_RDWR | os.O_CREAT, 0o600)
        self._durable = durable
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._closed = self._doubtful = False
        try:
            os.chmod(path, 0o600)
            with sound(path):
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
        # What a kill has left in the WAL goes where it belongs, so that the file can be judged.
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [pages] = self._db.execute("PRAGMA page_count").fetchone()
        [page_bytes] = self._db.execute("PRAGMA page_size").fetchone()
        if self._path.stat().st_size < pages * page_bytes:
            raise damaged(self._path, "its end is cut off")
        with self._transaction():
            known = formats.check(self._db, self._path)
            archives = [table for table, kind in self._tables.items() if kind == "archive"]
            self.archives = {table: Archive(self._db, self._path, table) for table in archives}
            self._pages = Pages(self._db, self._tables.keys() - archives)
            self._take_over()
            # Also where this format is noted: code of the one before may have written meanwhile.
            self._pages.sum_up()
            if known != formats.FORMAT:
                formats.note(self._db)

    def _take_over(self) -> None:
        """Take in what versions before 0.2 stored, a row for each row."""
        found = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for table in self._tables.keys() & {name for (name,) in found}:
            old = self._db.execute(f'SELECT key, value FROM "{table}" ORDER BY key').fetchall()
            for start in range(0, len(old), _TAKEN_AT_ONCE):
                some = old[start : start + _TAKEN_AT_ONCE]
                self._write(Row(table, key, _unpack(value)) for key, value in some)
            self._db.execute(f'DROP TABLE "{table}"')

    def load(self) -> list[Row]:
        """All live rows, values with lists in place of tuples. Raises StoreDamaged."""
        with sound(self._path):
            if self._doubtful:
                # Whether a write that failed half-way counts is what the file says, read anew.
                self._db.close()
                self._db = sqlite3.connect(
                    self._path, isolation_level=None, check_same_thread=False
                )
                self._set_up()
                self._doubtful, self.audit = False, None
            found = self._pages.load()
        return [Row(table, key, value) for table in found for key, value in found[table].items()]

    def page(self, table: str, after: str, limit: int) -> list[Row]:
        """Up to `limit` rows of one table whose keys come after `after`, in their order.

        Raises InvalidRequest for a table that does not exist, LedgerDamaged where rows of an
        archive can't be read.
        """
        if table not in self._tables:
            raise InvalidRequest(f"there is no table {table}")
        archive = self.archives.get(table)
        if archive is None:
            live = sorted(self._pages.load()[table].items())
            return [Row(table, key, value) for key, value in live if key > after][:limit]
        try:
            with sound(self._path):
                found = list(islice(archive.later(after), limit))
        except StoreDamaged as error:
            raise LedgerDamaged(str(error)) from None
        return [Row(table, key, value) for key, value in found]

    def archive(self) -> Archive:
        """The archive of a store that has one. Raises InvalidRequest."""
        if not self.archives:
            raise InvalidRequest("there is no ledger here")
        return next(iter(self.archives.values()))

    def inspected(self, head: tuple[int, str] | None) -> dict[str, Any]:
        """See `inspection.inspected`; and the `format`. Raises InvalidRequest."""
        told = inspection.inspected(self._path, self.archive(), head, self.head())
        return {"format": formats.FORMAT, **told}

    def next_move(self, now: int) -> Move | None:
        """Some rows of a month that is over, to be written into its file; None: there are none.

        now: Unix time, nanoseconds. Then comes `end_move`. Raises StoreDamaged.
        """
        with sound(self._path):
            return self.archive().next_move(now) if self.archives else None

    def end_move(self, move: Move) -> None:
        """The rows are in their file: let them leave the database."""
        with sound(self._path), self._transaction():
            self.archive().end_move(move)

    def move_months(self, now: int) -> bool:
        """Move some rows of months that are over, at once; whether there were any."""
        move = self.next_move(now)
        if move is not None:
            move.write()
            self.end_move(move)
        return move is not None

    def commit(self, rows: Iterable[Row], head: tuple[int, str] | None = None) -> None:
        """Write the rows in one transaction; then the chain's head beside the database.

        Of several live rows with one key the last counts; keys of an archive only rise.
        """
        with self._transaction():
            batches = self._write(rows)
        # First: what is committed counts, whether its head can be written or not.
        if self.ship is not None:
            self.ship(Shipment(self._pages.written, self._pages.gone, batches, head))
        if head is not None:
            write_head(self._head, head)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if hasattr(self, "_pages"):
                self._pages.distrust()
            code = getattr(error, "sqlite_errorcode", 0)
            self._doubtful |= code & 0xFF == sqlite3.SQLITE_IOERR
            if self.ship is not None:
                # Perhaps it is in the file all the same.
                self.ship(None)
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _write(self, rows: Iterable[Row]) -> list[Batch]:
        """Write rows, as part of a transaction; returns what was added to archives."""
        batches: list[Batch] = []
        latest: dict[str, dict[str, Any]] = defaultdict(dict)
        for table, key, value in rows:
            latest[table][key] = value
        for table, archive in self.archives.items():
            if batch := sorted(latest.pop(table, {}).items()):
                batches.append((table, batch[-1][0], archive.append(batch)))
        self._pages.commit(latest)
        return batches

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

    def position(self) -> Position:
        """How far this store has come."""
        return position(self._db, self.archives)

    def since(self, at: Position, most_bytes: int) -> Shipment:
        """What a copy that has come so far needs next. Raises StoreError: not known at present."""
        if self._doubtful:
            raise StoreError(f"{self._path}: a write has failed half-way, and is to be read anew")
        return since(self._db, at, self.archives, most_bytes)._replace(head=self.head())

    def apply(self, shipments: Iterable[Shipment]) -> None:
        """Write what the store that this is a copy of has written, in one transaction."""
        heads = []
        with self._transaction():
            for shipment in shipments:
                apply(self._db, self.archives, shipment)
                heads += [shipment.head] if shipment.head is not None else []
            self._pages.distrust()
        if heads:
            write_head(self._head, heads[-1])

    def head(self) -> tuple[int, str] | None:
        """The newest head that was written beside the database, whole."""
        return newest_head(os.pread(self._head, 4096, 0))

    def close(self) -> None:
        """Let go of the file. A second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._db.close()
        os.close(self._head)
        os.close(self._lock)


def as_plain(value: Any) -> Any:
    """The value as it will come back from the store (for tests of `Mechanism.load`)."""
    return _unpack(_pack(value))


__all__ = ["Store", "StoreDamaged", "StoreError", "as_plain"]
