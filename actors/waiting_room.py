"""Who waits for which limit, and whose turn it is.

Tickets are in order of priority, then of arrival. One may go when each of its limits
allows it and none of them is held up: refuses, at this moment, another ticket ahead of
it. So a line never waits for a limit that its tickets do not fall under, and nobody
small overtakes somebody large on a limit that the large one waits for.

That rule looks at the present state alone; what is kept beside it (the gates that may
have opened, the times when others will) only tells where it is worth looking.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, NamedTuple

from actors import obstacles
from actors.gate import Gate, Line
from actors.gates import Asks, Gates
from actors.mechanism import Bookkeeping, owner_of
from actors.obstacles import Obstacle
from actors.timetable import Timetable

TABLE = "tickets"


class Ticket(NamedTuple):
    """A request that waits.

    number: counts arrivals. deadline_ns: when it is refused. held: see `acquire`.
    """

    id: str
    caller: str
    priority: int
    number: int
    asks: Asks
    deadline_ns: int
    held: bool

    def obstacles(self, now: int) -> list[Obstacle]:
        """What stops it."""
        return obstacles.met(now, self.asks, self.priority, self.number)


class WaitingRoom:
    """The tickets, and the gates where one of them may have become able to go.

    books: to whom rows are given. recall: told of gates that stop a ticket while something
    of them is lent. ready: the gates to look at with the next `served`.
    """

    def __init__(self, books: Bookkeeping, recall: Callable[[int, Gate], None]) -> None:
        self.tickets: dict[str, Ticket] = {}
        self.ready: set[Gate] = set()
        self._books = books
        self._recall = recall
        self._deadlines = Timetable()
        self._wakes: list[tuple[int, int, Gate]] = []
        self._wakes_made = 0

    def due(self) -> int | None:
        """When to call `late` and `served` again; None: not before something else happens."""
        if self.ready:
            return 0
        wake = self._wakes[0][0] if self._wakes else None
        deadline = self._deadlines.next_ns()
        return deadline if wake is None or (deadline is not None and deadline < wake) else wake

    def of(self, owner: str) -> list[Ticket]:
        """The tickets of this owner."""
        return [t for t in self.tickets.values() if owner_of(t.caller) == owner]

    def owners(self) -> set[str]:
        """Who waits."""
        return {owner_of(ticket.caller) for ticket in self.tickets.values()}

    def enter(self, ticket: Ticket) -> None:
        """Put the ticket into the lines of its gates."""
        self.tickets[ticket.id] = ticket
        for gate, quantity in ticket.asks:
            if quantity:
                if gate.line is None:
                    gate.line = Line()
                insort(gate.line.tickets, (ticket.priority, ticket.number, quantity, ticket.id))
                gate.line.queued[ticket.priority] += quantity
                gate.line.largest = max(gate.line.largest, quantity)
        self._deadlines.set(ticket.id, ticket.deadline_ns)
        self._put(ticket)

    def asked_again(self, ticket: Ticket, caller: str) -> None:
        """The result goes to whoever has asked last."""
        if caller != ticket.caller:
            self.tickets[ticket.id] = ticket = ticket._replace(caller=caller)
            self._put(ticket)

    def _put(self, ticket: Ticket) -> None:
        takes = [(gate.limit.name, gate.subject, quantity) for gate, quantity in ticket.asks]
        head = (ticket.caller, ticket.priority, ticket.number, ticket.deadline_ns, ticket.held)
        self._books.put(TABLE, ticket.id, (*head, takes))

    def load(self, rows: Iterable[tuple[str, Any]], gates: Gates) -> None:
        """Go on from the (key, value) pairs of the store."""
        arrivals = sorted(rows, key=lambda row: int(row[1][2]))
        for key, (caller, priority, number, deadline_ns, held, takes) in arrivals:
            asks = gates.asks(0, takes)
            self.enter(Ticket(key, caller, priority, number, asks, deadline_ns, held))
            gates.number = max(gates.number, number)
        self.look_everywhere()

    def clear(self) -> list[Ticket]:
        """Let nobody wait; returns those who did. The lines of their gates are gone already."""
        waiting = [*self.tickets.values()]
        for ticket in waiting:
            self._forget(ticket)
        self.ready.clear()
        self._wakes.clear()
        return waiting

    def late(self, until_ns: int) -> Ticket | None:
        """One whose deadline is not after this time: it goes, or is given another one."""
        id = self._deadlines.due(until_ns)
        return self.tickets[id] if id is not None else None

    def extend(self, ticket: Ticket, until_ns: int) -> None:
        """Let this one wait so long."""
        self._deadlines.set(ticket.id, until_ns)

    def watch(self, now: int, found: list[Obstacle]) -> None:
        """These stop a ticket: look at them again when that is over, recall what is lent."""
        for gate, _, wait in found:
            line = gate.line
            if wait is None or line is None:
                pass
            elif line.wake is None or now + wait < line.wake:
                line.wake = now + wait
                self._wakes_made += 1
                heappush(self._wakes, (line.wake, self._wakes_made, gate))
            if gate.lent is not None:
                self._recall(now, gate)

    def leave(self, now: int, ticket: Ticket) -> None:
        """The ticket goes without having been admitted."""
        self._remove(ticket)
        for gate, quantity in ticket.asks:
            if gate.line is not None and gate.stops(now, ticket.priority, quantity):
                self.ready.add(gate)

    def easing(self, now: int, gate: Gate) -> None:
        """To be called before something is given back at this gate."""
        if gate.line is not None and gate.meter.wait(now, gate.line.largest) != 0:
            self.ready.add(gate)

    def look(self, gate: Gate) -> None:
        """Look at this gate with the next `served`."""
        self.ready.add(gate)

    def look_everywhere(self) -> None:
        """Expect anything: all gates are looked at with the next `served`."""
        self.ready.update(gate for t in self.tickets.values() for gate, _ in t.asks)

    def served(self, now: int) -> Iterator[Ticket]:
        """The tickets whose turn it is, one by one; each is to be debited before the next.

        The lines of all gates that may have opened are walked at once, in the common
        order; a line ends at the first ticket that its own gate stops.
        """
        while self._wakes and self._wakes[0][0] <= now:
            at, _, gate = heappop(self._wakes)
            if gate.line is not None and gate.line.wake == at:
                gate.line.wake = None
                self.ready.add(gate)
        heads: list[tuple[int, int, int, Gate]] = []
        for tie, gate in enumerate(self.ready):
            _push_head(heads, gate, (-1, 0), tie)
        self.ready.clear()
        while heads:
            priority, number, tie, gate = heads[0]
            assert gate.line is not None
            place = bisect_left(gate.line.tickets, (priority, number))
            ticket = self.tickets[gate.line.tickets[place][3]]
            found = ticket.obstacles(now)
            if found:
                self.watch(now, found)
            else:
                self._remove(ticket)
                yield ticket
            stopped = {obstacle.gate for obstacle in found}
            while heads and heads[0][:2] == (priority, number):
                _, _, tie, gate = heappop(heads)
                if gate not in stopped:
                    _push_head(heads, gate, (priority, number + 1), tie)

    def _remove(self, ticket: Ticket) -> None:
        for gate, quantity in ticket.asks:
            if quantity:
                line = gate.line
                assert line is not None
                del line.tickets[bisect_left(line.tickets, (ticket.priority, ticket.number))]
                line.queued[ticket.priority] -= quantity
                if not line.tickets:
                    gate.line = None
        self._forget(ticket)

    def _forget(self, ticket: Ticket) -> None:
        del self.tickets[ticket.id]
        self._deadlines.cancel(ticket.id)
        self._books.drop(TABLE, ticket.id)


def _push_head(
    heads: list[tuple[int, int, int, Gate]], gate: Gate, place: tuple[int, int], tie: int
) -> None:
    """Add the first in this line from `place` on, if there is one."""
    if gate.line is not None:
        index = bisect_left(gate.line.tickets, place)
        if index < len(gate.line.tickets):
            heappush(heads, (*gate.line.tickets[index][:2], tie, gate))
