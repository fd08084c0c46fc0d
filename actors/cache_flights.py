"""Who fetches an answer that is not in the cache, and who waits for it.

A key that is being fetched has a flight: one leader, and waiters in order of arrival. A
leader leads until it says otherwise or its owner is buried; waiters have their patience.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from actors.cache_entries import Entry, Stored
from actors.errors import InvalidRequest
from actors.holders import Holders
from actors.mechanism import Bookkeeping, Row, owner_of
from actors.timetable import Timetable

TABLE = "claims"


class Lead(NamedTuple):
    """The right to fetch and fill. generation: of purges, given back with the fill."""

    lead_id: str
    generation: int


class Hit(NamedTuple):
    """An answer.

    age_ns: since it was filled.
    stale: past its time to live, still good while it is refreshed or instead of an error.
    lead: the duty to refresh it, for one asker of a stale answer; None for the others.
    fresh_ns: for how long a copy of it is good, unless there is a purge; 0: for no moment.
    """

    entry: Entry
    age_ns: int
    stale: bool
    lead: Lead | None
    fresh_ns: int = 0


class Unanswered(NamedTuple):
    """The leader took longer than this waiter would wait. reason: "max_wait"."""

    reason: str


class Role(IntEnum):
    """What a claim is: the key's leader, a waiter, or a leader beside it that nobody awaits."""

    LEAD = 0
    WAIT = 1
    BYPASS = 2


@dataclass(slots=True)
class Claim:
    """A hold on a key.

    caller: whose it is, and to whom a late reply goes.
    generation: the purge generation in which it was asked for, or became leader.
    purged: the generation of the first purge that hit it as a leader; 0 for none.
    ends_ns: when a waiter's patience ends (host's clock); 0 for leaders.
    order: of arrival.
    """

    id: str
    role: Role
    key: str
    tenant: str
    model: str
    caller: str
    generation: int
    purged: int
    ends_ns: int
    order: int

    def may_take(self, lead: "Claim") -> bool:
        """Whether this waiter is answered by what `lead` fetched: asked before any purge of it."""
        unpurged = not lead.purged or self.generation < lead.purged
        return unpurged and self.tenant == lead.tenant


def purged_by(by: str, value: str) -> Callable[[str, Stored | Claim], bool]:
    """Whether a purge by "all", "model", "tenant" or "key" means this key, and what is there.

    Raises InvalidRequest for any other word.
    """
    tests: dict[str, Callable[[str, Stored | Claim], bool]] = {
        "all": lambda key, of: True,
        "model": lambda key, of: of.model == value,
        "tenant": lambda key, of: of.tenant == value,
        "key": lambda key, of: key == value,
    }
    if by not in tests:
        raise InvalidRequest(f"Purge by {', '.join(tests)}, not by {by}", param="by")
    return tests[by]


@dataclass(slots=True)
class _Flight:
    leader: Claim | None = None
    waiters: dict[str, Claim] = field(default_factory=dict)


