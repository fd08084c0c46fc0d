"""Which layout a store has, and which code may open it.

Code of format N opens N and takes over N-1; what N-1 can read as well, says so, and is not
changed so that it can't. So one version may be rolled back. Before format 2 nothing was noted.

1: pages of live rows, batches of archived ones, all in one file.
2: pages end in a checksum; months that are over move out into files of their own. Code of
   format 1 passes over the checksums and writes none, and sees the months that have not moved.
"""

import sqlite3
from pathlib import Path

from actors.store_errors import StoreError, damaged

FORMAT = 2
READABLE_BY = 1
"""The oldest format whose code can read and write what this code leaves behind."""


def check(db: sqlite3.Connection, path: Path) -> int:
    """The format of a store (0: a new one), which this code can open.

    Raises StoreError where it is newer, StoreDamaged where what must be there is not.
    """
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if "_format" not in tables:
        return 1 if tables else 0
    found = db.execute("SELECT version, readable_by FROM _format").fetchall()
    if len(found) != 1 or "_pages" not in tables:
        raise damaged(path, "a table is missing")
    [(version, readable_by)] = found
    if not isinstance(version, int) or not isinstance(readable_by, int):
        raise damaged(path, "its format is not a number")
    if readable_by > FORMAT:
        raise StoreError(
            f"{path} has format {version}, for code of format {readable_by} and later; this is "
            f"format {FORMAT}. Install the newer version again (one version may be rolled back, "
            "not more), or put a backup of the folder from before it in its place."
        )
    return version


def note(db: sqlite3.Connection) -> None:
    """Note that this code has written the store."""
    db.execute("CREATE TABLE IF NOT EXISTS _format (version INTEGER, readable_by INTEGER)")
    db.execute("DELETE FROM _format")
    db.execute("INSERT INTO _format VALUES (?, ?)", (FORMAT, READABLE_BY))
