"""Stores with a ledger in them, and what becomes of their files."""

import shutil
from pathlib import Path
from typing import Any

from actors.ledger import BEGINNING, TABLE, Chain, Head
from actors.ledger_audit import Audit, Finding
from actors.mechanism import Row
from actors.store import Store

TABLES: dict[str, Any] = {"live": "live", TABLE: "archive"}
DAY_NS = 86_400 * 10**9
NOVEMBER_NS = 1_793_534_400 * 10**9
"""The first of November 2026, UTC."""


def entry(at_ns: int, n: int) -> tuple[Any, ...]:
    """The fields of a ledger row from `at_ns` on."""
    cost = (at_ns, "default", f"charge-{n}", "actual", 5 * n, 5 * n, 10)
    return (*cost, "k", "t", "u", "m", "p/m", "v1", 3, 1, 2, 0, "2026-11-01", {"n": str(n)})


class Filled:
    """A store to which a ledger is written, as a cost tracker does.

    rows: (key, value) of all that was written.
    """

    def __init__(self, path: Path, durable: bool = False) -> None:
        self.path = path
        self.durable = durable
        self.store = Store(path, TABLES, durable)
        self.chain = Chain()
        self.count = 0

    def commit(self, rows: int, at_ns: int = NOVEMBER_NS) -> None:
        """One batch."""
        made = []
        for _ in range(rows):
            self.count += 1
            made.append(Row(TABLE, *self.chain.append(entry(at_ns, self.count))))
        live = Row("live", f"{self.count % 7}", [self.count, self.chain.sequence, self.chain.hash])
        self.store.commit([*made, live, Row("live", "head", self.chain.head())], self.chain.head())

    def reopen(self) -> None:
        """As after a kill."""
        self.store.close()
        self.store = Store(self.path, TABLES, self.durable)

    def findings(self) -> list[Finding]:
        """What an audit finds."""
        return audited(self.store, self.chain.head())


def audited(store: Store, head: Head, witness: Head | None = None) -> list[Finding]:
    """What an audit of all rows finds."""
    audit = Audit(store.archives[TABLE].before, head, witness)
    while not audit.done:
        audit.step(100)
    return audit.findings


def everything(store: Store) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """All live rows, and the ledger."""
    live = {row.key: row.value for row in store.load()}
    return live, [(row.key, row.value) for row in store.page(TABLE, "", 10**6)]


def head_in(live: dict[str, Any]) -> Head:
    """The head that the live rows name."""
    sequence, hash = live.get("head", (0, BEGINNING.hex()))
    return sequence, hash


def copied(path: Path, folder: Path) -> Path:
    """The files of a store, as they are, in another folder."""
    folder.mkdir(exist_ok=True)
    for file in path.parent.glob(f"{path.stem}*"):
        if file.suffix != ".lock":
            shutil.copy(file, folder / file.name)
    return folder / path.name
