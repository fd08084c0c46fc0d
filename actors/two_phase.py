"""Money held before a call, and posted or given back after it."""

from typing import Literal

from actors.accounts import Picked
from actors.budgets import Books
from actors.charge_memory import Memory
from actors.charges import (
    PAID,
    POSTED,
    VOID,
    Charge,
    Exhausted,
    Facts,
    Refusal,
    Reserved,
    Subjects,
    Usage,
    check_amount,
    checksum,
    contents,
    seal,
    unseal,
)
from actors.cost_journal import Journal
from actors.cost_waiting import RECALL_NS, Line, Waiter
from actors.errors import IdempotencyMismatch, Overloaded
from actors.mechanism import Bookkeeping, Pending, owner_of
from actors.purses import Purses

MAX_HELD = 100_000
"""Charges held at once; past it `reserve` raises Overloaded."""

Posted = Literal["posted", "replaced", "already_posted", "already_voided", "unknown"]
Voided = Literal["voided", "already_voided", "already_posted", "unknown"]


class TwoPhase(Bookkeeping):
    """The commands `reserve`, `post` and `void`. Whoever inherits them minds the time."""

    def __init__(self) -> None:
        super().__init__()
        self._books = Books()
        self._memory = Memory()
        self._journal = Journal(self)
        self._purses = Purses(self, self._books)
        self._line = Line(self, self._books, self._purses)
        self._due = 0

    def advance(self, now: int) -> int | None:
        """See `Mechanism`."""
        raise NotImplementedError

    def reserve(
        self,
        now: int,
        caller: str,
        charge_id: str,
        subjects: Subjects,
        amount_nanos: int,
        max_wait_ns: int,
        facts: Facts,
    ) -> Reserved | Exhausted | Pending:
        """Hold the worst case of one provider call on all its budgets, or on none.

        subjects: (budget, subject) pairs; the cluster's own budgets need not be named, and
        names of no budget are passed over. Operators' budgets bind by `facts`.
        max_wait_ns: how long to wait, at most, where only slices stand in the way, which are
        recalled then; 250 ms at the least. The result comes by `charge_id`.

        The same id with the same content gets the same reply, with another content
        IdempotencyMismatch. Nothing refuses an amount of 0. Raises InvalidRequest, Overloaded
        where a bound is reached, and LedgerDamaged.
        """
        if now >= self._due:
            self.advance(now)
        told = contents(subjects, amount_nanos, facts)
        memory = self._memory
        if (
            charge_id in memory.held
            or charge_id in memory.closed
            or charge_id in memory.estimates
            or charge_id in memory.refusals
            or charge_id in self._line.waiting
        ):
            return self._again(now, caller, charge_id, told)
        self._journal.check()
        check_amount(amount_nanos)
        if len(memory.held) >= MAX_HELD:
            raise Overloaded(f"{MAX_HELD:,} provider calls are being paid for already.")
        picked = self._books.pick(subjects, facts)
        if amount_nanos:
            short = self._line.short
            for budget, account in picked:
                left = budget.amount_nanos - account.posted - account.pending
                if amount_nanos > left or account.key in short:
                    deadline_ns = now + max(max_wait_ns, RECALL_NS)
                    waiter = Waiter(
                        charge_id, caller, told, subjects, amount_nanos, facts, deadline_ns
                    )
                    return self._wait(now, waiter, picked)
        return self._hold(charge_id, caller, told, amount_nanos, picked, facts)

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
        charge = self._memory.held.get(charge_id)
        if charge is not None:
            self._post(now, charge, amount_nanos, usage, estimated)
            return "posted"
        estimate = self._memory.estimates.get(charge_id)
        if estimate is not None:
            if estimated:
                return "already_posted"
            self._replace(now, estimate, amount_nanos, usage)
            return "replaced"
        closed = self._memory.closed.get(charge_id)
        if closed is None:
            return "unknown"
        return "already_voided" if unseal(closed).end == VOID else "already_posted"

    def void(self, now: int, caller: str, charge_id: str) -> Voided:
        """Give back what was held: there was no call, or it costs nothing.

        One that still waits for its money goes as well.
        """
        if now >= self._due:
            self.advance(now)
        charge = self._memory.held.get(charge_id)
        if charge is not None:
            self._void(now, charge)
            return "voided"
        waiter = self._line.waiting.get(charge_id)
        if waiter is not None:
            self._line.leave(waiter)
            day = self._books.daily.label
            self._memory.close(now, charge_id, seal(VOID, waiter.contents, day))
            return "voided"
        closed = self._memory.closed.get(charge_id)
        if closed is not None and unseal(closed).end == VOID:
            return "already_voided"
        known = closed is not None or charge_id in self._memory.estimates
        return "already_posted" if known else "unknown"

    def _serve(self, now: int) -> None:
        """Answer those whose turn has come, and those who wait in vain."""
        for waiter, picked, obstacle in self._line.turns(now):
            reply: Reserved | Exhausted | Overloaded
            if obstacle is None:
                reply = self._hold(
                    waiter.id, waiter.caller, waiter.contents, waiter.amount, picked, waiter.facts
                )
            else:
                reply = obstacle
                if isinstance(obstacle, Exhausted):
                    self._refuse(now, waiter, obstacle)
            self.answer(waiter.caller, waiter.id, reply)

    def _again(self, now: int, caller: str, id: str, told: bytes) -> Reserved | Exhausted | Pending:
        """The reply to a reservation that comes again."""
        memory = self._memory
        charge = memory.held.get(id) or memory.estimates.get(id)
        waiter = self._line.waiting.get(id)
        refusal = memory.refusals.get(id)
        known = charge or waiter
        if known is not None:
            same = known.contents == told
        elif refusal is not None:
            same = refusal.check == checksum(told)
        else:
            closed = unseal(memory.closed[id])
            same = closed.end != PAID and closed.check == checksum(told)
        if not same:
            raise IdempotencyMismatch(
                f"Charge {id} came again with other content; each call has its own id."
            )
        if waiter is not None:
            self._line.asked_again(waiter, caller)
            return Pending()
        if charge is not None and not charge.estimated:
            return charge.reply()
        if refusal is not None:
            return refusal.again(now)
        return Reserved(charge.day if charge else closed.day, (), 0)

    def _wait(self, now: int, waiter: Waiter, picked: Picked) -> Exhausted | Pending:
        refused = self._line.enter(now, waiter, picked)
        if refused is None:
            self._due = min(self._due, waiter.deadline_ns)
            return Pending()
        self._refuse(now, waiter, refused)
        return refused

    def _refuse(self, now: int, waiter: Waiter, reply: Exhausted) -> None:
        self._memory.refuse(waiter.id, Refusal(checksum(waiter.contents), reply, now))

    def _hold(
        self, id: str, caller: str, told: bytes, amount: int, picked: Picked, facts: Facts
    ) -> Reserved:
        books = self._books
        accounts = tuple([account for _, account in picked])
        for account in accounts:
            books.hold(account, amount)
        owner, day, revision = owner_of(caller), books.daily.label, books.revision
        charge = Charge(id, owner, told, day, revision, amount, accounts, facts)
        self._memory.hold(charge)
        return charge.reply()

    def _post(self, now: int, charge: Charge, amount: int, usage: Usage, estimated: bool) -> None:
        reserved, day = charge.reserved, charge.day
        self._journal.write(now, charge.id, estimated, amount, reserved, charge.facts, usage, day)
        for account in charge.accounts:
            self._books.release(account, reserved, amount)
        self._memory.let_go(charge)
        if estimated:
            charge.estimate(now, amount, usage)
            self._memory.estimate(charge)
        else:
            self._memory.close(now, charge.id, seal(POSTED, charge.contents, day))
        if self._line.short:
            self._line.ease([account.key for account in charge.accounts])

    def _replace(self, now: int, charge: Charge, amount: int, usage: Usage) -> None:
        change = self._journal.correct(now, charge, amount, usage)
        for account in charge.accounts:
            self._books.correct(account, change)
        self._memory.end_estimate(charge.id)
        self._memory.close(now, charge.id, seal(POSTED, charge.contents, charge.day))
        if self._line.short:
            self._line.ease([account.key for account in charge.accounts])

    def _void(self, now: int, charge: Charge) -> None:
        for account in charge.accounts:
            self._books.release(account, charge.reserved, 0)
        self._memory.let_go(charge)
        self._memory.close(now, charge.id, seal(VOID, charge.contents, charge.day))
        if self._line.short:
            self._line.ease([account.key for account in charge.accounts])
