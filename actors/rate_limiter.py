"""Rate limits for the whole cluster: requests, tokens and concurrency, all or nothing.

A request asks for all limits that it falls under at once. It is admitted by all of them,
refused by one, or gets a ticket. What it took is a hold: its holder settles it (slots
come back, estimated tokens are corrected) or undoes it. An owner of many requests may
be lent a slice of a limit instead, and spend it without asking. No time ends a hold or a
slice: only its holder's word does, or `bury`.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal

from actors import gates, obstacles, rate_holds, rate_slices, waiting_room
from actors.admissions import Admissions
from actors.limits import Lent, LimitState, Take, Wish, read_limits
from actors.mechanism import Changes, Kind, Row

_STATUS_LIMITS = 1000


class RateLimiter(Admissions):
    """See the module's docstring, and `Mechanism` for the part that hosts use."""

    NAME: ClassVar[str] = "rate_limiter"
    DURABLE: ClassVar[bool] = False
    MIRRORED: ClassVar[bool] = True
    CLOCK: ClassVar[Literal["steady", "wall"]] = "steady"
    TABLES: ClassVar[Mapping[str, Kind]] = {
        "policy": "live",
        gates.TABLE: "live",
        rate_holds.TABLE: "live",
        rate_slices.TABLE: "live",
        waiting_room.TABLE: "live",
    }
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"configure", "acquire", "use", "settle", "undo", "exchange", "bury", "look", "status"}
    )
    REPEATABLE: ClassVar[frozenset[str]] = frozenset({"acquire"})
    READS: ClassVar[frozenset[str]] = frozenset({"look", "status"})

    def __init__(self, max_tickets: int = 10_000) -> None:
        """max_tickets: how many may wait; the next one meets Overloaded."""
        super().__init__(max_tickets)
        self._revision: str | None = None

    def configure(self, now: int, caller: str, revision: str, policy: dict[str, Any]) -> None:
        """Put a policy in force, as `read_limits` takes it; raises InvalidRequest.

        What was used of a limit, or is lent of it, stays so when it changes in place.
        """
        if revision == self._revision:
            return
        changed, gone = self._gates.adopt(now, read_limits(policy))
        self._revision = revision
        self.put("policy", "policy", [revision, policy])
        self._gates.count_slots(self._holds.slots())
        self._holds.hold_again(now, self._gates)
        self._slices.follow(now, changed, gone)
        for old in self._room.clear():
            takes = [(gate.limit.name, gate.subject, quantity) for gate, quantity in old.asks]
            ticket = old._replace(asks=self._gates.asks(now, takes))
            if never := obstacles.beyond_burst(ticket.asks):
                self.answer(ticket.caller, ticket.id, obstacles.refused(now, ticket.asks, never))
            elif any(quantity for _, quantity in ticket.asks):
                self._room.enter(ticket)
            else:
                self._grant(now, ticket)
        self._room.look_everywhere()
        self.advance(now)

    def exchange(self, now: int, caller: str, wishes: tuple[Wish, ...]) -> tuple[Lent, ...]:
        """For each wish, one after another: report, return, and be lent what can be spared.

        The slices belong to the caller's owner; a recall goes to the caller that spoke last.
        Nothing is lent where somebody waits, nor within QUIET_NS after a recall, and never
        more than leaves half a burst to those who ask directly. What is reported as used is
        debited in any case. A limit that the policy does not have lends nothing, and has
        an empty state. Raises InvalidRequest.
        """
        if now > self._now:
            self.advance(now)
        lent = self._slices.exchange(now, caller, wishes)
        self._serve(now)
        return lent

    def bury(self, now: int, caller: str, owner: str, lost: bool) -> int:
        """End all holds, slices and tickets of a dead owner; returns how many there were.

        Slots come back; of everything else nothing does, and what was lent counts as used.
        lost: whether its node is gone as well, which is all the same here.
        """
        if now > self._now:
            self.advance(now)
        waiting = self._room.of(owner)
        for ticket in waiting:
            self._room.leave(now, ticket)
        holds = self._holds.of(owner)
        for id in holds:
            self._end(now, id, None)
        slices = self._slices.bury(now, owner)
        self._serve(now)
        return len(waiting) + len(holds) + slices

    def look(self, now: int, caller: str, takes: tuple[Take, ...]) -> tuple[LimitState, ...]:
        """How these limits stand; nothing is taken, whatever the quantities are."""
        states = (self._gates.look(now, take[0], take[1]) for take in takes)
        return tuple(state for state in states if state is not None)

    def status(self, now: int, caller: str) -> dict[str, Any]:
        """{"limits": as `Gates.listing`, "waiting": tickets, "holds", "slices": not ended}."""
        return {
            "limits": self._gates.listing(now, _STATUS_LIMITS),
            "waiting": len(self._room.tickets),
            "holds": len(self._holds),
            "slices": len(self._slices),
        }

    def owners(self) -> Collection[str]:
        """See `Mechanism`; who waits is among them."""
        return self._room.owners().union(self._holds.owners(), self._slices.owners())

    def advance(self, now: int) -> int | None:
        """See `Mechanism`.

        Admits those whose turn it is, refuses those who have waited too long, and forgets
        full buckets.
        """
        self._now = now
        # Whose time is up this very moment may still be served; whose time is over may not,
        # lest a restart admit those who have long gone.
        for until_ns in (now - 1, now):
            due = self._room.due()
            if due is None or due > now:
                break
            self._refuse_late(now, until_ns)
            self._serve(now)
        self._gates.sweep(now)
        dues = (self._room.due(), self._gates.due())
        return min((due for due in dues if due is not None), default=None)

    def load(self, rows: Iterable[Row]) -> None:
        """See `Mechanism`."""
        tables: dict[str, dict[str, Any]] = {table: {} for table in self.TABLES}
        for table, key, value in rows:
            tables[table][key] = value
        for self._revision, policy in tables["policy"].values():
            self._gates.adopt(0, read_limits(policy))
        self._gates.load(tables[gates.TABLE].items())
        self._holds.load(tables[rate_holds.TABLE].items(), self._gates)
        self._gates.count_slots(self._holds.slots())
        self._slices.load(tables[rate_slices.TABLE].values())
        self._room.load(tables[waiting_room.TABLE].items(), self._gates)
        self.take_changes()  # what was read need not be written

    def take_changes(self) -> Changes:
        """See `Mechanism`; what changed often, or came and went, is written once or not at all."""
        changes = super().take_changes()
        changes.rows.extend(self._gates.take_rows() + self._holds.take_rows())
        return changes
