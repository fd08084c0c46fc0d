"""A store that can't be written: how that is told, and when it is tried again.

A disk that is full is nobody's death. The host reads its state anew, as nothing of the failed
batch is stored, answers what changes nothing, and refuses the rest until there is room.
"""

import errno
import logging
import platform
import sqlite3
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from actors.errors import StorageFull
from actors.store import Store

Done = TypeVar("Done")

PAUSE_S = 1.0
"""Between two looks whether there is room again."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNWRITABLE = _FULL | {errno.EROFS, errno.EIO}
_FULL_CODES = {sqlite3.SQLITE_FULL}
_UNWRITABLE_CODES = _FULL_CODES | {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}

log = logging.getLogger(__name__)


class StorageTrouble:
    """Whether the store of one singleton can be written.

    lasts: it could not, when that was last tried.
    """

    def __init__(self, singleton: str) -> None:
        self.lasts = False
        self._singleton = singleton
        self._why = ""

    def begins(self, error: Exception) -> None:
        """A commit failed."""
        full = _is(error, _FULL, _FULL_CODES)
        self._why = "is full" if full else f"can't be written ({error})"
        if not self.lasts:
            log.error("%s can't write its store, and refuses changes: %s", self._singleton, error)
        self.lasts = True

    def over(self, store: Store) -> bool:
        """Try whether there is room again."""
        try:
            store.probe()
        except (sqlite3.Error, OSError):
            return False
        self.lasts = False
        log.warning("%s can write its store again", self._singleton)
        return True

    def refusal(self) -> StorageFull:
        """What a command is told that would change something."""
        return StorageFull(
            f"{self._singleton} can't write anything down, so nothing was done: the disk under "
            f"storage_path on {platform.node()} {self._why}. Make room there; it goes on by "
            "itself.",
            retry_after_s=PAUSE_S,
        )

    def word(self) -> Literal["full", "ok"]:
        """For health."""
        return "full" if self.lasts else "ok"


def unwritable(error: Exception) -> bool:
    """Whether this says that a disk takes nothing: full, over quota, read-only or broken."""
    return _is(error, _UNWRITABLE, _UNWRITABLE_CODES)


def patiently(write: Callable[[], Done]) -> Done:
    """Write, and where the disk takes nothing, wait until it does (at a host's start)."""
    while True:
        try:
            return write()
        except (sqlite3.Error, OSError) as error:
            if not unwritable(error):
                raise
            log.error("a host waits for its disk: %s", error)
            time.sleep(PAUSE_S)


def _is(error: Exception, numbers: set[int], codes: set[int]) -> bool:
    if isinstance(error, sqlite3.Error):
        # The low byte is the kind of error, the rest says more of it.
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in codes
    return isinstance(error, OSError) and error.errno in numbers
