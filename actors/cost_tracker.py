"""The cost tracker: money is held before a provider call and posted after it.

Two phases, after TigerBeetle's pending transfers: `reserve` holds the worst case on all
budgets that a call falls under or on none; `post` puts the actual cost in its place,
`void` gives it back. Or an owner borrows slices of the budgets beforehand (`exchange`) and
says what its calls have cost (`charge`). What is held ends by its holder's word, or when
the holder is buried, never by time. A charge's state only moves up: held, estimated,
actual; or held, void.

Amounts are integer nano-dollars, times Unix nanoseconds.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from actors import added_budgets, budget_terms, cost_reports, cost_waiting, fields, ledger, purses
from actors.accounts import NEVER_NS
from actors.budget_terms import Terms
from actors.charges import Exhausted, Facts, Paid, Reserved, Usage
from actors.lending import Lending
from actors.mechanism import Changes, Row
from actors.purses import Lent, Purse, Recall
from actors.spending import TABLE as SPENDING
from actors.spending import Spent

_MINUTE_NS = 60 * 10**9
_VIEW = "budgets"


class CostTracker(Lending):
    """See the module's docstring, and `Mechanism` for the parts that all mechanisms have.

    View entry "budgets": {"revision": as in `Reserved`}. Slices may be spent while it is that
    of the reservation that told the accounts.
    """

    NAME: ClassVar[str] = "cost_tracker"
    DURABLE: ClassVar[bool] = True
    MIRRORED: ClassVar[bool] = True
    CLOCK: ClassVar[Literal["steady", "wall"]] = "wall"
    TABLES: ClassVar[Mapping[str, Literal["live", "archive"]]] = {
        "accounts": "live",
        added_budgets.TABLE: "live",
        "charges": "live",
        "closed": "live",
        "refusals": "live",
        purses.TABLE: "live",
        cost_waiting.TABLE: "live",
        SPENDING: "live",
        "meta": "live",
        ledger.TABLE: "archive",
    }
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"configure", "set_budget", "remove_budget", "reserve", "post", "void"}
        | {"exchange", "charge", "bury", "summary", "spend", "budgets", "status"}
    )
    REPEATABLE: ClassVar[frozenset[str]] = frozenset({"reserve"})
    READS: ClassVar[frozenset[str]] = frozenset({"summary", "spend", "budgets", "status"})

    def __init__(self) -> None:
        super().__init__()
        self._revision: str | None = None
        self._shown = 0

    # What operators and policy say, and what they hear.

    def configure(self, now: int, caller: str, revision: str, policy: dict[str, Any]) -> None:
        """Take over the budgets, keeping what was used of those that go on.

        A budget starts at nothing used when it is first named or its period changes.
        The revision in force again changes nothing. Raises InvalidRequest.
        """
        self.advance(now)
        if revision == self._revision:
            return
        fields.mapping(policy, "", ("budgets", "cluster"))
        terms = budget_terms.parse(policy)
        cluster = fields.text(policy.get("cluster", "default"), "cluster", 100, least=1)
        self._revision, self._journal.cluster = revision, cluster
        self._books.adopt(terms)
        self.put("meta", "policy", [revision, cluster, terms])
        self.advance(now)

    def set_budget(self, now: int, caller: str, name: str, spec: dict[str, Any]) -> Terms:
        """Set a budget beside policy's, or change it, keeping what was used of it.

        It binds every charge reserved from now on. spec: see `budget_terms.added`.
        Raises what `AddedBudgets.set` raises.
        """
        terms = self._books.add(name, spec)
        self.advance(now)
        return terms

    def remove_budget(self, now: int, caller: str, name: str) -> None:
        """Take away what `set_budget` has set: see `AddedBudgets.remove`."""
        self._books.remove(name)
        self.advance(now)

    def summary(self, now: int, caller: str) -> dict[str, Any]:
        """Today, its budget, averages and the month: see `cost_reports.summary`.

        And `ledger_damage`, where no more money is spent: why.
        """
        self.advance(now)
        summary = cost_reports.summary(self._books, self._journal.spending)
        damage = self._journal.damage
        return summary if damage is None else {**summary, "ledger_damage": damage}

    def spend(self, now: int, caller: str, by: str, days: int) -> list[Spent]:
        """Spent in the last `days` days (1 to 62, today included) by key, team, model or day.

        Days are those of the cluster's daily budget. Raises InvalidRequest.
        """
        self.advance(now)
        return self._journal.spending.by(by, days, self._books.daily.label)

    def budgets(self, now: int, caller: str) -> list[dict[str, Any]]:
        """The accounts of the present periods: see `cost_reports.budgets`."""
        self.advance(now)
        return cost_reports.budgets(self._books, now)

    def status(self, now: int, caller: str) -> dict[str, Any]:
        """The policy's revision, counts, and the ledger's end: see `cost_reports.status`."""
        self.advance(now)
        known = cost_reports.status(
            self._books, self._memory, self._journal, self._purses, self._line
        )
        return {"revision": self._revision, **known}

    # What the host calls.

    def advance(self, now: int) -> int | None:
        """Enter new periods, forget what is old, answer those who have waited."""
        if now >= self._books.end_ns:
            self._books.roll(now)
            self._journal.spending.prune(self._books.daily.label)
        if self._books.revision != self._shown:
            self._shown = self._books.revision
            self.show(_VIEW)
            self._line.ease_all()
        if now >= self._due:
            self._memory.forget(now, self.owners())
        if self._line.waiting:
            self._serve(now)
        due = min(self._books.end_ns, self._memory.due_ns(), self._line.due_ns() or NEVER_NS)
        # Whoever calls commands need not call this after each: they look once a minute.
        self._due = min(due, now + _MINUTE_NS)
        return due

    def take_changes(self) -> Changes:
        """See `Mechanism`. What changes often has its rows made here."""
        changes = super().take_changes()
        for each in (self._books, self._journal, self._memory, self._purses):
            changes.rows.extend(each.take_rows())
        return changes

    def view(self, key: str, now: int) -> Any:
        """See `Mechanism`."""
        return {"revision": self._books.revision} if key == _VIEW else None

    def view_keys(self) -> Iterable[str]:
        """See `Mechanism`."""
        return (_VIEW,)

    def load(self, rows: Iterable[Row]) -> None:
        """See `Mechanism`."""
        tables: dict[str, dict[str, Any]] = {table: {} for table in self.TABLES}
        for table, key, value in rows:
            tables[table][key] = value
        meta = tables["meta"]
        terms = budget_terms.parse({})
        if "policy" in meta:
            self._revision, self._journal.cluster, known = meta["policy"]
            terms = tuple(Terms(*each) for each in known)
        added = tables[added_budgets.TABLE]
        self._books.load(terms, added, meta.get("periods", (1, {})), tables["accounts"])
        self._journal.load(meta, tables[SPENDING])
        self._memory.load(tables["charges"], tables["closed"], tables["refusals"], self._books)
        self._purses.load(tables[purses.TABLE])
        self._line.load(tables[cost_waiting.TABLE])
        self._shown = self._books.revision

    def head(self) -> ledger.Head:
        """Number and hash (hex) of the ledger's last row."""
        return self._journal.head()

    def restored(self, head: ledger.Head | None) -> None:
        """Compare the ledger's end with the head that was found beside the database."""
        self._journal.compare(head)

    def damaged(self, what: str) -> None:
        """No more money is held or lent; what calls have cost is still noted."""
        self._journal.note_damage(what)


__all__ = [
    "CostTracker",
    "Exhausted",
    "Facts",
    "Lent",
    "Paid",
    "Purse",
    "Recall",
    "Reserved",
    "Spent",
    "Usage",
]
