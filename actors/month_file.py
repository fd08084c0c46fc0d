"""A file with the archived rows of one month, beside the database that they have left.

It is added to until the month has moved, in steps of one transaction each, and then only read.
Its rows lie in blocks, found by the key of their last row, which is a number.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from actors.store_errors import damaged, sound

Rows = list[tuple[str, msgspec.Raw]]
"""(key, packed value), in order."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Rows).decode
_NAME = re.compile(r"\d{4}-\d\d")


def unpacked(blob: Any) -> Rows:
    """The rows of a batch. Raises msgspec.DecodeError where they are none."""
    if type(blob) is not bytes:
        raise msgspec.DecodeError("a batch holds no bytes")
    try:
        rows = _unpack(blob)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"a batch can't be read ({error})") from None
    if not rows:
        raise msgspec.DecodeError("a batch holds no rows")
    return rows


class Span(NamedTuple):
    """The keys of a file's first and last row."""

    first: str
    last: str


class MonthFile:
    """See the module's docstring.

    path: of the database that the rows leave; table: which rows; month: "YYYY-MM".
    What is read raises StoreDamaged where the file is not sound.
    """

    def __init__(self, path: Path, table: str, month: str) -> None:
        self.month = month
        self.path = path.with_name(f"{path.stem}.{table}-{month}.sqlite")

    def append(self, rows: Rows) -> None:
        """Add rows behind those that are there; when this returns, they are on the disk."""
        new = not self.path.exists()
        if new:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600))
        with sound(self.path), closing(self._opened()) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("CREATE TABLE IF NOT EXISTS blocks (last INTEGER PRIMARY KEY, rows BLOB)")
            db.execute("INSERT INTO blocks VALUES (?, ?)", (int(rows[-1][0]), _pack(rows)))
            db.execute("COMMIT")
        if new:
            _sync(self.path.parent)

    def span(self) -> Span | None:
        """Where it begins and ends; None while there is nothing in it."""
        with sound(self.path), closing(self._opened()) as db:
            if not _has_blocks(db):
                return None
            ends = [
                unpacked(blob)
                for order in ("", "DESC")
                for (blob,) in db.execute(f"SELECT rows FROM blocks ORDER BY last {order} LIMIT 1")
            ]
        return Span(ends[0][0][0], ends[1][-1][0]) if ends else None

    def later(self, after: str) -> Iterator[tuple[str, msgspec.Raw]]:
        """Its rows whose keys come after this one; of a block perhaps some before it."""
        with sound(self.path), closing(self._opened()) as db:
            found = db.execute(
                "SELECT rows FROM blocks WHERE last > ? ORDER BY last", (number_of(after),)
            )
            for (blob,) in found:
                yield from unpacked(blob)

    def before(self, number: int | None) -> tuple[int, Any] | None:
        """The block before the one with this number (None: the last): its own, and its bytes."""
        with sound(self.path), closing(self._opened()) as db:
            if not _has_blocks(db):
                return None
            found: tuple[int, Any] | None = db.execute(
                "SELECT last, rows FROM blocks WHERE last < ? ORDER BY last DESC LIMIT 1",
                (2**63 - 1 if number is None else number,),
            ).fetchone()
            return found

    def _opened(self) -> sqlite3.Connection:
        if not self.path.exists():
            raise damaged(self.path, "it is gone")
        db = sqlite3.connect(self.path, isolation_level=None)
        # Its own journal goes with each transaction, so that a month is one file.
        db.execute("PRAGMA synchronous=EXTRA")
        return db


def found(path: Path, table: str) -> list[MonthFile]:
    """The files of a database's table, oldest first."""
    prefix, suffix = f"{path.stem}.{table}-", ".sqlite"
    names = [one.name for one in path.parent.glob(f"{prefix}*{suffix}")]
    months = sorted(name[len(prefix) : -len(suffix)] for name in names)
    return [MonthFile(path, table, month) for month in months if _NAME.fullmatch(month)]


def _has_blocks(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'blocks'").fetchone())


def number_of(key: str) -> int:
    """The number that a row's key is; 0 where it is none."""
    return int(key) if key.isascii() and key.isdecimal() and len(key) <= 20 else 0


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
