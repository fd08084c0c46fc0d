"""What every posted charge leaves behind: a ledger row, its part of the sums, overruns."""

from collections.abc import Iterable, Mapping
from typing import Any

from actors import ledger
from actors.charges import UNSTORABLE, Charge, Facts, Usage, unstorable
from actors.errors import LedgerDamaged
from actors.mechanism import Bookkeeping, Row
from actors.spending import Spending

_META = "meta"

_new = tuple.__new__


class Journal:
    """See the module's docstring. rows: who collects the changed rows.

    cluster: the id that ledger rows carry. spending: the sums for reports.
    overruns, overrun_nanos: how many charges came to more than was held, and by how much.
    damage: which rows of the ledger are not what was written, or None.
    """

    def __init__(self, rows: Bookkeeping) -> None:
        self._changed = rows
        self.cluster = "default"
        self.spending = Spending()
        self.overruns = self.overrun_nanos = 0
        self.damage: str | None = None
        self._chain = ledger.Chain()
        self._entries: list[Row] = []

    def write(
        self,
        now: int,
        charge_id: str,
        estimated: bool,
        amount: int,
        reserved: int,
        facts: Facts,
        usage: Usage,
        day: str,
    ) -> None:
        """Note what a charge cost. Raises InvalidRequest, before anything has changed."""
        state = "estimated" if estimated else "actual"
        self._enter(now, charge_id, state, amount, amount, reserved, facts, usage, day)
        self.spending.add(day, facts, amount, 1, usage)
        if amount > reserved:
            self.overruns += 1
            self.overrun_nanos += amount - reserved

    def correct(self, now: int, charge: Charge, amount: int, usage: Usage) -> int:
        """Note the actual cost of an estimated charge.

        Returns what it adds to the sum of all, nano-dollars. Raises as `write` does.
        """
        facts, day, reserved, change = (
            charge.facts, charge.day, charge.reserved, amount - charge.amount,
        )  # fmt: skip
        self._enter(now, charge.id, "actual", amount, change, reserved, facts, usage, day)
        more = Usage(*(new - old for new, old in zip(usage, charge.usage, strict=True)))
        self.spending.add(day, facts, change, 0, more)
        # Of each charge only the last word counts.
        over, before = amount - reserved, charge.amount - reserved
        self.overruns += (over > 0) - (before > 0)
        self.overrun_nanos += max(0, over) - max(0, before)
        return change

    def _enter(
        self,
        now: int,
        id: str,
        state: str,
        amount: int,
        change: int,
        reserved: int,
        facts: Facts,
        usage: Usage,
        day: str,
    ) -> None:
        key, team, user, model, target, version, tags = facts
        tokens_in, cached, tokens_out, reasoning = usage
        try:
            row_key, row = self._chain.append((
                now, self.cluster, id, state, amount, change, reserved,
                key, team, user, model, target, version,
                tokens_in, cached, tokens_out, reasoning, day, tags,
            ))  # fmt: skip
        except UNSTORABLE:
            raise unstorable() from None
        self._entries.append(_new(Row, (ledger.TABLE, row_key, row)))

    def take_rows(self) -> Iterable[Row]:
        """Rows of what changed since the last call."""
        yield from self.spending.take_rows()
        if self._entries:
            yield from self._entries
            self._entries = []
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
        damage = f"the database ends at ledger row {ours[0]}, but row {head[0]} was written"
        if head[0] == ours[0]:
            damage = f"ledger row {ours[0]} is not the one that was written"
        self.note_damage(damage)

    def note_damage(self, what: str) -> None:
        """Remember that the ledger is damaged, until it has been mended."""
        self.damage = what
        self._changed.put(_META, "damage", what)

    def check(self) -> None:
        """Raise LedgerDamaged where the ledger is damaged."""
        if self.damage is not None:
            raise LedgerDamaged(
                f"No more money is spent, because the ledger is damaged: {self.damage}. "
                "`raygate ledger verify` shows all of it, `raygate ledger repair` mends it "
                "while the gateway is down.",
                should_retry=False,
            )
