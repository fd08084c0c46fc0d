"""The archived rows of one store: appended in batches, moved out by month, read as one.

A batch is written into the database, in the transaction of the live rows that belong to it.
When a month is over its rows move into a file of their own (`actors/month_file.py`): some are
copied there and are on the disk, and only then do they leave the database. In between they are
in both places, which is no harm: the file's rows come first, and of the database's only those
behind them. So it may break off at any moment, and goes on from there.
"""

import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from actors import ledger, month_file
from actors.month_file import MonthFile, Rows, Span, number_of, unpacked
from actors.store_errors import StoreDamaged

STEP_BYTES = 1 << 18
STEP_ROWS = 1_024
"""So much moves at once: what a disk takes in a few milliseconds."""

Place = tuple[str, int]
"""Where a batch is: the month of its file ("" for the database itself), and its number there."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class Block(NamedTuple):
    """Some rows that follow each other. problem: why they, or some of them, can't be read."""

    place: Place
    rows: Rows
    problem: str | None


class Month(NamedTuple):
    """A month's file. span: None where it is empty, or can't be read, as `problem` says."""

    file: MonthFile
    span: Span | None
    problem: str | None = None


class Move(NamedTuple):
    """Rows on their way into a file. file: None where they are there already."""

    file: MonthFile | None
    rows: Rows

    def write(self) -> None:
        """Put them on the disk: some milliseconds, in which the database may be used."""
        if self.file is not None:
            self.file.append(self.rows)