class Flights:
    """All claims. Each change of one is noted in `books` as one row, late replies too.

    generation: how many purges there were.
    waiters: how many claims wait.
    """

    def __init__(self, books: Bookkeeping) -> None:
        self._books = books
        self._claims: dict[str, Claim] = {}
        self._flights: dict[str, _Flight] = {}
        self._ends = Timetable()
        self._holders = Holders()
        self._order = 0
        self.generation = 0
        self.waiters = 0

    def __len__(self) -> int:
        return len(self._claims)

    def find(self, id: str) -> Claim | None:
        """The claim with this id, if it is still held."""
        return self._claims.get(id)

    def leading(self, id: str, key: str, generation: int) -> Claim | None:
        """The claim with this id, if it leads this key (or beside it) since that generation."""
        claim = self._claims.get(id)
        if claim is None or claim.role == Role.WAIT:
            return None
        return claim if (claim.key, claim.generation) == (key, generation) else None

    def leader(self, key: str) -> Claim | None:
        """Who leads this key."""
        flight = self._flights.get(key)
        return flight.leader if flight else None

    def waiting(self, key: str) -> int:
        """How many wait for this key."""
        flight = self._flights.get(key)
        return len(flight.waiters) if flight else 0

    def open(
        self,
        id: str,
        role: Role,
        key: str,
        tenant: str,
        model: str,
        caller: str,
        ends_ns: int = 0,
    ) -> Lead:
        """Take a claim that is not held yet."""
        generation, order = self.generation, self._order + 1
        claim = Claim(id, role, key, tenant, model, caller, generation, 0, ends_ns, order)
        self._enter(claim)
        self._note(claim)
        return Lead(id, generation)

    def readdress(self, claim: Claim, caller: str) -> None:
        """Send a claim's late reply to its holder's new name."""
        if claim.caller != caller:
            self._holders.remove(owner_of(claim.caller), claim.id)
            self._holders.add(owner_of(caller), claim.id)
            claim.caller = caller
            self._note(claim)

    def land(self, lead: Claim, hit: Hit) -> None:
        """Close a lead that has its answer, and give it to the waiters that may take it."""
        self._close(lead)
        flight = self._flights.get(lead.key)
        for waiter in list(flight.waiters.values()) if flight else []:
            if waiter.may_take(lead):
                self._close(waiter)
                self._books.answer(waiter.caller, waiter.id, hit)
        self._hand_over(lead.key)

    def leave(self, claim: Claim) -> None:
        """Close a claim without an answer; a leader's next waiter leads."""
        self._close(claim)
        self._hand_over(claim.key)

    def owners(self) -> Iterable[str]:
        """Who leads or waits."""
        return self._holders

    def bury(self, owner: str) -> int:
        """Close an owner's claims, and say how many there were."""
        claims = [self._claims[id] for id in self._holders.of(owner)]
        # Waiters first: none of them is to be the heir.
        for claim in sorted(claims, key=lambda claim: claim.role != Role.WAIT):
            self.leave(claim)
        return len(claims)

    def purge(self, matches: Callable[[str, Claim], bool]) -> int:
        """Begin a generation in which the fills of matching leads are worth nothing."""
        self.generation += 1
        for claim in self._claims.values():
            if claim.role != Role.WAIT and not claim.purged and matches(claim.key, claim):
                claim.purged = self.generation
                self._note(claim)
        return self.generation

    def catch_up(self, now: int) -> None:
        """Refuse the waiters whose patience is over, in the order in which it was."""
        while (id := self._ends.due(now)) is not None:
            claim = self._claims[id]
            self._close(claim)
            self._books.answer(claim.caller, claim.id, Unanswered("max_wait"))

    def next_ns(self) -> int | None:
        """When the next waiter's patience is over."""
        return self._ends.next_ns()

    def status(self) -> dict[str, int]:
        """Who leads and who waits now, and how many purges there were."""
        return {
            "leaders": len(self._claims) - self.waiters,
            "waiters": self.waiters,
            "generation": self.generation,
        }

    def load(self, rows: Iterable[Row], generation: int) -> None:
        """Take claims from their rows."""
        self.generation = generation
        claims = [Claim(row.key, Role(row.value[0]), *row.value[1:]) for row in rows]
        for claim in sorted(claims, key=lambda claim: claim.order):
            self._enter(claim)

    def _enter(self, claim: Claim) -> None:
        self._order = claim.order
        self._claims[claim.id] = claim
        self._holders.add(owner_of(claim.caller), claim.id)
        if claim.role == Role.BYPASS:
            return
        flight = self._flights.setdefault(claim.key, _Flight())
        if claim.role == Role.LEAD:
            flight.leader = claim
        else:
            flight.waiters[claim.id] = claim
            self._ends.set(claim.id, claim.ends_ns, claim.order)
            self.waiters += 1

    def _close(self, claim: Claim) -> None:
        del self._claims[claim.id]
        self._holders.remove(owner_of(claim.caller), claim.id)
        self._ends.cancel(claim.id)
        self._books.drop(TABLE, claim.id)
        if claim.role == Role.BYPASS:
            return
        flight = self._flights[claim.key]
        if claim.role == Role.LEAD:
            flight.leader = None
        else:
            del flight.waiters[claim.id]
            self.waiters -= 1
        if flight.leader is None and not flight.waiters:
            del self._flights[claim.key]

    def _hand_over(self, key: str) -> None:
        """Make the first waiter of a key that nobody leads its leader, and tell it."""
        flight = self._flights.get(key)
        if flight is None or flight.leader is not None:
            return
        heir = flight.waiters.pop(next(iter(flight.waiters)))
        self.waiters -= 1
        heir.role, heir.generation, heir.ends_ns = Role.LEAD, self.generation, 0
        flight.leader = heir
        self._ends.cancel(heir.id)
        self._note(heir)
        self._books.answer(heir.caller, heir.id, Lead(heir.id, heir.generation))

    def _note(self, claim: Claim) -> None:
        row = [
            int(claim.role),
            claim.key,
            claim.tenant,
            claim.model,
            claim.caller,
            claim.generation,
            claim.purged,
            claim.ends_ns,
            claim.order,
        ]
        self._books.put(TABLE, claim.id, row)
