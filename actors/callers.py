"""What a host remembers of each caller: its last batch, to answer a resend of it."""

import pickle
from collections.abc import Iterable
from typing import Any, NamedTuple

from actors.mechanism import Row, owner_of
from actors.replies import OutOfStep, aged

TABLE = "_callers"

_MAX_CALLERS = 20_000
# Longer than any deadline, and than any sleep of a machine that comes back to it.
_MEMORY_NS = 48 * 3600 * 1_000_000_000


class Batch(NamedTuple):
    """A caller's last batch. at_ns: when it ran, on the host's clock."""

    number: int
    at_ns: int
    replies: list[Any]


class Callers:
    """Every caller's last batch, in order of their running; bounded by age and number."""

    def __init__(self) -> None:
        self._last: dict[str, Batch] = {}
        self._buried: list[str] = []
        self._refused: dict[str, Batch] = {}

    def load(self, rows: Iterable[Row]) -> None:
        """Go on from what the store remembers, and from the refusals that it could not keep."""
        batches = [
            (row.key, Batch(row.value[0], row.value[1], pickle.loads(row.value[2])))
            for row in rows
            if row.table == TABLE
        ]
        self._last = dict(sorted(batches, key=lambda item: item[1].at_ns))
        self._buried = []
        for caller, batch in self._refused.items():
            stored = self._last.get(caller)
            if stored is None or stored.number < batch.number:
                self._last.pop(caller, None)
                self._last[caller] = batch

    def answer(self, caller: str, number: int, now: int) -> list[Any] | OutOfStep | None:
        """What is to be said to this batch without running it; None: it is the next one."""
        last = self._last.get(caller)
        if last is not None and number == last.number:
            return [aged(reply, now - last.at_ns) for reply in last.replies]
        before = last.number if last is not None else 0
        return None if number == before + 1 else OutOfStep(before)

    def remember(self, caller: str, batch: Batch, refused: bool = False) -> None:
        """Put this in place of the batch before.

        refused: nothing of it was stored, so it is remembered for as long as this process
            lives. To the next one the caller is out of step, and begins anew.
        """
        self._last.pop(caller, None)
        self._last[caller] = batch
        self._refused.pop(caller, None)
        if refused:
            self._refused[caller] = batch

    def forget_owner(self, owner: str) -> None:
        """Forget the callers of one process: whatever they say next is out of step."""
        mine = [caller for caller in self._last if owner_of(caller) == owner]
        for caller in mine:
            del self._last[caller]
            self._refused.pop(caller, None)
        self._buried += mine

    def forget(self, now: int, but: str) -> list[Row]:
        """Forget those that no deadline can bring back; returns the rows that say so.

        Also of those that were forgotten by their owner since the last time.
        but: a caller whose batch is under way.
        """
        gone: list[str] = []
        for key, last in self._last.items():
            if key == but:
                continue
            spare = len(self._last) - len(gone) - _MAX_CALLERS
            if spare <= 0 and now - last.at_ns < _MEMORY_NS:
                break
            gone.append(key)
        for key in gone:
            del self._last[key]
            self._refused.pop(key, None)
        buried, self._buried = self._buried, []
        return [Row(TABLE, key, None) for key in (*gone, *buried) if key != but]


def row(caller: str, number: int, at_ns: int, kept: list[Any]) -> Row:
    """The row of a batch. kept: of each reply, what may be stored."""
    return Row(TABLE, caller, (number, at_ns, pickle.dumps(kept, 5)))
