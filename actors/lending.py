"""Money lent to owners beforehand, what they have paid from it, and what becomes of their death."""

from collections.abc import Collection
from typing import Literal

from actors import purses
from actors.charges import (
    PAID,
    Charge,
    Facts,
    Paid,
    Usage,
    check_amount,
    contents,
)
from actors.purses import Lent, Purse
from actors.two_phase import TwoPhase

Charged = Literal["posted", "replaced", "already_posted"]


class Lending(TwoPhase):
    """The commands `exchange`, `charge` and `bury`, beside those of two phases."""

    def exchange(self, now: int, caller: str, wishes: tuple[Purse, ...]) -> tuple[Lent, ...]:
        """Take back what an owner does not use of its slices, and lend it more, in order.

        At most a quarter of what an account has available, and nothing while somebody waits
        for it or within a second of a recall, nor from a damaged ledger. Raises InvalidRequest.
        """
        if now >= self._due:
            self.advance(now)
        for each in wishes:
            purses.check(each)
        if self._journal.damage is not None:
            wishes = tuple([Purse(key, back, 0) for key, back, _ in wishes])
        short = self._line.short
        lent = tuple([self._purses.exchange(now, caller, each, short) for each in wishes])
        if short:
            self._line.ease([each[0] for each in wishes])
        return lent

    def charge(self, now: int, caller: str, charge: Paid) -> Charged:
        """Put what a call has cost in the place of what slices have covered of it.

        Slices that are gone cover nothing; the cost counts all the same. Once for each
        charge id, but that an actual cost replaces an estimated one, once. Raises
        InvalidRequest.
        """
        if now >= self._due:
            self.advance(now)
        owner, id, accounts, covered, amount, reserved, usage, facts, estimated, day = charge
        check_amount(amount)
        check_amount(covered, "covered")
        check_amount(reserved, "reserved")
        memory = self._memory
        if id in memory.closed:
            return "already_posted"
        if id in memory.estimates or id in memory.held:
            done = self.post(now, caller, id, amount, usage, estimated)
            return "replaced" if done == "replaced" else "already_posted"
        self._journal.write(now, id, estimated, amount, reserved, facts, usage, day)
        self._purses.pay(owner, accounts, covered, amount)
        if estimated:
            on = tuple([self._books.account(key) for key in accounts])
            told = contents((), reserved, facts)
            paid = Charge(id, owner, told, day, 0, reserved, on, Facts(*facts))
            paid.estimate(now, amount, Usage(*usage))
            memory.estimate(paid)
        else:
            memory.close(now, id, PAID, owner)
        if self._line.short:
            self._line.ease(accounts)
        return "posted"

    def bury(self, now: int, caller: str, owner: str, lost: bool) -> int:
        """End what a dead owner holds: slices and charges come free, and nobody waits for it.

        lost: nobody can tell which of its calls had begun, so all of it counts as spent,
        estimated; what was in its slices of a day's budget makes one ledger row.
        Returns how many holds have ended.
        """
        if now >= self._due:
            self.advance(now)
        held = self._memory.held_by(owner)
        for charge in held:
            if lost:
                self._post(now, charge, charge.reserved, Usage(), estimated=True)
            else:
                self._void(now, charge)
        slices = self._purses.bury(owner, lost)
        for account, nanos in slices:
            # Every call is paid from the cluster's day too, so that is where all of it shows.
            if lost and account.budget == self._books.daily.terms.name:
                id = f"{owner}-lost-{self._journal.head()[0] + 1}"
                who = Facts("", "", "", "", "lost", "", {})
                self._journal.write(now, id, True, nanos, nanos, who, Usage(), account.label)
        waiting = self._line.bury(owner)
        self._memory.bury(owner)
        self._line.ease([account.key for account, _ in slices])
        return len(held) + len(slices) + waiting

    def owners(self) -> Collection[str]:
        """See `Mechanism`."""
        return {*self._memory.owned, *self._purses.owners(), *self._line.owners()}
