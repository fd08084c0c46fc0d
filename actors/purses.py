"""Slices of accounts, lent to owners who spend them without asking.

What is lent is held: it counts as pending on its account at once, and comes free again by
its owner's word, or when the owner is buried. So no sum can exceed a budget, whoever spends
what when. A slice is what its owner has not used yet and, besides, what covers calls that
have not been charged yet; only the owner knows which.
"""

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from actors import fields
from actors.accounts import NEVER_NS, Account
from actors.budget_terms import MAX_AMOUNT_NANOS
from actors.budgets import Books
from actors.errors import Overloaded
from actors.mechanism import Bookkeeping, Row, owner_of

TABLE = "slices"
MAX_SLICES = 200_000
SHARE = 4
"""One slice is at most this part of what its account has available."""
REST_NS = 1_000_000_000
"""For so long after a recall nothing is lent from an account."""


class Purse(NamedTuple):
    """What an owner says about its slice of one account.

    account: its row key. back: nano-dollars given back; more: wished for on top.
    Without a wish, `back` is everything that the owner does not need for calls under way,
    and that is how a recall is answered.
    """

    account: str
    back: int
    more: int


class Lent(NamedTuple):
    """What it hears.

    granted: nano-dollars, at most what it wished for.
    ends_in_ns: until the account's period is over; None: never; 0: it is over already, or
        nothing is known of such an account.
    day: "YYYY-MM-DD", on which calls count that start now.
    """

    granted: int
    ends_in_ns: int | None
    day: str


class Recall(NamedTuple):
    """Somebody else needs what is left of a slice. account: its row key."""

    account: str


class Slice:
    """One owner's slice. caller: who asked for it last. recalled: and has not answered yet."""

    __slots__ = ("account", "caller", "key", "nanos", "owner", "recalled")

    def __init__(self, owner: str, account: Account, caller: str) -> None:
        self.owner = owner
        self.account = account
        self.key = f"{owner}|{account.key}"
        self.caller = caller
        self.nanos = 0
        self.recalled = False


