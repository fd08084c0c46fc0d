"""Live rows, many to a page: what a batch has changed costs one write, not one for each row.

Most rows are changed again within moments: holds end, buckets are used, sums go up. So all
that a commit changes is appended as a page (or some, where it is much), and of several entries
with one key the last counts: to read the pages in their order is to read the rows. Pages go
oldest first: when no entry of theirs counts any more, or when more than half of what is stored
does not; then what counts in the oldest page moves into the newest.

The last four bytes of a page are its CRC-32, written as if they were one more table's row: so
code that knows of none can read it.

This is the cleaning of a log-structured file system (Rosenblum and Ousterhout, 1992), with
SQLite as the disk.
"""

import sqlite3
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any
from zlib import crc32

import msgspec

MOST_IN_A_PAGE = 512
"""Entries; a page moves in one piece."""

SLACK_BYTES = 1 << 24
"""So much may be stored beyond twice what counts.

The more, the less has to be moved; it is read at a start, in a tenth of a second.
"""

MOST_DEAD_PAGES = 2_048
"""So many pages may lie behind one that counts; each takes memory, however small it is."""

Latest = Mapping[str, Mapping[str, Any]]
"""table → key → value; None: deleted."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(dict[str, dict[str, Any]]).decode
_SUM = "_sum"
_SUM_BYTES = 4
# As many bytes as the largest: what replaces it is as long.
_UNSUMMED = msgspec.Raw(_pack({"crc32": 2**32 - 1}))
_MARK = _pack({_SUM: _UNSUMMED})[1:-_SUM_BYTES]
_rows = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_tables = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode


class DamagedPage(msgspec.DecodeError):
    """A page is not what was written."""


def summed(tables: Mapping[str, msgspec.Raw]) -> bytes:
    """A page of these tables, each packed already."""
    body = _pack({**tables, _SUM: _UNSUMMED})[:-_SUM_BYTES]
    return body + crc32(body).to_bytes(_SUM_BYTES)


def has_sum(number: int, blob: Any) -> bool:
    """Whether a page has a checksum, and it is right. Raises DamagedPage where it is wrong."""
    if type(blob) is not bytes:
        raise DamagedPage(f"page {number} holds no bytes")
    body, given = blob[:-_SUM_BYTES], blob[-_SUM_BYTES:]
    if not body.endswith(_MARK):
        # One flipped bit must not make it a page of earlier code, which has none of this.
        if _SUM.encode() in body[-len(_MARK) :] or b"crc32" in body[-len(_MARK) :]:
            raise DamagedPage(f"page {number} is not what was written")
        return False
    if crc32(body).to_bytes(_SUM_BYTES) != given:
        raise DamagedPage(f"page {number} is not what was written")
    return True


class _Page:
    """counting: how many entries are the last of their key. bytes: of all that is in it.

    each_bytes: of an entry, on average, by table: one table's rows are a hundred times as long
    as another's, and what is long may be what lasts.
    """

    __slots__ = ("bytes", "counting", "each_bytes")

    def __init__(self, bytes: int, each_bytes: dict[str, float]) -> None:
        self.bytes = bytes
        self.counting = 0
        self.each_bytes = each_bytes


class Pages:
    """The live rows of one store.

    tables: their names; entries of others are from another version of the code, and go.
    Everything here happens within the caller's transaction; where that fails, `distrust`.

    written, gone: the pages that the last commit has appended, (number, blob), and the last
        number that it has removed (0: none). Whoever does the same has the same rows.
    """

    def __init__(self, db: sqlite3.Connection, tables: Collection[str]) -> None:
        self._db = db
        self._tables = frozenset(tables)
        self.written: list[tuple[int, bytes]] = []
        self.gone = 0
        db.execute("CREATE TABLE IF NOT EXISTS _pages (number INTEGER PRIMARY KEY, rows BLOB)")
        self.distrust()

    def distrust(self) -> None:
        """What is known of the pages may be wrong: read them before the next use."""
        self._known = False

    def load(self) -> dict[str, dict[str, Any]]:
        """All rows, by table and key. Raises msgspec.DecodeError where they are damaged."""
        rows: dict[str, dict[str, Any]] = {table: {} for table in self._tables}
        self._where: dict[str, dict[str, int]] = {table: {} for table in self._tables}
        self._pages: dict[int, _Page] = {}
        self._order: deque[int] = deque()
        self._last = 0
        self._bytes, self._counting_bytes = 0, 0.0
        for number, blob in self._db.execute("SELECT number, rows FROM _pages ORDER BY number"):
            has_sum(number, blob)
            found = _unpack(blob)
            packed = {table: len(bytes(raw)) for table, raw in _tables(blob).items()}
            self._pages[number] = _Page(len(blob), _each(packed, found))
            self._order.append(number)
            self._bytes += len(blob)
            self._last = number
            for table in self._tables & found.keys():
                rows[table] |= found[table]
                self._where[table] |= dict.fromkeys(found[table], number)
        for table, images in rows.items():
            for key in [key for key, value in images.items() if value is None]:
                del images[key], self._where[table][key]
            for number in self._where[table].values():
                page = self._pages[number]
                page.counting += 1
                self._counting_bytes += page.each_bytes[table]
        self._known = True
        return rows

    def sum_up(self) -> None:
        """Give a checksum to the pages that have none: of a version before there were any."""
        found = self._db.execute("SELECT number, rows FROM _pages").fetchall()
        for number, blob in found:
            if not has_sum(number, blob):
                put = "UPDATE _pages SET rows = ? WHERE number = ?"
                self._db.execute(put, (summed(_tables(blob)), number))
        self.distrust()

    def commit(self, latest: Latest) -> None:
        """Write these rows. Raises KeyError for an unknown table, and what packing raises."""
        if not self._known:
            self.load()
        self.written, self.gone = [], 0
        pages = self._pages
        number, first, room = self._last + 1, self._last + 1, MOST_IN_A_PAGE
        entries: dict[str, dict[str, Any]] = {}
        for table, changed in latest.items():
            where = self._where[table]
            into: dict[str, Any] = {}
            entries[table] = into
            for key, value in changed.items():
                before = where.get(key)
                if before is not None:
                    page = pages[before]
                    page.counting -= 1
                    self._counting_bytes -= page.each_bytes[table]
                elif value is None:
                    # What never was stored needs no deleting.
                    continue
                if value is None:
                    del where[key]
                else:
                    where[key] = number
                into[key] = value
                room -= 1
                if not room:
                    self._append(number, entries)
                    number, room = number + 1, MOST_IN_A_PAGE
                    into = {}
                    entries = {table: into}
        self._retire(first, number, entries)
        self._append(number, entries)

    def _append(self, number: int, entries: dict[str, dict[str, Any]]) -> None:
        entries = {table: into for table, into in entries.items() if into}
        if not entries:
            return
        packed = {table: msgspec.Raw(_pack(into)) for table, into in entries.items()}
        blob = summed(packed)
        self._db.execute("INSERT INTO _pages VALUES (?, ?)", (number, blob))
        self.written.append((number, blob))
        each = _each({table: len(bytes(raw)) for table, raw in packed.items()}, entries)
        self._pages[number] = page = _Page(len(blob), each)
        for table, into in entries.items():
            counting = len(into) - list(into.values()).count(None)
            page.counting += counting
            self._counting_bytes += counting * each[table]
        self._order.append(number)
        self._bytes += len(blob)
        self._last = number

    def _retire(self, first: int, number: int, entries: dict[str, dict[str, Any]]) -> None:
        """Let old pages go; what counts in them goes into `entries`, which become `number`.

        first: of the pages of this commit, which stay.
        """
        gone = 0
        budget = MOST_IN_A_PAGE + 2 * sum(map(len, entries.values()))
        most = MOST_DEAD_PAGES + sum(map(len, self._where.values())) // MOST_IN_A_PAGE
        while self._order and self._order[0] < first:
            oldest = self._order[0]
            page = self._pages[oldest]
            if page.counting:
                if page.counting > budget:
                    break
                small = self._bytes <= 2 * self._counting_bytes + SLACK_BYTES
                if small and len(self._pages) <= most:
                    break
                budget -= page.counting
                self._move(oldest, number, entries)
            self._bytes -= page.bytes
            del self._pages[oldest]
            gone = self._order.popleft()
        if gone:
            self._db.execute("DELETE FROM _pages WHERE number <= ?", (gone,))
            self.gone = gone

    def _move(self, oldest: int, number: int, entries: dict[str, dict[str, Any]]) -> None:
        [(blob,)] = self._db.execute("SELECT rows FROM _pages WHERE number = ?", (oldest,))
        each = self._pages[oldest].each_bytes
        for table, raw in _tables(blob).items():
            where = self._where.get(table)
            if where is None:
                continue
            into = entries.setdefault(table, {})
            for key, value in _rows(raw).items():
                if where.get(key) == oldest:
                    # As it is: it has been packed already.
                    where[key] = number
                    into[key] = value
                    self._counting_bytes -= each[table]


def unpacked(blob: bytes) -> dict[str, dict[str, Any]]:
    """What is in a page, by table and key."""
    return _unpack(blob)


def _each(packed: Mapping[str, int], entries: Latest) -> dict[str, float]:
    """Bytes of an entry, on average, by table. packed: bytes of all of a table's entries."""
    return {table: size / max(len(entries[table]), 1) for table, size in packed.items()}
