"""Budgets, of policy and added by operators, and the accounts of what is spent and held.

An account belongs to one budget, one subject (a team, a key, ...; "" for the cluster)
and one period. Its row key is `budget|period|subject`; only the subject may hold a bar.
"""

from collections.abc import Iterable, Mapping
from datetime import tzinfo
from typing import Any, Literal

from actors import periods
from actors.added_budgets import AddedBudgets
from actors.budget_terms import Terms, parse
from actors.errors import Overloaded
from actors.mechanism import Row

MAX_ACCOUNTS = 200_000
NEVER_NS = 2**63 - 1


class Account:
    """What one subject has used of one budget in one period.

    posted, pending: nano-dollars spent and held. open: held charges.
    ended: its period is over, or its budget gone; it goes with its last held charge.
    kept: it is in the books.
    """

    __slots__ = ("ended", "kept", "key", "open", "pending", "posted")

    def __init__(self, key: str) -> None:
        self.key = key
        self.posted = self.pending = self.open = 0
        self.ended = self.kept = False

    @property
    def budget(self) -> str:
        """The name of its budget."""
        return self.key.split("|", 1)[0]

    @property
    def label(self) -> str:
        """Its period's label."""
        return self.key.split("|", 2)[1]

    @property
    def subject(self) -> str:
        """Whose it is."""
        return self.key.split("|", 2)[2]


class Budget:
    """One budget, with its present period and that period's accounts by subject."""

    __slots__ = ("accounts", "amount_nanos", "end_ns", "label", "prefix", "terms", "zone")

    def __init__(self, terms: Terms, zone: tzinfo) -> None:
        self.terms = terms
        self.zone = zone
        self.amount_nanos = terms.amount_nanos
        self.label = ""
        self.prefix = ""
        self.end_ns = 0
        self.accounts: dict[str, Account] = {}

    def roll(self, now: int) -> None:
        """Enter the period that `now` lies in."""
        self.label, _, end_ns = periods.span(self.terms.period, self.zone, now)
        self.prefix = f"{self.terms.name}|{self.label}|"
        self.end_ns = NEVER_NS if end_ns is None else end_ns
        self.accounts = {}

    def resets_in_ns(self, now: int) -> int | None:
        """Time until its next period, or None."""
        return None if self.end_ns == NEVER_NS else self.end_ns - now


