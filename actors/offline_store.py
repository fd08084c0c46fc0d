"""The files of a store that has no host, read however damaged they are."""

import os
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from actors import inspection
from actors.archive import Archive
from actors.formats import FORMAT
from actors.ledger import TABLE, Head
from actors.ledger_audit import Progress
from actors.pages import has_sum
from actors.store_errors import StoreError, sound
from actors.store_files import hold, newest_head

_tables = msgspec.msgpack.Decoder(dict[str, dict[str, Any]]).decode


class OfflineStore:
    """See the module's docstring. path: the database of a store with a ledger.

    No host can open it meanwhile. Raises StoreError where one has it, or where the file is no
    database at all.

    problems: what is wrong with the live rows, and with SQLite's own structure.
    live: what could be read of the live rows, by table and key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = hold(path.with_suffix(".lock"), patience_s=0.5)
        self.problems: list[str] = []
        self.live: Mapping[str, dict[str, Any]] = {}
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            with sound(path):
                self._db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
                self.archive = Archive(self._db, path, TABLE)
        except BaseException:
            os.close(self._lock)
            raise
        self._check_structure()
        self.format = self._read_format()
        self._read_pages()

    @property
    def head(self) -> Head | None:
        """The ledger's end as the live rows have it."""
        found = self.live.get("meta", {}).get("ledger")
        return (found[0], found[1].hex()) if found else None

    @property
    def noted(self) -> Head | None:
        """The ledger's end as it was noted beside the database."""
        file = self.path.with_suffix(".head")
        return newest_head(file.read_bytes()) if file.exists() else None

    def start(self) -> Head | Progress:
        """Where an audit begins: the later of the two heads, or the last row that there is."""
        heads = [head for head in (self.head, self.noted) if head is not None]
        if heads:
            return max(heads)
        block = self.archive.before(None)
        last = int(block.rows[-1][0]) if block is not None and block.rows else 0
        return Progress(None, last, "")

    def inspected(self) -> dict[str, Any]:
        """See `inspection.inspected`; and `format`, and `problems`."""
        told = inspection.inspected(self.path, self.archive, self.head, self.noted)
        return {"format": self.format, **told, "problems": self.problems}

    def audited(self, progress: Any) -> dict[str, Any]:
        """See `inspection.audited`. progress: as that gave it; None: from the end."""
        start = self.start() if progress is None else Progress.read(progress)
        return inspection.audited(self.archive, start, self.noted, 20_000)

    def page(self, after: int, limit: int) -> list[Any]:
        """Ledger rows whose numbers come after this one. Raises StoreDamaged."""
        with sound(self.path):
            found = islice(self.archive.later(str(after).zfill(20)), limit)
            return [value for _, value in found]

    def let_go(self) -> None:
        """Let go of the database, but keep everybody else from it."""
        self._db.close()

    def close(self) -> None:
        """Let go of the files."""
        self._db.close()
        os.close(self._lock)

    def _check_structure(self) -> None:
        try:
            found = self._db.execute("PRAGMA quick_check(20)").fetchall()
        except sqlite3.DatabaseError as error:
            found = [(str(error),)]
        self.problems += [f"SQLite: {line}" for (line,) in found if line != "ok"]

    def _read_format(self) -> int:
        try:
            [(version,)] = self._db.execute("SELECT version FROM _format").fetchall()
        except (sqlite3.DatabaseError, ValueError):
            return 1
        if version > FORMAT:
            raise StoreError(f"{self.path} has format {version}; use the version that wrote it.")
        return int(version)

    def _read_pages(self) -> None:
        rows: dict[str, dict[str, Any]] = defaultdict(dict)
        number = 0
        while True:
            try:
                got = self._db.execute(
                    "SELECT number, rows FROM _pages WHERE number > ? ORDER BY number LIMIT 1",
                    (number,),
                ).fetchone()
            except sqlite3.DatabaseError as error:
                self.problems.append(f"live rows after page {number} can't be read: {error}")
                break
            if got is None:
                break
            number, blob = got
            try:
                has_sum(number, blob)
                for table, changed in _tables(blob).items():
                    rows[table] |= changed
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.problems.append(f"live rows: {error}")
        self.live = {
            table: {key: value for key, value in found.items() if value is not None}
            for table, found in rows.items()
        }
