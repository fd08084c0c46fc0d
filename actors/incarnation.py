"""Which life of a host this is, as its store remembers the earlier ones."""

from collections.abc import Iterable
from typing import Literal

from actors.clock import restored
from actors.mechanism import Row

TABLE = "_meta"


class Incarnation:
    """Epoch, restarts and clock of a host's process.

    rows: of the store. claim: names the right to run; a new one begins a new epoch.
    kind: of clock.

    earlier: whether there was a life before this one.
    """

    def __init__(self, rows: Iterable[Row], claim: str, kind: Literal["steady", "wall"]) -> None:
        meta = {row.key: row.value for row in rows if row.table == TABLE}
        same = meta.get("claim") == claim
        self.earlier = bool(meta)
        self.claim = claim
        self.epoch: int = meta.get("epoch", 0) + (0 if same else 1)
        self.restarts: int = meta.get("restarts", -1) + 1 if same else 0
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
        }
        return [Row(TABLE, key, value) for key, value in meta.items()]
