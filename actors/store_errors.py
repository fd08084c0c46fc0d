"""Why a store can't be opened, or not be trusted."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOW_BYTE = 0xFF


class StoreError(Exception):
    """The store can't be opened or can't be trusted; the message says what to do."""


class StoreDamaged(StoreError):
    """What is in the file is not what was written there."""


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Whatever tells of damage in the block is raised as StoreDamaged, which says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        # What Python itself finds, text that is none, comes without a code.
        if code is not None and code & _LOW_BYTE not in _DAMAGED:
            raise
        raise damaged(path, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(path, f"rows that can't be read: {error}") from error


def damaged(path: Path, what: str) -> StoreDamaged:
    """The error for a damaged store."""
    folder = path.parent
    how = "move the file away: what it held is forgotten then"
    if path.name.startswith("cost_tracker"):
        how = (
            "mend it with `raygate ledger repair`; `raygate ledger inspect` shows more (both with "
            f"--storage-path {folder.parent} --name {folder.name})"
        )
    return StoreDamaged(
        f"{path} is damaged: {what}. Nothing was changed. Put a backup of the folder from before "
        f"in its place, or {how}."
    )
