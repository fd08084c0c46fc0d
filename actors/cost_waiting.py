"""Reservations that wait for recalled slices, first come, first served on each account.

One may go when each of its accounts has enough for it, and none of them has, at this
moment, too little for another that came earlier. So a line never waits for an account that
its charges do not fall under.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from actors.accounts import Account, Budget, Picked
from actors.budgets import Books
from actors.charges import Exhausted, Facts, Subjects, contents
from actors.errors import Overloaded
from actors.mechanism import Bookkeeping, owner_of
from actors.purses import Purses
from actors.timetable import Timetable

TABLE = "waiting"
MAX_WAITING = 10_000
RECALL_NS = 250_000_000
"""For so long an owner may take to answer a recall before anybody is refused."""

Obstacle = Exhausted | Overloaded


class Waiter:
    """One that waits, or is about to.

    number: of its place. short: row keys of the accounts that have too little for it.
    behind: of those that have too little for one before it.
    """

    __slots__ = (
        "amount",
        "behind",
        "caller",
        "contents",
        "deadline_ns",
        "facts",
        "id",
        "number",
        "short",
        "subjects",
    )

    def __init__(
        self,
        id: str,
        caller: str,
        contents: bytes,
        subjects: Subjects,
        amount: int,
        facts: Facts,
        deadline_ns: int,
    ) -> None:
        self.id = id
        self.caller = caller
        self.contents = contents
        self.subjects = subjects
        self.amount = amount
        self.facts = facts
        self.deadline_ns = deadline_ns
        self.number = 0
        self.short: frozenset[str] = frozenset()
        self.behind: frozenset[str] = frozenset()

    def row(self) -> tuple[Any, ...]:
        """Its row."""
        stopped = (sorted(self.short), sorted(self.behind))
        place = (self.number, self.caller, self.deadline_ns)
        return (*place, *stopped, msgspec.Raw(self.contents))


class Turn(NamedTuple):
    """A waiter that waits no more. obstacle: what has stopped it for good; None: it may go."""

    waiter: Waiter
    picked: Picked
    obstacle: Obstacle | None


class Line:
    """See the module's docstring.

    waiting: by charge id, in order. short: on which accounts, and how many of them, find too
    little; nothing is lent from these.
    """

    def __init__(self, rows: Bookkeeping, books: Books, purses: Purses) -> None:
        self._changed = rows
        self._books = books
        self._purses = purses
        self.waiting: dict[str, Waiter] = {}
        self.short: dict[str, int] = {}
        self._times = Timetable()
        self._eased: set[str] = set()

    def owners(self) -> set[str]:
        """Who waits."""
        return {owner_of(waiter.caller) for waiter in self.waiting.values()}

    def enter(self, now: int, waiter: Waiter, picked: Picked) -> Exhausted | None:
        """Take in somebody who can't go now, and recall what stands in his way.

        Returns a refusal instead when all that is lent would not help him. Raises Overloaded
        when too many wait.
        """
        short, behind, found = self._look(now, waiter, picked, self.short)
        if found is not None:
            return found
        if len(self.waiting) >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING:,} calls wait for their budgets; try later.")
        last = next(reversed(self.waiting.values()), None)
        waiter.number = last.number + 1 if last else 0
        self._seat(waiter)
        self._stand(now, waiter, picked, short, behind)
        return None

    def asked_again(self, waiter: Waiter, caller: str) -> None:
        """The result goes to whoever has asked last."""
        if caller != waiter.caller:
            waiter.caller = caller
            self._changed.put(TABLE, waiter.id, waiter.row())

    def leave(self, waiter: Waiter) -> None:
        """Let somebody go, whatever the reason; who stands behind him is to be looked at."""
        del self.waiting[waiter.id]
        self._times.cancel(waiter.id)
        self._eased |= waiter.short
        self._count(waiter.short, -1)
        self._changed.drop(TABLE, waiter.id)

    def bury(self, owner: str) -> int:
        """Those of an owner go. Returns how many."""
        gone = [each for each in self.waiting.values() if owner_of(each.caller) == owner]
        for waiter in gone:
            self.leave(waiter)
        return len(gone)

    def ease(self, keys: Iterable[str]) -> None:
        """Something has come free on these accounts, or a recall there was answered."""
        self._eased.update(key for key in keys if key in self.short)

    def ease_all(self) -> None:
        """Budgets are others now."""
        for waiter in self.waiting.values():
            self._eased |= waiter.short | waiter.behind

    def due_ns(self) -> int | None:
        """When the first of them has waited long enough."""
        return self._times.next_ns()

    def turns(self, now: int) -> Iterator[Turn]:
        """Those whose turn it is, and those who wait in vain; act on each before the next."""
        while True:
            while self._eased:
                yield from self._walk(now)
            id = self._times.due(now)
            if id is None:
                return
            yield self._last_turn(now, self.waiting[id])

    def load(self, rows: Mapping[str, Any]) -> None:
        """Take over all from their rows."""
        for id, row in sorted(rows.items(), key=lambda item: int(item[1][0])):
            number, caller, deadline_ns, short, behind, told = row
            subjects, amount, facts = told
            packed = contents(subjects, amount, facts)
            pairs = tuple((name, subject) for name, subject in subjects)
            waiter = Waiter(id, caller, packed, pairs, amount, Facts(*facts), deadline_ns)
            waiter.number, waiter.short, waiter.behind = number, frozenset(short), frozenset(behind)
            self._seat(waiter)
            self._count(waiter.short, 1)

    def _walk(self, now: int) -> Iterator[Turn]:
        """Go through the line once, and look at those whose accounts have eased.

        Whoever goes only makes room for those behind him, so once is enough.
        """
        eased, self._eased = self._eased, set()
        ahead: set[str] = set()
        for waiter in list(self.waiting.values()):
            if eased.isdisjoint(waiter.short) and eased.isdisjoint(waiter.behind):
                ahead |= waiter.short
                continue
            picked: Picked = []
            obstacle: Obstacle | None
            try:
                picked = self._books.pick(waiter.subjects, waiter.facts)
                short, behind, obstacle = self._look(now, waiter, picked, ahead)
            except Overloaded as error:
                short, behind, obstacle = frozenset(), frozenset(), error
            if obstacle is None and (short or behind):
                self._eased |= waiter.short - short
                self._stand(now, waiter, picked, short, behind)
                ahead |= short
            else:
                self.leave(waiter)
                yield Turn(waiter, picked, obstacle)
            eased |= self._eased
            self._eased = set()

    def _last_turn(self, now: int, waiter: Waiter) -> Turn:
        """Somebody has waited long enough.

        He goes if there is enough for him, though it were meant for one before him: money
        that is there is no reason to be refused for good.
        """
        self.leave(waiter)
        try:
            picked = self._books.pick(waiter.subjects, waiter.facts)
        except Overloaded as error:
            return Turn(waiter, [], error)
        for budget, account in picked:
            if waiter.amount > budget.amount_nanos - account.posted - account.pending:
                return Turn(waiter, picked, exhausted(now, budget, account))
        return Turn(waiter, picked, None)

    def _look(
        self, now: int, waiter: Waiter, picked: Picked, ahead: Container[str]
    ) -> tuple[frozenset[str], frozenset[str], Exhausted | None]:
        """(where there is too little for him, where he stands behind others, a refusal).

        ahead: accounts that have too little for those before him.
        """
        short, behind = [], []
        for budget, account in picked:
            missing = waiter.amount - (budget.amount_nanos - account.posted - account.pending)
            if missing <= 0:
                if account.key in ahead:
                    behind.append(account.key)
                continue
            # All that is lent there may come back, but for what was said to be needed since
            # he has come.
            asked = account.key in waiter.short
            if missing > (self._purses.awaited(account) if asked else account.lent):
                return frozenset(), frozenset(), exhausted(now, budget, account)
            short.append(account.key)
        return frozenset(short), frozenset(behind), None

    def _stand(
        self,
        now: int,
        waiter: Waiter,
        picked: Picked,
        short: frozenset[str],
        behind: frozenset[str],
    ) -> None:
        """Note what somebody waits for, and recall what is new of it."""
        for _, account in picked:
            if account.key in short and account.key not in waiter.short:
                self._purses.recall(now, account)
        self._count(waiter.short, -1)
        self._count(short, 1)
        waiter.short, waiter.behind = short, behind
        self._changed.put(TABLE, waiter.id, waiter.row())

    def _seat(self, waiter: Waiter) -> None:
        self.waiting[waiter.id] = waiter
        self._times.set(waiter.id, waiter.deadline_ns)

    def _count(self, keys: Iterable[str], by: int) -> None:
        for key in keys:
            count = self.short.get(key, 0) + by
            if count:
                self.short[key] = count
            else:
                del self.short[key]


def exhausted(now: int, budget: Budget, account: Account) -> Exhausted:
    """The refusal for somebody to whom this account has too little to give."""
    left = max(0, budget.amount_nanos - account.posted - account.pending)
    until = budget.resets_in_ns(now)
    return Exhausted(budget.terms.name, account.subject, budget.amount_nanos, left, until)
