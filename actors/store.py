"""Rows on disk: a batch is one transaction, and recovery is reading the live rows.

SQLite in WAL mode, one file per singleton, held by one process at a time.
"""

import fcntl
import os
import re
import sqlite3
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from actors.errors import InvalidRequest
from actors.mechanism import Row

# Their locks are advisory across machines at best: two hosts could both believe to be alone.
_UNTRUSTED_FILESYSTEMS = (
    *("nfs", "cifs", "smb", "9p", "ceph", "glusterfs", "lustre", "beegfs", "gpfs", "afs"),
    *("sshfs", "s3fs", "gcsfuse", "rclone", "blobfuse", "juicefs", "goofys", "mount-s3"),
)
_LOCK_PATIENCE_S = 30.0
_MOUNTS = Path("/proc/mounts")
_ESCAPED = re.compile(rb"\\([0-7]{3})")

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class StoreError(Exception):
    """The store can't be opened or can't be trusted; the message says what to do."""


def filesystem_of(path: Path) -> str:
    """The type of the file system that holds `path` ("" where the system does not tell)."""
    try:
        mounts = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return ""
    inner = os.fsencode(path)
    best, kind = b"", b""
    for line in mounts:
        _, mount, fs, *_ = line.split(b" ")
        mount = _ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), mount)
        inside = inner == mount or inner.startswith(mount.rstrip(b"/") + b"/")
        # Of two mounts at one place, the later one is on top.
        if inside and len(mount) >= len(best):
            best, kind = mount, fs
    return kind.decode()


class Store:
    """One singleton's rows.

    path: the database file; its folder is made where missing.
    tables: as `Mechanism.TABLES`, plus the host's own.
    durable: commit with fsync (survives a power cut) or without (survives a kill).
    Raises StoreError when another process holds the file, or its file system's locks
    can't be trusted.
    """

    def __init__(
        self, path: Path, tables: Mapping[str, Literal["live", "archive"]], durable: bool
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        kind = filesystem_of(path.parent.resolve())
        if kind.removeprefix("fuse.").startswith(_UNTRUSTED_FILESYSTEMS):
            raise StoreError(
                f"storage_path {path.parent} is on {kind}, whose locks can't be trusted; "
                "name a folder on a local disk of this node"
            )
        self._tables = dict(tables)
        self._lock = _hold(path.with_suffix(".lock"))
        self._head = os.open(path.with_suffix(".head"), os.O_RDWR | os.O_CREAT, 0o600)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._closed = False
        self._put: dict[str, str] = {}
        self._drop: dict[str, str] = {}
        try:
            os.chmod(path, 0o600)
            self._set_up(durable)
        except BaseException:
            self.close()
            raise

    def _set_up(self, durable: bool) -> None:
        for pragma in (
            "locking_mode=EXCLUSIVE",
            "journal_mode=WAL",
            f"synchronous={'FULL' if durable else 'OFF'}",
            "temp_store=MEMORY",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        for table in self._tables:
            self._db.execute(
                f'CREATE TABLE IF NOT EXISTS "{table}" (key TEXT PRIMARY KEY, value BLOB) '
                + ("" if self._tables[table] == "archive" else "WITHOUT ROWID")
            )
            self._put[table] = f'INSERT OR REPLACE INTO "{table}" VALUES (?, ?)'
            self._drop[table] = f'DELETE FROM "{table}" WHERE key = ?'

    def load(self) -> list[Row]:
        """All live rows, values with lists in place of tuples."""
        return [
            Row(table, key, _unpack(value))
            for table, kind in self._tables.items()
            if kind == "live"
            for key, value in self._db.execute(f'SELECT key, value FROM "{table}"')
        ]

    def page(self, table: str, after: str, limit: int) -> list[Row]:
        """Up to `limit` rows of one table whose keys come after `after`, in their order.

        Raises InvalidRequest for a table that does not exist.
        """
        if table not in self._tables:
            raise InvalidRequest(f"there is no table {table}")
        found = self._db.execute(
            f'SELECT key, value FROM "{table}" WHERE key > ? ORDER BY key LIMIT ?', (after, limit)
        )
        return [Row(table, key, _unpack(value)) for key, value in found]

    def commit(self, rows: Iterable[Row], head: tuple[int, str] | None = None) -> None:
        """Write the rows in one transaction; then the chain's head beside the database.

        Of several rows with one key the last counts.
        """
        latest: dict[str, dict[str, Any]] = {}
        for table, key, value in rows:
            latest.setdefault(table, {})[key] = value
        puts = [
            (
                self._put[table],
                [(key, _pack(each)) for key, each in changed.items() if each is not None],
            )
            for table, changed in latest.items()
        ]
        drops = [
            (self._drop[table], [(key,) for key, each in changed.items() if each is None])
            for table, changed in latest.items()
        ]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for statement, put in puts:
                self._db.executemany(statement, put)
            for statement, drop in drops:
                self._db.executemany(statement, drop)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        if head is not None:
            # Two slots in turn: a torn write leaves the previous head readable.
            words = f"{head[0]:020d} {head[1]:>64}".encode()
            record = b"%s %08x\n" % (words, zlib.crc32(words))
            os.pwrite(self._head, record, head[0] % 2 * len(record))

    def check(self, row: Row) -> None:
        """Raise what storing this row would raise, whatever the state of the disk."""
        self._put[row.table], row.key.encode(), _pack(row.value)

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
