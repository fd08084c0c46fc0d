"""Rate limits for the whole cluster: requests, tokens and concurrency, all or nothing.

A request asks for all limits that it falls under at once. It is admitted by all of them,
refused by one, or gets a ticket. What it took is a hold: its holder settles it (slots
come back, estimated tokens are corrected) or undoes it, or its lifetime ends.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from actors.errors import InvalidRequest, Overloaded
from actors.gates import Asks, Gate, Gates
from actors.gcra import Bucket
from actors.limits import LOW, Admitted, LimitState, Refused, Take, read_limits
from actors.mechanism import Bookkeeping, Changes, Pending, Row
from actors.rate_holds import Hold
from actors.timetable import Timetable
from actors.waiting_room import (
    Obstacle,
    Ticket,
    WaitingRoom,
    beyond_burst,
    estimates,
    longest,
    obstacles,
    refusal,
    worst,
)

_STATUS_LIMITS = 1000


class RateLimiter(Bookkeeping):
    """See the module's docstring, and `Mechanism` for the part that hosts use."""

    NAME: ClassVar[str] = "rate_limiter"
    DURABLE: ClassVar[bool] = False
    CLOCK: ClassVar[Literal["steady", "wall"]] = "steady"
    TABLES: ClassVar[Mapping[str, Literal["live", "archive"]]] = {
        "policy": "live",
        "buckets": "live",
        "holds": "live",
        "tickets": "live",
    }
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"configure", "acquire", "settle", "undo", "look", "status"}
    )

    def __init__(self, max_tickets: int = 10_000) -> None:
        """max_tickets: how many may wait; the next one meets Overloaded."""
        super().__init__()
        self._max_tickets = max_tickets
        self._revision: str | None = None
        self._gates = Gates()
        self._holds: dict[str, Hold] = {}
        self._ends = Timetable()
        self._room = WaitingRoom()
        self._deadlines = Timetable()
        # Counts arrivals and admissions: places in line, and marks in buckets.
        self._number = 0
        self._now = -1  # how far `advance` has been
        self._changed: set[Gate] = set()

    def configure(self, now: int, caller: str, revision: str, policy: dict[str, Any]) -> None:
        """Put a policy in force, as `read_limits` takes it; raises InvalidRequest.

        What was used of a limit stays used when it changes in place.
        """
        if revision == self._revision:
            return
        changed, gone = self._gates.adopt(now, read_limits(policy))
        self._revision = revision
        self.put("policy", "policy", [revision, policy])
        self._changed.update(changed)
        self._forget(gone)
        self._count_slots()
        waiting, self._room = self._room.tickets.values(), WaitingRoom()
        for old in waiting:
            takes = [(*gate.key, quantity) for gate, quantity in old.asks]
            ticket = old._replace(asks=self._gates.asks(now, takes))
            if never := beyond_burst(ticket.asks):
                self._refuse(now, ticket, never)
            elif any(quantity for _, quantity in ticket.asks):
                self._seat(ticket)
            else:
                self._grant(now, ticket)
        self._room.look_everywhere()
        self.advance(now)

    def acquire(
        self,
        now: int,
        caller: str,
        take_id: str,
        takes: tuple[Take, ...],
        priority: int,
        max_wait_ns: int,
        lifetime_ns: int,
    ) -> Admitted | Refused | Pending:
        """Take from all these limits, or from none.

        priority: HIGH, NORMAL or LOW. max_wait_ns: the longest time to wait for a turn; 0
        refuses at once. lifetime_ns: when what was taken ends without `settle`. Takes that
        name a limit which the policy does not have are passed over. An id that holds gets
        its reply again, and one that waits goes on waiting. Raises InvalidRequest, and
        Overloaded when too many wait.
        """
        if now > self._now:
            self.advance(now)
        if hold := self._holds.get(take_id):
            return hold.admitted
        if ticket := self._room.tickets.get(take_id):
            return Pending(longest(obstacles(now, ticket.asks, ticket.priority, ticket.number)))
        if not 0 <= priority <= LOW:
            raise InvalidRequest("Field `priority` must be 0, 1 or 2.", param="priority")
        asks = self._gates.asks(now, takes)
        if never := beyond_burst(asks):
            return refusal(now, asks, never)
        found = obstacles(now, asks, priority, self._number + 1)
        if not found:
            return self._admit(now, caller, take_id, asks, lifetime_ns)
        waits = estimates(now, found, priority)
        limiting = worst(waits)
        if max_wait_ns <= 0 or (limiting.wait_ns or 0) > max_wait_ns:
            return refusal(now, asks, limiting)
        if len(self._room.tickets) >= self._max_tickets:
            raise Overloaded(f"{self._max_tickets} requests wait for their limits; try later.")
        self._number += 1
        deadline_ns = now + max_wait_ns
        self._seat(Ticket(take_id, caller, priority, self._number, asks, deadline_ns, lifetime_ns))
        self._room.watch(now, found)
        return Pending(longest(waits))

    def settle(self, now: int, caller: str, take_id: str, tokens: int | None) -> None:
        """Close a hold: slots come back, tokens are corrected to `tokens` unless it is None.

        A ticket of this id goes; an unknown id changes nothing.
        """
        if tokens is not None and tokens < 0:
            raise InvalidRequest("Field `tokens` must be 0 or more.", param="tokens")
        self._end(now, take_id, tokens)

    def undo(self, now: int, caller: str, take_id: str) -> None:
        """Cancel a ticket, or give back what nobody can have used again of a hold.

        An unknown id changes nothing.
        """
        self._end(now, take_id, None, undo=True)

    def look(self, now: int, caller: str, takes: tuple[Take, ...]) -> tuple[LimitState, ...]:
        """How these limits stand; nothing is taken, whatever the quantities are."""
        known = self._gates.limits
        return tuple(self._gates.state(now, take[0], take[1]) for take in takes if take[0] in known)

    def status(self, now: int, caller: str) -> dict[str, Any]:
        """{"limits": as `Gates.listing`, "waiting": tickets, "holds": those not settled}."""
        return {
            "limits": self._gates.listing(now, _STATUS_LIMITS),
            "waiting": len(self._room.tickets),
            "holds": len(self._holds),
        }

    def advance(self, now: int) -> int | None:
        """See `Mechanism`.

        Ends holds whose lifetime is over, admits those whose turn it is, refuses those who
        have waited too long, and forgets full buckets.
        """
        self._now = now
        while (id := self._ends.due(now)) is not None:
            self._close(now, self._holds.pop(id), None)
            self.drop("holds", id)
        # Whose time is up this very moment may still be served; whose time is over may not,
        # lest a restart admit those who have long gone.
        self._refuse_late(now, now - 1)
        self._serve(now)
        self._refuse_late(now, now)
        self._serve(now)
        self._forget(self._gates.sweep(now))
        dues = (
            self._room.due(),
            self._deadlines.next_ns(),
            self._ends.next_ns(),
            self._gates.due(),
        )
        return min((due for due in dues if due is not None), default=None)

    def load(self, rows: Iterable[Row]) -> None:
        """See `Mechanism`."""
        tables: dict[str, dict[str, Any]] = {table: {} for table in self.TABLES}
        for table, key, value in rows:
            tables[table][key] = value
        for self._revision, policy in tables["policy"].values():
            self._gates.limits = read_limits(policy)
        for key, value in tables["buckets"].items():
            name, _, subject = key.partition(" ")
            gate = self._gates.open(0, name, subject)
            if gate is not None and isinstance(gate.meter, Bucket):
                gate.meter.restore(value)
        for key, value in tables["holds"].items():
            hold = Hold.of_row(value)
            self._keep(key, hold)
            self._number = max(self._number, hold.mark)
        self._count_slots()
        for key, (caller, priority, number, takes, *times) in tables["tickets"].items():
            asks = self._gates.asks(0, takes)
            self._seat(Ticket(key, caller, priority, number, asks, *times))
            self._number = max(self._number, number)
        self._room.look_everywhere()
        super().take_changes()  # what was read need not be written

    def take_changes(self) -> Changes:
        """See `Mechanism`; a bucket's row is written once, however often it changed."""
        for gate in self._changed:
            if isinstance(gate.meter, Bucket):
                self.put("buckets", gate.row, gate.meter.dump())
        self._changed.clear()
        return super().take_changes()

    def _admit(self, now: int, caller: str, id: str, asks: Asks, lifetime_ns: int) -> Admitted:
        self._number += 1
        states = []
        for gate, quantity in asks:
            if quantity:
                gate.meter.take(now, quantity, self._number)
                self._changed.add(gate)
            states.append(gate.state(now))
        admitted = Admitted(now, tuple(states))
        quantities = tuple([quantity for _, quantity in asks])
        self._keep(id, Hold(caller, self._number, now + lifetime_ns, admitted, quantities))
        return admitted

    def _keep(self, id: str, hold: Hold) -> None:
        self._holds[id] = hold
        self._ends.set(id, hold.ends_ns)
        self.put("holds", id, hold.row())

    def _count_slots(self) -> None:
        self._gates.count_slots(slots for hold in self._holds.values() for slots in hold.slots())

    def _forget(self, gates: Iterable[Gate]) -> None:
        for gate in gates:
            self._changed.discard(gate)
            if isinstance(gate.meter, Bucket):
                self.drop("buckets", gate.row)

    def _seat(self, ticket: Ticket) -> None:
        self._room.enter(ticket)
        self._deadlines.set(ticket.id, ticket.deadline_ns)
        takes = [(*gate.key, quantity) for gate, quantity in ticket.asks]
        head = (ticket.caller, ticket.priority, ticket.number)
        self.put("tickets", ticket.id, (*head, takes, ticket.deadline_ns, ticket.lifetime_ns))

    def _leave(self, id: str) -> None:
        self._deadlines.cancel(id)
        self.drop("tickets", id)

    def _serve(self, now: int) -> None:
        for ticket in self._room.served(now):
            self._grant(now, ticket)

    def _grant(self, now: int, ticket: Ticket) -> None:
        self._leave(ticket.id)
        reply = self._admit(now, ticket.caller, ticket.id, ticket.asks, ticket.lifetime_ns)
        self.answer(ticket.caller, ticket.id, reply)

    def _refuse_late(self, now: int, until_ns: int) -> None:
        while (id := self._deadlines.due(until_ns)) is not None:
            ticket = self._room.tickets[id]
            found = obstacles(now, ticket.asks, ticket.priority, ticket.number)
            everywhere = [Obstacle(gate, quantity, 0) for gate, quantity in ticket.asks]
            self._room.leave(now, ticket)
            self._refuse(now, ticket, worst(estimates(now, found or everywhere, ticket.priority)))

    def _refuse(self, now: int, ticket: Ticket, limiting: Obstacle) -> None:
        self._leave(ticket.id)
        self.answer(ticket.caller, ticket.id, refusal(now, ticket.asks, limiting))

    def _end(self, now: int, id: str, tokens: int | None, undo: bool = False) -> None:
        if now > self._now:
            self.advance(now)
        if hold := self._holds.pop(id, None):
            self._ends.cancel(id)
            self.drop("holds", id)
            self._close(now, hold, tokens, undo)
        elif ticket := self._room.tickets.get(id):
            self._room.leave(now, ticket)
            self._leave(id)
        self._serve(now)

    def _close(self, now: int, hold: Hold, tokens: int | None, undo: bool = False) -> None:
        for state, back in hold.returns(tokens, undo):
            key = (state.limit, state.subject)
            gate = self._gates.get(key) if back >= 0 else self._gates.open(now, *key)
            # What was counted in another unit went with the gate of that time.
            if gate is not None and gate.limit.unit == state.unit:
                self._room.easing(now, gate)
                gate.meter.close(now, hold.mark, back)
                self._changed.add(gate)
