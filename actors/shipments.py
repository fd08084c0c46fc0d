"""What one store writes, as another one can write it too.

A store's live rows are pages with rising numbers, of which the oldest go (`actors/pages.py`);
its archives only grow. So a copy needs no understanding of rows: it appends the pages and
batches that it is sent, and drops what its primary has dropped. Once it has the last one it is
the same database; if it was away, it asks for what comes after its own last ones.
"""

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from actors.archive import Archive
from actors.incarnation import TABLE as META
from actors.ledger import Head
from actors.pages import unpacked

Batch = tuple[str, str, bytes]
"""A batch of an archive: table, last key, rows."""


class Position(NamedTuple):
    """How far a copy has come.

    page: its last number; batches: of each archive the last key; mark: of its last commit
    (`actors/incarnation.py`).
    """

    page: int
    batches: dict[str, str]
    mark: tuple[str, int] = ("", 0)


class Shipment(NamedTuple):
    """Something that a store has written.

    pages: (number, blob), in order. gone: pages up to this number are no more. head: of the
    hash chain, beside the database. whole: nothing is missing between this and the present.
    """

    pages: list[tuple[int, bytes]]
    gone: int
    batches: list[Batch]
    head: Head | None = None
    whole: bool = True

    def empty(self) -> bool:
        """Whether there is nothing in it that a copy lacks."""
        return not self.pages and not self.batches


pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Shipment).decode


def unpack(payload: bytes) -> Shipment:
    """What `pack` has packed."""
    return _unpack(payload)


def position(db: sqlite3.Connection, archives: Mapping[str, Archive]) -> Position:
    """How far a database has come."""
    page, mark = 0, ("", 0)
    for number, blob in db.execute("SELECT number, rows FROM _pages ORDER BY number DESC"):
        page = page or number
        # The mark is its commit's last row: a page behind it has only what has moved there.
        if found := unpacked(blob).get(META, {}).get("mark"):
            mark = tuple(found)
            break
    return Position(page, {table: archive.last() for table, archive in archives.items()}, mark)


def since(
    db: sqlite3.Connection, at: Position, archives: Mapping[str, Archive], most_bytes: int
) -> Shipment:
    """The next of what comes after a position, oldest first; about so many bytes of it.

    What is gone is told with the last of it only: what counted there may be in that.
    """
    room = most_bytes
    pages: list[tuple[int, bytes]] = []
    [(first,)] = db.execute("SELECT coalesce(min(number), 1) FROM _pages")
    found = db.execute(
        "SELECT number, rows FROM _pages WHERE number > ? ORDER BY number", (at.page,)
    )
    for number, blob in found:
        if room <= 0:
            break
        pages.append((number, blob))
        room -= len(blob)
    batches: list[Batch] = []
    for table, archive in archives.items():
        for last, rows in archive.later_batches(at.batches.get(table, "")):
            if room <= 0:
                break
            batches.append((table, last, rows))
            room -= len(rows)
    whole = room > 0
    return Shipment(pages, first - 1 if whole else 0, batches, whole=whole)


def apply(db: sqlite3.Connection, archives: Mapping[str, Archive], shipment: Shipment) -> None:
    """Write what another store has written, as part of a transaction.

    Again: changes nothing.
    """
    db.executemany("INSERT OR REPLACE INTO _pages VALUES (?, ?)", shipment.pages)
    if shipment.gone:
        db.execute("DELETE FROM _pages WHERE number <= ?", (shipment.gone,))
    for table, last, rows in shipment.batches:
        archives[table].take(last, rows)


def after(at: Position, shipment: Shipment) -> Position:
    """How far a copy has come that was there, and has applied this."""
    page = max((number for number, _ in shipment.pages), default=at.page)
    last = {table: last for table, last, _ in shipment.batches}
    return Position(max(page, at.page), {**at.batches, **last})