class Books:
    """All budgets and accounts.

    accounts: by row key. budgets: those in force, by name.
    daily: the cluster's daily budget, which is always there.
    end_ns: when the first period ends. changed: keys of accounts whose rows are to be written.
    labels: the period that each budget was last in; labels_changed: since last written.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.budgets: dict[str, Budget] = {}
        self._added = AddedBudgets()
        self.changed: set[str] = set()
        self.labels: dict[str, str] = {}
        self.labels_changed = False
        self.adopt(parse({}))

    def adopt(self, terms: Iterable[Terms]) -> None:
        """Take over the budgets of a policy. `roll` must follow before anything else."""
        self._named = {each.name: each for each in terms}
        self._arrange()

    def add(self, name: Any, spec: Any) -> Terms:
        """Set an operator's budget: see `AddedBudgets.set`. `roll` must follow."""
        terms = self._added.set(name, spec, self._named)
        if self.budgets.get(name) is None or self.budgets[name].terms != terms:
            self._arrange()
        return terms

    def remove(self, name: Any) -> None:
        """Take an operator's budget out: see `AddedBudgets.remove`. `roll` must follow."""
        self._added.remove(name, self._named)
        self._arrange()

    def source(self, name: str) -> Literal["policy", "admin"]:
        """Whose the budget of that name is that is in force."""
        return "policy" if name in self._named else "admin"

    def _arrange(self) -> None:
        # Policy's come first: the cluster's day that reports go by is one of them.
        every = (*self._named.values(), *self._added.in_force(self._named))
        known = {budget.terms: budget for budget in self.budgets.values()}
        self.budgets = {
            each.name: known.get(each) or Budget(each, periods.zone(each.timezone))
            for each in every
        }
        cluster = [budget for budget in self.budgets.values() if budget.terms.scope == "cluster"]
        self.daily = next(budget for budget in cluster if budget.terms.period == "day")
        self._shared = tuple(cluster)
        self.end_ns = 0

    def roll(self, now: int) -> None:
        """Go to the present periods; put away the accounts of those that are over.

        Accounts of budgets that are there no longer wait for the cluster's next day, so that
        a budget taken out and put back knows what was used.
        """
        before = self.labels
        for budget in self.budgets.values():
            if now >= budget.end_ns:
                budget.roll(now)
        self.end_ns = min(budget.end_ns for budget in self.budgets.values())
        self.labels = {name: budget.label for name, budget in self.budgets.items()}
        if self.labels == before:
            return
        self.labels_changed = True
        daily = self.daily.terms.name
        new_day = before.get(daily, self.daily.label) != self.daily.label
        for account in list(self.accounts.values()):
            label = self.labels.get(account.budget)
            if new_day if label is None else label != account.label:
                account.ended = True
                self.changed.add(account.key)
                self._put_away_if_over(account)

    def pick(
        self, subjects: Iterable[tuple[str, str]], key: str, team: str, model: str, user: str
    ) -> list[tuple[Budget, Account]]:
        """The accounts that a charge falls under.

        Those are the cluster's always, operators' by whose charge it is, and policy's that are
        named; names of no budget of policy are passed over. An account that is new is not in the
        books yet. Raises Overloaded when there is no room for a new one.
        """
        picked: dict[str, tuple[Budget, Account]] = {}
        for budget in self._shared:
            account = budget.accounts.get("") or self._find(budget, "")
            picked[account.key] = (budget, account)
        of_policy = (pair for pair in subjects if pair[0] in self._named)
        for name, subject in (*of_policy, *self._added.bound(key, team, model, user)):
            named = self.budgets[name]
            if named.terms.scope != "cluster":
                account = named.accounts.get(subject) or self._find(named, subject)
                picked[account.key] = (named, account)
        return list(picked.values())

    def hold(self, picked: Iterable[tuple[Budget, Account]], nanos: int) -> None:
        """Hold that much for one more charge on each account."""
        for budget, account in picked:
            if not account.kept:
                self.keep(account)
                budget.accounts[account.subject] = account
            account.ended = False
            account.pending += nanos
            account.open += 1
            self.changed.add(account.key)

    def release(self, accounts: Iterable[Account], held_nanos: int, spent_nanos: int) -> None:
        """Close one charge: what it held comes free on each account, what it cost is spent."""
        for account in accounts:
            account.pending -= held_nanos
            account.open -= 1
            account.posted += spent_nanos
            self.changed.add(account.key)
            if not account.open:
                self._put_away_if_over(account)

    def correct(self, account: Account, change_nanos: int) -> None:
        """Correct what is spent, unless the account's period is over and put away."""
        if not account.kept:
            found = self.accounts.get(account.key)
            if found is None:
                budget = self.budgets.get(account.budget)
                # An account without what is to be taken back is another one of the same name.
                if budget is None or budget.label != account.label or change_nanos < 0:
                    return
                found = Account(account.key)
                self.keep(found)
            account = found
        account.posted += change_nanos
        self.changed.add(account.key)
        self._put_away_if_over(account)

    def take_rows(self) -> Iterable[Row]:
        """Rows of what changed since the last call."""
        yield from self._added.take_rows()
        for key in self.changed:
            account = self.accounts.get(key)
            if account is None:
                yield Row("accounts", key, None)
            else:
                value = [account.posted, account.pending, account.open, account.ended]
                yield Row("accounts", key, value)
        self.changed = set()
        if self.labels_changed:
            self.labels_changed = False
            yield Row("meta", "periods", self.labels)

    def load(
        self,
        terms: Iterable[Terms],
        added: Mapping[str, Any],
        labels: dict[str, str],
        accounts: Mapping[str, Any],
    ) -> None:
        """Take over all budgets, the periods that they were last in, and the accounts.

        terms: policy's. added: operators', from their rows. `roll` must follow.
        """
        self._added.load(added)
        self.adopt(terms)
        self.labels = labels
        for key, (posted, pending, open, ended) in accounts.items():
            account = Account(key)
            account.posted, account.pending, account.open = posted, pending, open
            account.ended = ended
            self.keep(account)

    def keep(self, account: Account) -> None:
        """Put an account into the books."""
        account.kept = True
        self.accounts[account.key] = account

    def _put_away_if_over(self, account: Account) -> None:
        if not account.open and (account.ended or not account.posted):
            account.kept = False
            self.accounts.pop(account.key, None)
            budget = self.budgets.get(account.budget)
            if budget is not None and budget.label == account.label:
                budget.accounts.pop(account.subject, None)

    def _find(self, budget: Budget, subject: str) -> Account:
        key = budget.prefix + subject
        account = self.accounts.get(key)
        if account is None:
            if len(self.accounts) >= MAX_ACCOUNTS and budget.terms.scope != "cluster":
                raise Overloaded(
                    f"Budget '{budget.terms.name}' has no room for another "
                    f"{budget.terms.scope}: {MAX_ACCOUNTS:,} accounts are in use."
                )
            return Account(key)
        budget.accounts[subject] = account
        return account
