"""The cost tracker: money is held before a provider call and posted after it.

Two phases, after TigerBeetle's pending transfers: `reserve` holds the worst case on all
budgets that a call falls under or on none; `post` puts the actual cost in its place,
`void` gives it back. What nobody closes within its lifetime is posted as estimated, at
what was held. A charge's state only moves up: held, estimated, actual; or held, void.

Amounts are integer nano-dollars, times Unix nanoseconds.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from actors import added_budgets, budget_terms, cost_reports, fields, ledger
from actors.budget_terms import Terms
from actors.budgets import Books
from actors.charge_memory import Memory
from actors.charges import (
    Charge,
    Exhausted,
    Facts,
    Refusal,
    Reserved,
    Subjects,
    Usage,
    check_amount,
    fingerprint,
)
from actors.cost_journal import Journal
from actors.errors import IdempotencyMismatch, Overloaded
from actors.mechanism import Bookkeeping, Changes, Row
from actors.spending import TABLE as SPENDING
from actors.spending import Spent

MAX_HELD = 100_000
"""Charges held at once; past it `reserve` raises Overloaded."""

Posted = Literal["posted", "replaced", "already_posted", "already_voided", "unknown"]
Voided = Literal["voided", "already_voided", "already_posted", "unknown"]


class CostTracker(Bookkeeping):
    """See the module's docstring, and `Mechanism` for the parts that all mechanisms have."""

    NAME: ClassVar[str] = "cost_tracker"
    DURABLE: ClassVar[bool] = True
    CLOCK: ClassVar[Literal["steady", "wall"]] = "wall"
    TABLES: ClassVar[Mapping[str, Literal["live", "archive"]]] = {
        "accounts": "live",
        added_budgets.TABLE: "live",
        "charges": "live",
        "refusals": "live",
        SPENDING: "live",
        "meta": "live",
        ledger.TABLE: "archive",
    }
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"configure", "set_budget", "remove_budget", "reserve", "post", "void"}
        | {"summary", "spend", "budgets", "status"}
    )

    def __init__(self) -> None:
        super().__init__()
        self._books = Books()
        self._memory = Memory(self)
        self._journal = Journal(self)
        self._revision: str | None = None
        self._due = 0

    # Commands.

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
        self._due = 0
        self.advance(now)

    def set_budget(self, now: int, caller: str, name: str, spec: dict[str, Any]) -> Terms:
        """Set a budget beside policy's, or change it, keeping what was used of it.

        It binds every charge reserved from now on. spec: see `budget_terms.added`.
        Raises what `AddedBudgets.set` raises.
        """
        terms = self._books.add(name, spec)
        self._due = 0
        self.advance(now)
        return terms

    def remove_budget(self, now: int, caller: str, name: str) -> None:
        """Take away what `set_budget` has set: see `AddedBudgets.remove`."""
        self._books.remove(name)
        self._due = 0
        self.advance(now)

    def reserve(
        self,
        now: int,
        caller: str,
        charge_id: str,
        subjects: Subjects,
        amount_nanos: int,
        lifetime_ns: int,
        facts: Facts,
    ) -> Reserved | Exhausted:
        """Hold the worst case of one provider call on all its budgets, or on none.

        subjects: (budget, subject) pairs; the cluster's own budgets need not be named, and
        names of no budget are passed over. Operators' budgets bind by `facts`.
        lifetime_ns: when the charge is posted as estimated if nobody has closed it.

        The same id with the same content gets the same reply, with another content
        IdempotencyMismatch. Nothing refuses an amount of 0. Raises InvalidRequest, and
        Overloaded where a bound is reached.
        """
        if now >= self._due:
            self.advance(now)
        digest = fingerprint(subjects, amount_nanos, facts)
        known = self._memory.find(charge_id)
        if known is not None:
            if known.digest != digest:
                raise IdempotencyMismatch(
                    f"Charge {charge_id} came again with other content; each call has its own id."
                )
            return known.again(now) if isinstance(known, Refusal) else Reserved(known.day)
        check_amount(amount_nanos)
        if len(self._memory.held) >= MAX_HELD:
            raise Overloaded(f"{MAX_HELD:,} provider calls are being paid for already.")
        picked = self._books.pick(subjects, facts.key, facts.team, facts.model, facts.user)
        for budget, account in picked:
            available = budget.amount_nanos - account.posted - account.pending
            if amount_nanos > available and amount_nanos:
                left, until = max(0, available), budget.resets_in_ns(now)
                name, total = budget.terms.name, budget.amount_nanos
                reply = Exhausted(name, account.subject, total, left, until)
                self._memory.refuse(charge_id, Refusal(digest, reply, now))
                self._due = min(self._due, self._memory.due_ns)
                return reply
        charge = Charge(charge_id, "held", digest, self._books.daily.label)
        charge.reserved = amount_nanos
        charge.expires_ns = now + lifetime_ns
        charge.accounts = tuple([account for _, account in picked])
        charge.facts = facts
        self._books.hold(picked, amount_nanos)
        self._memory.hold(charge)
        if charge.expires_ns < self._due:
            self._due = charge.expires_ns
        return Reserved(charge.day)

    def post(
        self,
        now: int,
        caller: str,
        charge_id: str,
        amount_nanos: int,
        usage: Usage,
        estimated: bool = False,
    ) -> Posted:
        """Put what the call cost in the place of what was held for it.

        More than was held is posted in full, and counted as an overrun. It counts in the
        periods in which it was reserved. An actual cost replaces an estimated one, once;
        nothing replaces an actual one. Raises InvalidRequest.
        """
        if now >= self._due:
            self.advance(now)
        check_amount(amount_nanos)
        charge = self._memory.find(charge_id)
        if charge is None or isinstance(charge, Refusal):
            return "unknown"
        if charge.state == "void":
            return "already_voided"
        if charge.state == "held":
            self._post(charge, now, amount_nanos, usage, estimated)
            return "posted"
        if charge.state == "actual" or estimated:
            return "already_posted"
        self._replace(charge, now, amount_nanos, usage)
        return "replaced"

    def void(self, now: int, caller: str, charge_id: str) -> Voided:
        """Give back what was held: there was no call, or it costs nothing."""
        if now >= self._due:
            self.advance(now)
        charge = self._memory.find(charge_id)
        if charge is None or isinstance(charge, Refusal):
            return "unknown"
        if charge.state != "held":
            return "already_voided" if charge.state == "void" else "already_posted"
        self._books.release(charge.accounts, charge.reserved, 0)
        charge.finish("void")
        self._remember(charge, now)
        return "voided"

    def summary(self, now: int, caller: str) -> dict[str, Any]:
        """Today, its budget, averages and the month: see `cost_reports.summary`."""
        self.advance(now)
        return cost_reports.summary(self._books, self._journal.spending)

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
        known = cost_reports.status(self._books, self._memory, self._journal)
        return {"revision": self._revision, **known}

    # What the host calls.

    def advance(self, now: int) -> int | None:
        """Post what has outlived its lifetime, enter new periods, forget what is old."""
        if now >= self._due:
            # Periods first: what was reserved yesterday is closed on yesterday's accounts,
            # which must be known as such.
            if now >= self._books.end_ns:
                self._books.roll(now)
                self._journal.spending.prune(self._books.daily.label)
            for charge in self._memory.expired(now):
                self._post(charge, now, charge.reserved, Usage(), estimated=True)
            self._memory.forget(now)
            self._due = min(self._books.end_ns, self._memory.due_ns)
        return self._due

    def take_changes(self) -> Changes:
        """See `Mechanism`. Accounts and sums change often, so their rows are made here."""
        for table, key, value in (*self._books.take_rows(), *self._journal.take_rows()):
            self.put(table, key, value)
        return super().take_changes()

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
        self._books.load(terms, added, meta.get("periods", {}), tables["accounts"])
        self._journal.load(meta, tables[SPENDING])
        self._memory.load(tables["charges"], tables["refusals"], self._books.accounts)

    def head(self) -> ledger.Head:
        """Number and hash (hex) of the ledger's last row."""
        return self._journal.head()

    def restored(self, head: ledger.Head | None) -> None:
        """Compare the ledger's end with the head that was found beside the database."""
        self._journal.compare(head)

    # Inside.

    def _post(self, charge: Charge, now: int, amount: int, usage: Usage, estimated: bool) -> None:
        self._books.release(charge.accounts, charge.reserved, amount)
        self._journal.write(now, charge, "estimated" if estimated else "actual", amount, usage)
        if estimated:
            charge.state, charge.amount, charge.usage = "estimated", amount, usage
        else:
            charge.finish("actual")
        self._remember(charge, now)

    def _replace(self, charge: Charge, now: int, amount: int, usage: Usage) -> None:
        change = self._journal.write(now, charge, "actual", amount, usage)
        for account in charge.accounts:
            self._books.correct(account, change)
        charge.finish("actual")
        self._memory.rewrite(charge)

    def _remember(self, charge: Charge, now: int) -> None:
        self._memory.close(charge, now)
        if self._memory.due_ns < self._due:
            self._due = self._memory.due_ns


__all__ = ["CostTracker", "Exhausted", "Facts", "Reserved", "Spent", "Usage"]
