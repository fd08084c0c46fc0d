"""What is done for a store beside its work, a few milliseconds at a time.

After a start the ledger's rows of the last day are looked through, so that damage is known
before more money is spent on it: the newest before anybody is served, the others in slices
meanwhile. Then, whenever a month is over, its rows move out of the database: a thread waits for
the disk, so that nobody else has to.
"""

import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from actors.alarm import Alarm
from actors.archive import Move
from actors.ledger_audit import Audit
from actors.mechanism import Mechanism
from actors.store import Store, StoreError

FIRST_ROWS = 20_000
"""So many are looked at before anybody is served: a tenth of a second."""
SLICE_ROWS = 1_000
LAST_NS = 86_400 * 10**9
"""How far back a start looks."""

_SLICE_PAUSE_S = 0.05
_MOVE_PAUSE_S = 0.05
_IDLE_S = 60.0

log = logging.getLogger(__name__)


class Upkeep:
    """See the module's docstring.

    mechanism: the present one. now: the time by its clock.
    """

    def __init__(
        self, store: Store, mechanism: Callable[[], Mechanism], now: Callable[[], int]
    ) -> None:
        self._store = store
        self._mechanism = mechanism
        self._now = now
        self._told = 0
        self._alarm = Alarm(self.step)
        self._writer = ThreadPoolExecutor(1, "months")
        self._moving: tuple[Move, Future[None]] | None = None
        head = mechanism().head()
        for archive in store.archives.values():
            if head is not None:
                since_ns = now() - LAST_NS
                store.audit = Audit(archive.before, head, store.head(), since_ns)
                self._look(FIRST_ROWS)

    def start(self) -> None:
        """Go on by a timer: a constructor has no event loop."""
        if self._store.archives:
            self._alarm.set(_SLICE_PAUSE_S)

    def close(self) -> None:
        """Stop the timer, and wait for the disk."""
        self._alarm.close()
        self._writer.shutdown()

    def step(self) -> None:
        """Do a little, and set the timer for the next time."""
        pause_s = _IDLE_S
        try:
            if self._look(SLICE_ROWS):
                pause_s = _SLICE_PAUSE_S
            elif self._move():
                pause_s = _MOVE_PAUSE_S
        except (sqlite3.Error, OSError, StoreError):
            log.exception("months of the ledger can't be moved; another attempt comes")
            for archive in self._store.archives.values():
                archive.look_again()
        self._alarm.set(pause_s)

    def _move(self) -> bool:
        """Move some more rows of months that are over; whether any do."""
        if self._moving is not None:
            move, written = self._moving
            if not written.done():
                return True
            self._moving = None
            written.result()
            self._store.end_move(move)
        found = self._store.next_move(self._now())
        if found is not None:
            self._moving = found, self._writer.submit(found.write)
        return found is not None

    def _look(self, rows: int) -> bool:
        """Look at some more of the last day's rows; whether there are more."""
        audit = self._store.audit
        if audit is None or audit.done:
            return False
        try:
            audit.step(rows)
        except sqlite3.Error as error:
            self._tell(f"the ledger can't be read: {error}")
            audit.done = True
        if audit.found > self._told:
            self._told = audit.found
            bad = [finding for finding in audit.findings if finding.accepted is None]
            self._tell("; ".join(map(str, bad[:3])))
        return not audit.done

    def _tell(self, damage: str) -> None:
        log.error("%s", damage)
        self._mechanism().damaged(damage)
