"""Which life of a host this is, as its store remembers the earlier ones."""

import secrets
from collections.abc import Iterable
from typing import Literal

from actors.clock import restored
from actors.mechanism import Row

TABLE = "_meta"

_MARKS = 32


class Incarnation:
    """Epoch, restarts and clock of a host's process.

    rows: of the store. claim: names the right to run; a new one begins a new epoch.
    kind: of clock. least_epoch: no lower one is taken; what was stored may be gone.

    earlier: whether there was a life before this one.

    Every commit has a mark: the word of its life, and its number in it. So it shows whether
    one store's history holds all of another's.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        claim: str,
        kind: Literal["steady", "wall"],
        least_epoch: int = 1,
    ) -> None:
        meta = {row.key: row.value for row in rows if row.table == TABLE}
        same = meta.get("claim") == claim
        self.earlier = bool(meta)
        self.claim = claim
        self.epoch: int = max(meta.get("epoch", 0) + (0 if same else 1), least_epoch)
        self.restarts: int = meta.get("restarts", -1) + 1 if same else 0
        self._word = secrets.token_hex(4)
        self._commits = 0
        self._before: list[tuple[str, int]] = [tuple(mark) for mark in meta.get("marks", ())]
        if "mark" in meta:
            self._before = [*self._before, tuple(meta["mark"])][-_MARKS:]
        self.clock = restored(
            kind, meta.get("boot", ""), meta.get("offset_ns", 0), meta.get("now", 0)
        )

    @property
    def number(self) -> tuple[int, int]:
        """(epoch, restarts): grows with each life."""
        return (self.epoch, self.restarts)

    def rows(self) -> list[Row]:
        """What the next life has to know of this one."""
        meta = {
            "claim": self.claim,
            "epoch": self.epoch,
            "restarts": self.restarts,
            "boot": self.clock.boot,
            "offset_ns": self.clock.offset_ns,
            "marks": self._before,
        }
        return [Row(TABLE, key, value) for key, value in meta.items()]

    def mark(self) -> Row:
        """The mark of the next commit; the last page that it writes has it."""
        self._commits += 1
        return Row(TABLE, "mark", (self._word, self._commits))

    def lived(self, mark: tuple[str, int]) -> bool:
        """Whether this store's history holds the commit with this mark."""
        word, number = mark
        return number <= dict([*self._before, (self._word, self._commits)]).get(word, 0)
