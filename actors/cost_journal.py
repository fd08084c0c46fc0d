"""What every posted charge leaves behind: a ledger row, its part of the sums, overruns."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from actors import ledger
from actors.charges import Charge, Usage
from actors.mechanism import Bookkeeping, Row
from actors.spending import Spending

_META = "meta"


class Journal:
    """See the module's docstring. rows: who collects the changed rows.

    cluster: the id that ledger rows carry. spending: the sums for reports.
    overruns, overrun_nanos: how many charges came to more than was held, and by how much.
    damage: what is wrong with the ledger's end, or None.
    """

    def __init__(self, rows: Bookkeeping) -> None:
        self._changed = rows
        self.cluster = "default"
        self.spending = Spending()
        self.overruns = self.overrun_nanos = 0
        self.damage: str | None = None
        self._chain = ledger.Chain()
        self._counters_changed = False

    def write(
        self,
        now: int,
        charge: Charge,
        state: Literal["estimated", "actual"],
        amount: int,
        usage: Usage,
    ) -> int:
        """Note the cost of a held charge, or the actual one of an estimated charge.

        Returns what it adds to the sum of all, nano-dollars.
        """
        assert charge.facts is not None
        key, team, user, model, target, version, tags = charge.facts
        change = amount - charge.amount
        what = (now, self.cluster, charge.id, state, amount, change, charge.reserved)
        who = (key, team, user, model, target, version, *usage, charge.day, tags)
        row_key, row = self._chain.append((*what, *who))
        self._changed.put(ledger.TABLE, row_key, row)
        more, calls = usage, 1
        if charge.state == "estimated":
            more = Usage(*(new - old for new, old in zip(usage, charge.usage, strict=True)))
            calls = 0
        self.spending.add(charge.day, charge.facts, change, calls, more)
        # Of each charge only the last word counts.
        if amount > charge.reserved or charge.amount > charge.reserved:
            over, before = amount - charge.reserved, charge.amount - charge.reserved
            self.overruns += (over > 0) - (before > 0)
            self.overrun_nanos += max(0, over) - max(0, before)
        self._counters_changed = True
        return change

    def take_rows(self) -> Iterable[Row]:
        """Rows that are made only when asked for, because they change with every charge."""
        yield from self.spending.take_rows()
        if self._counters_changed:
            self._counters_changed = False
            chain = self._chain
            counters = [chain.sequence, chain.hash, self.overruns, self.overrun_nanos]
            yield Row(_META, "ledger", counters)

    def load(self, meta: Mapping[str, Any], sums: Mapping[str, Any]) -> None:
        """Take over everything from its rows."""
        if "ledger" in meta:
            sequence, hash, self.overruns, self.overrun_nanos = meta["ledger"]
            self._chain = ledger.Chain(sequence, hash)
        self.damage = meta.get("damage")
        for value in sums.values():
            self.spending.load_row(value)

    def head(self) -> ledger.Head:
        """Number and hash (hex) of the ledger's last row."""
        return self._chain.head()

    def compare(self, head: ledger.Head | None) -> None:
        """Compare the ledger's end with the head that was found beside the database.

        That one may be behind (a crash between commit and noting), never ahead.
        """
        ours = self.head()
        if head is None or self.damage or head[0] < ours[0] or tuple(head) == ours:
            return
        self.damage = f"the database ends at ledger row {ours[0]}, but row {head[0]} was written"
        if head[0] == ours[0]:
            self.damage = f"ledger row {ours[0]} is not the one that was written"
        self._changed.put(_META, "damage", self.damage)