class Purses:
    """All slices. answers: who takes the recalls; books: whose accounts they are of.

    count: how many there are.
    """

    def __init__(self, answers: Bookkeeping, books: Books) -> None:
        self._answers = answers
        self._books = books
        self.count = 0
        self._of: dict[str, dict[str, Slice]] = {}
        self._on: dict[str, dict[str, Slice]] = {}
        self._changed: dict[str, Slice] = {}

    def owners(self) -> Iterable[str]:
        """Who has slices."""
        return self._of

    def exchange(self, now: int, caller: str, purse: Purse, waited_for: Container[str]) -> Lent:
        """Take back, and lend what there is. waited_for: accounts that others wait for."""
        key, back, more = purse
        owner, day = owner_of(caller), self._books.daily.label
        slice = self._of.get(owner, {}).get(key)
        if slice is not None:
            self._heard(slice, caller, more)
            if back:
                self._shrink(slice, min(back, slice.nanos))
        budget = self._books.in_force(key)
        if budget is None:
            return Lent(0, 0, day)
        ends_in_ns = None if budget.end_ns == NEVER_NS else budget.end_ns - now
        if not more or key in waited_for:
            return Lent(0, ends_in_ns, day)
        try:
            account = self._books.open(budget, key[len(budget.prefix) :])
        except Overloaded:
            return Lent(0, ends_in_ns, day)
        left = budget.amount_nanos - account.posted - account.pending
        granted = min(more, left // SHARE)
        if granted <= 0 or now < account.recalled_ns + REST_NS:
            return Lent(0, ends_in_ns, day)
        if slice is None or not slice.nanos:
            if self.count >= MAX_SLICES:
                return Lent(0, ends_in_ns, day)
            slice = self._start(owner, account, caller)
        self._grow(slice, granted)
        return Lent(granted, ends_in_ns, day)

    def pay(self, owner: str, accounts: Iterable[str], covered: int, amount: int) -> None:
        """A call has cost `amount`, of which these slices have covered so much."""
        mine = self._of.get(owner)
        books = self._books
        for key in accounts:
            slice = mine.get(key) if mine else None
            if slice is None:
                books.correct(books.account(key), amount)
                continue
            account = slice.account
            account.posted += amount
            books.changed.add(key)
            if covered < slice.nanos:
                account.pending -= covered
                account.lent -= covered
                slice.nanos -= covered
                self._changed[slice.key] = slice
            else:
                self._shrink(slice, slice.nanos)

    def recall(self, now: int, account: Account) -> None:
        """Ask for what is left of all slices of an account; of each once until it is answered."""
        account.recalled_ns = now
        self._books.changed.add(account.key)
        for _, slice in sorted(self._on.get(account.key, {}).items()):
            if not slice.recalled:
                slice.recalled = True
                self._call(slice)

    def awaited(self, account: Account) -> int:
        """The most that may still come back from the slices that are recalled."""
        slices = self._on.get(account.key, {})
        return sum(slice.nanos for slice in slices.values() if slice.recalled)

    def bury(self, owner: str, lost: bool) -> list[tuple[Account, int]]:
        """End an owner's slices. Returns what was in them.

        lost: all of it counts as spent, because nobody can tell what was.
        """
        ended = []
        for _, slice in sorted(self._of.get(owner, {}).items()):
            account, nanos = slice.account, slice.nanos
            ended.append((account, nanos))
            if lost:
                account.posted += nanos
                self._books.changed.add(account.key)
            self._shrink(slice, nanos)
        return ended

    def take_rows(self) -> Iterable[Row]:
        """Rows of what changed since the last call."""
        for key, slice in self._changed.items():
            row = [slice.nanos, slice.caller, slice.recalled] if slice.nanos else None
            yield Row(TABLE, key, row)
        self._changed = {}

    def load(self, rows: Mapping[str, tuple[int, str, bool]]) -> None:
        """Take over all slices from their rows; accounts must be there."""
        for key, (nanos, caller, recalled) in rows.items():
            owner, _, account_key = key.partition("|")
            slice = self._start(owner, self._books.account(account_key), caller)
            self._grow(slice, nanos)
            slice.recalled = recalled
        self._changed = {}

    def _heard(self, slice: Slice, caller: str, more: int) -> None:
        """Its owner has spoken: without a wish that is an answer; with one, nothing new.

        An exchange that was under way when the recall was sent wishes for more.
        """
        if not more and slice.recalled:
            slice.recalled = False
            self._changed[slice.key] = slice
        if slice.caller != caller:
            slice.caller = caller
            self._changed[slice.key] = slice
            if slice.recalled:
                self._call(slice)

    def _call(self, slice: Slice) -> None:
        key = slice.account.key
        self._answers.answer(slice.caller, f"recall {key}", Recall(key))
        self._changed[slice.key] = slice

    def _start(self, owner: str, account: Account, caller: str) -> Slice:
        slice = Slice(owner, account, caller)
        self._of.setdefault(owner, {})[account.key] = slice
        self._on.setdefault(account.key, {})[owner] = slice
        self.count += 1
        self._books.hold(account, 0)
        return slice

    def _grow(self, slice: Slice, nanos: int) -> None:
        slice.nanos += nanos
        slice.account.pending += nanos
        slice.account.lent += nanos
        self._changed[slice.key] = slice

    def _shrink(self, slice: Slice, nanos: int) -> None:
        """So much of a slice is held no more; an empty one goes."""
        account = slice.account
        slice.nanos -= nanos
        account.pending -= nanos
        account.lent -= nanos
        self._changed[slice.key] = slice
        if slice.nanos:
            return
        mine, on = self._of[slice.owner], self._on[account.key]
        del mine[account.key], on[slice.owner]
        if not mine:
            del self._of[slice.owner]
        if not on:
            del self._on[account.key]
        self.count -= 1
        self._books.release(account, 0, 0)


def check(purse: Purse) -> None:
    """Raise InvalidRequest for what is no `Purse`."""
    key, back, more = purse
    fields.text(key, "account", 1_000)
    fields.whole(back, "back", 0, MAX_AMOUNT_NANOS)
    fields.whole(more, "more", 0, MAX_AMOUNT_NANOS)
