"""All budgets, of policy and added by operators, and the accounts of their present periods."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from actors import periods
from actors.accounts import Account, Budget, Picked
from actors.added_budgets import AddedBudgets
from actors.budget_terms import Terms, parse
from actors.charges import Facts, Subjects
from actors.errors import Overloaded
from actors.mechanism import Row

MAX_ACCOUNTS = 200_000

_new = tuple.__new__


class Books:
    """All budgets and accounts.

    accounts: by row key. budgets: those in force, by name.
    daily: the cluster's daily budget, which is always there.
    end_ns: when the first period ends. changed: keys of accounts whose rows are to be written.
    labels: the period that each budget was last in. revision: of all that says which
    accounts bind a charge: grows when a budget is set or removed, or a period begins.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.budgets: dict[str, Budget] = {}
        self._added = AddedBudgets()
        self.changed: set[str] = set()
        self.labels: dict[str, str] = {}
        self.revision = 0
        self.adopt(parse({}))
        self._written = self.revision

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
        # Whoever reserves names these; the cluster's and operators' bind unnamed.
        self._nameable = {
            name: self.budgets[name]
            for name, terms in self._named.items()
            if terms.scope != "cluster"
        }
        self.revision += 1
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
        self.revision += 1
        daily = self.daily.terms.name
        new_day = before.get(daily, self.daily.label) != self.daily.label
        for account in list(self.accounts.values()):
            label = self.labels.get(account.budget)
            if new_day if label is None else label != account.label:
                account.ended = True
                self.changed.add(account.key)
                self._put_away_if_over(account)
            elif label is not None and account.ended:
                # Its budget is back.
                account.ended = False
                self.changed.add(account.key)

    def pick(self, subjects: Subjects, facts: Facts) -> Picked:
        """The accounts that a charge falls under.

        Those are the cluster's always, operators' by whose charge it is, and policy's that are
        named; names of no budget of policy are passed over. An account that is new is not in the
        books yet. Raises Overloaded when there is no room for a new one.
        """
        accounts = self.accounts
        picked: Picked = []
        for budget in self._shared:
            # The cluster's subject is "": the prefix is the whole key.
            account = accounts.get(budget.prefix)
            picked.append((budget, Account(budget.prefix) if account is None else account))
        if len(subjects) > 1 and len(set(subjects)) < len(subjects):
            subjects = tuple(dict.fromkeys(subjects))
        for name, subject in subjects:
            named = self._nameable.get(name)
            if named is not None:
                account = accounts.get(named.prefix + subject)
                picked.append((named, self.open(named, subject) if account is None else account))
        if self._added.binding:
            key, team, user, model, *_ = facts
            for name, subject in self._added.bound(key, team, model, user):
                budget = self.budgets[name]
                picked.append((budget, self.open(budget, subject)))
        return picked

    def open(self, budget: Budget, subject: str) -> Account:
        """The account of that subject in the present period; a new one is not kept yet.

        Raises Overloaded when there is no room for a new one.
        """
        key = budget.prefix + subject
        account = self.accounts.get(key)
        if account is not None:
            return account
        if len(self.accounts) >= MAX_ACCOUNTS and budget.terms.scope != "cluster":
            raise Overloaded(
                f"Budget '{budget.terms.name}' has no room for another "
                f"{budget.terms.scope}: {MAX_ACCOUNTS:,} accounts are in use."
            )
        return Account(key)

    def account(self, key: str) -> Account:
        """The account with that row key; made up, outside of the books, where there is none."""
        return self.accounts.get(key) or Account(key)

    def in_force(self, key: str) -> Budget | None:
        """The budget of the account with that row key, unless that one's period is over."""
        name, _, rest = key.partition("|")
        budget = self.budgets.get(name)
        if budget is None or rest.partition("|")[0] != budget.label:
            return None
        return None if budget.terms.scope == "cluster" and key != budget.prefix else budget

    def hold(self, account: Account, nanos: int) -> None:
        """Hold that much on an account, for one more charge or slice."""
        if not account.kept:
            self.keep(account)
        account.pending += nanos
        account.open += 1

    def release(self, account: Account, held_nanos: int, spent_nanos: int) -> None:
        """Close one charge or slice: what it held comes free, what it cost is spent."""
        account.pending -= held_nanos
        account.open -= 1
        if spent_nanos:
            account.posted += spent_nanos
            self.changed.add(account.key)
        if not account.open:
            self._put_away_if_over(account)

    def correct(self, account: Account, change_nanos: int) -> None:
        """Correct what is spent, unless the account's period is over and put away."""
        if not account.kept:
            found = self.accounts.get(account.key)
            if found is None:
                # An account without what is to be taken back is another one of the same name.
                if change_nanos < 0 or self.in_force(account.key) is None:
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
        accounts = self.accounts
        for key in self.changed:
            account = accounts.get(key)
            value: list[Any] | None = None
            if account is not None:
                value = [account.posted, account.ended, account.recalled_ns]
            yield _new(Row, ("accounts", key, value if value is not None and any(value) else None))
        self.changed = set()
        if self.revision != self._written:
            self._written = self.revision
            yield Row("meta", "periods", [self.revision, self.labels])

    def load(
        self,
        terms: Iterable[Terms],
        added: Mapping[str, Any],
        revised: tuple[int, dict[str, str]],
        accounts: Mapping[str, Any],
    ) -> None:
        """Take over all budgets, the periods that they were last in, and the accounts.

        terms: policy's. added: operators', from their rows. revised: the row "periods".
        What is held comes afterwards, with `hold`. `roll` must follow.
        """
        self._added.load(added)
        self.adopt(terms)
        self.revision, self.labels = revised
        self._written = self.revision
        for key, (posted, ended, recalled_ns) in accounts.items():
            account = Account(key)
            account.posted, account.ended, account.recalled_ns = posted, ended, recalled_ns
            self.keep(account)

    def keep(self, account: Account) -> None:
        """Put an account into the books."""
        account.kept = True
        self.accounts[account.key] = account

    def _put_away_if_over(self, account: Account) -> None:
        if not account.open and (account.ended or not account.posted):
            account.kept = False
            self.changed.add(account.key)
            self.accounts.pop(account.key, None)