class Archive:
    """See the module's docstring.

    path, db: of the store's database. table: whose rows. Writing is within the caller's
    transaction.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, table: str) -> None:
        self._db = db
        self._path = path
        self._table = table
        self._batches = f'"{table}_batches"'
        db.execute(f"CREATE TABLE IF NOT EXISTS {self._batches} (last TEXT PRIMARY KEY, rows BLOB)")
        self._months: list[Month] | None = None

    @property
    def months(self) -> list[Month]:
        """The months that have moved, oldest first."""
        if self._months is None:
            self._months = [_looked_at(file) for file in month_file.found(self._path, self._table)]
        return self._months

    @property
    def moved(self) -> str:
        """The key of the last row that is in a file."""
        return max((month.span.last for month in self.months if month.span), default="")

    def look_again(self) -> None:
        """What is known of the files may be wrong: look before the next use."""
        self._months = None

    def first(self) -> str | None:
        """The key that the first batch in the database itself ends with."""
        [key] = self._db.execute(f"SELECT MIN(last) FROM {self._batches}").fetchone()
        return None if key is None else str(key)

    def append(self, rows: list[tuple[str, Any]]) -> bytes:
        """Add rows, in the order of their keys, behind all others; as they were packed."""
        packed = _pack(rows)
        self.take(rows[-1][0], packed)
        return packed

    def take(self, last: str, packed: bytes) -> None:
        """Add a batch that was packed before, behind all others; again: changes nothing."""
        self._db.execute(f"INSERT OR IGNORE INTO {self._batches} VALUES (?, ?)", (last, packed))

    def last(self) -> str:
        """The key of the last row there is; "" where there is none."""
        [key] = self._db.execute(f"SELECT MAX(last) FROM {self._batches}").fetchone()
        return max(key or "", self.moved)

    def later_batches(self, after: str) -> Iterator[tuple[str, bytes]]:
        """The rows whose keys come after this one, by the thousand, packed, with the last key."""
        later = self._later(after)
        while rows := list(islice(later, STEP_ROWS)):
            yield rows[-1][0], _pack(rows)

    def later(self, after: str) -> Iterator[tuple[str, Any]]:
        """The rows whose keys come after this one. Raises StoreDamaged."""
        for key, raw in self._later(after):
            yield key, _unpack(raw)

    def _later(self, after: str) -> Iterator[tuple[str, msgspec.Raw]]:
        for month in self.months:
            if month.problem is not None and not self._reaches(after, month):
                raise StoreDamaged(month.problem)
            if month.span and month.span.last > after:
                for key, raw in month.file.later(after):
                    if key > after:
                        yield key, raw
        after = max(after, self.moved)
        batches = self._db.execute(
            f"SELECT rows FROM {self._batches} WHERE last > ? ORDER BY last", (after,)
        )
        for (blob,) in batches:
            for key, raw in unpacked(blob):
                if key > after:
                    yield key, raw

    def before(self, place: Place | None) -> Block | None:
        """The batch that comes before the one at this place (None: the last one there is)."""
        if place is None or place[0] == "":
            moved = self.moved
            block = self._batch_before(place[1] if place else None)
            if block is not None and (block.problem or block.rows[-1][0] > moved):
                return block._replace(rows=[row for row in block.rows if row[0] > moved])
            place = None
        for month in reversed(self.months):
            if place is not None and month.file.month > place[0]:
                continue
            number = place[1] if place is not None and month.file.month == place[0] else None
            block = block_before(month.file, number)
            if block is not None:
                return block
        return None

    def next_move(self, now: int) -> "Move | None":
        """What moves next, of a month that is over; None: nothing does.

        now: Unix time, nanoseconds. When it is written, let `end_move` follow, and nothing else
        that moves come between. Raises StoreDamaged.
        """
        if any(month.problem for month in self.months):
            return None
        moved, this_month = self.moved, ledger.month_of(now)
        rows: Rows = []
        size, month, month_ends_ns = 0, "", 0
        batches = self._db.execute(
            f"SELECT rows FROM {self._batches} WHERE last > ? ORDER BY last", (moved,)
        )
        for key, raw in (row for (blob,) in batches for row in unpacked(blob)):
            if key <= moved:
                continue
            at_ns = ledger.written_ns(raw)
            if not month and at_ns is not None:
                month, month_ends_ns = ledger.month_of(at_ns), ledger.month_ends_ns(at_ns)
            enough = size >= STEP_BYTES or len(rows) >= STEP_ROWS
            # A row of another month, or of none, stays, and all behind it.
            if enough or at_ns is None or at_ns >= month_ends_ns or month >= this_month:
                break
            rows.append((key, raw))
            size += len(memoryview(raw))
        if rows:
            return Move(MonthFile(self._path, self._table, month), rows)
        # What a crash has left in both places still has to go.
        return Move(None, []) if self._unfinished() else None

    def end_move(self, move: "Move") -> None:
        """Let the rows go that are in a file now."""
        if move.file is not None:
            known = {month.file.month: month for month in self.months}
            before = known.get(move.file.month)
            first = before.span.first if before and before.span else move.rows[0][0]
            known[move.file.month] = Month(move.file, Span(first, move.rows[-1][0]))
            self._months = list(known.values())
        self._db.execute(f"DELETE FROM {self._batches} WHERE last <= ?", (self.moved,))

    def _unfinished(self) -> bool:
        there = f"SELECT 1 FROM {self._batches} WHERE last <= ? LIMIT 1"
        return bool(self.moved and self._db.execute(there, (self.moved,)).fetchone())

    def put_back(self, block: Block) -> None:
        """Put a block of another database where it was there."""
        put = f"INSERT INTO {self._batches} (rowid, last, rows) VALUES (?, ?, ?)"
        self._db.execute(put, (block.place[1], block.rows[-1][0], _pack(block.rows)))

    def from_the_beginning(self, until: int | None) -> Iterator[Block]:
        """The blocks of the database itself that can be read, up to one, from the other end."""
        number = 0
        more = f"SELECT rowid, rows FROM {self._batches} NOT INDEXED WHERE rowid > ? LIMIT 1"
        while True:
            try:
                got = self._db.execute(more, (number,)).fetchone()
            except sqlite3.DatabaseError:
                return
            if got is None or (until is not None and got[0] >= until):
                return
            number, blob = got
            rows, problem = _read(blob)
            if rows:
                yield Block(("", number), rows, problem)

    def _reaches(self, after: str, damaged: Month) -> bool:
        """Whether the rows after this key lie behind a month that can't be read."""
        behind = [month for month in self.months if month.file.month > damaged.file.month]
        begins = [month.span.first for month in behind if month.span] + [self.first() or ""]
        return any(first and number_of(first) <= number_of(after) + 1 for first in begins)

    def _batch_before(self, number: int | None) -> Block | None:
        # By the table, not by its index: what is in both is compared.
        got = self._db.execute(
            f"SELECT rowid, last, rows FROM {self._batches} NOT INDEXED "
            "WHERE rowid < ? ORDER BY rowid DESC LIMIT 1",
            (2**63 - 1 if number is None else number,),
        ).fetchone()
        if got is None:
            return None
        number, last, blob = got
        rows, problem = _read(blob)
        indexed = self._db.execute(
            f"SELECT rowid FROM {self._batches} WHERE last = ?", (last,)
        ).fetchall()
        if problem is None and (last != rows[-1][0] or indexed != [(number,)]):
            problem = f"the batch that ends with row {rows[-1][0]} is not where it should be"
        return Block(("", number), rows, problem)


def _looked_at(file: MonthFile) -> Month:
    try:
        return Month(file, file.span())
    except StoreDamaged as error:
        return Month(file, None, str(error))


def block_before(file: MonthFile, number: int | None) -> Block | None:
    """The block of a month's file before the one with this number (None: the last)."""
    try:
        got = file.before(number)
    except StoreDamaged as error:
        # Of a file that can't be read there is nothing before either.
        return None if number == 0 else Block((file.month, 0), [], str(error))
    if got is None:
        return None
    number, blob = got
    rows, problem = _read(blob)
    if problem is None and number != int(rows[-1][0]):
        problem = f"the block that ends with row {rows[-1][0]} is not where it should be"
    return Block((file.month, number), rows, problem)


def _read(blob: Any) -> tuple[Rows, str | None]:
    """The rows of a batch, and why there are none."""
    try:
        rows = unpacked(blob)
    except msgspec.DecodeError as error:
        return [], str(error)
    if any(not (key.isascii() and key.isdecimal()) for key, _ in rows):
        return [], "a batch holds no ledger rows"
    return rows, None
