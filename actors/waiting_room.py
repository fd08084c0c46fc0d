"""Who waits for which limit, and whose turn it is.

Tickets are in order of priority, then of arrival. One may go when each of its limits
allows it and none of them is held up: refuses, at this moment, another ticket ahead of
it. So a line never waits for a limit that its tickets do not fall under, and nobody
small overtakes somebody large on a limit that the large one waits for.

That rule looks at the present state alone; what is kept beside it (the gates that may
have opened, the times when others will) only tells where it is worth looking.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from actors.gates import Asks, Gate
from actors.limits import HIGH, Refused


class Ticket(NamedTuple):
    """A request that waits.

    number: counts arrivals. deadline_ns: when it is refused. lifetime_ns: of its hold, once
    it is admitted.
    """

    id: str
    caller: str
    priority: int
    number: int
    asks: Asks
    deadline_ns: int
    lifetime_ns: int


class Obstacle(NamedTuple):
    """A gate that does not let `quantity` through; wait_ns as of `Gate.obstacle`."""

    gate: Gate
    quantity: int
    wait_ns: int | None


def obstacles(now: int, asks: Asks, priority: int, number: int) -> list[Obstacle]:
    """The gates that stop somebody with this place in the order; none: he may go."""
    found = []
    for gate, quantity in asks:
        if quantity:
            wait = gate.obstacle(now, priority, number, quantity)
            if wait != 0:
                found.append(Obstacle(gate, quantity, wait))
    return found


def estimates(now: int, found: list[Obstacle], priority: int) -> list[Obstacle]:
    """The same gates, with the time until a newcomer's turn at each."""
    return [
        Obstacle(gate, quantity, gate.estimate(now, priority, quantity))
        for gate, quantity, _ in found
    ]


def longest(found: list[Obstacle]) -> int | None:
    """The longest of the waits; None when nobody can tell one of them."""
    waits = [obstacle.wait_ns for obstacle in found]
    return None if None in waits else max((wait for wait in waits if wait), default=0)


def worst(found: list[Obstacle]) -> Obstacle:
    """The obstacle with the longest wait that is known."""
    return max(found, key=lambda obstacle: obstacle.wait_ns or 0)


def beyond_burst(asks: Asks) -> Obstacle | None:
    """The first ask that can never be granted, if there is one."""
    for gate, quantity in asks:
        if quantity > gate.limit.burst:
            return Obstacle(gate, quantity, None)
    return None


def refusal(now: int, asks: Asks, limiting: Obstacle) -> Refused:
    """The reply to somebody whom `limiting` stops."""
    gate, quantity, wait_ns = limiting
    limit = gate.limit
    states = tuple(asked.state(now) for asked, _ in asks)
    return Refused(limit.name, gate.subject, limit.unit, wait_ns, quantity, limit.burst, states)


class WaitingRoom:
    """The tickets, and the gates where one of them may have become able to go."""

    def __init__(self) -> None:
        self.tickets: dict[str, Ticket] = {}
        self._ready: set[Gate] = set()
        self._wakes: list[tuple[int, int, Gate]] = []
        self._wakes_made = 0

    def due(self) -> int | None:
        """When to call `served` again; None: not before something else happens."""
        if self._ready:
            return 0
        return self._wakes[0][0] if self._wakes else None

    def enter(self, ticket: Ticket) -> None:
        """Put the ticket into the lines of its gates."""
        self.tickets[ticket.id] = ticket
        for gate, quantity in ticket.asks:
            if quantity:
                insort(gate.line, (ticket.priority, ticket.number, quantity, ticket.id))
                gate.queued[ticket.priority] += quantity
                gate.largest = max(gate.largest, quantity)

    def watch(self, now: int, found: list[Obstacle]) -> None:
        """Look at these gates again when their obstacles will be gone."""
        for gate, _, wait in found:
            if wait is not None and (gate.wake is None or now + wait < gate.wake):
                gate.wake = now + wait
                self._wakes_made += 1
                heappush(self._wakes, (gate.wake, self._wakes_made, gate))

    def leave(self, now: int, ticket: Ticket) -> None:
        """The ticket goes without having been admitted."""
        self._remove(ticket)
        for gate, quantity in ticket.asks:
            if gate.line and gate.meter.wait(now, quantity, ticket.priority == HIGH) != 0:
                self._ready.add(gate)

    def easing(self, now: int, gate: Gate) -> None:
        """To be called before something is given back at this gate."""
        if gate.line and gate.meter.wait(now, gate.largest) != 0:
            self._ready.add(gate)

    def look_everywhere(self) -> None:
        """Expect anything: all gates are looked at with the next `served`."""
        self._ready.update(gate for t in self.tickets.values() for gate, _ in t.asks)

    def served(self, now: int) -> Iterator[Ticket]:
        """The tickets whose turn it is, one by one; each is to be debited before the next.

        The lines of all gates that may have opened are walked at once, in the common
        order; a line ends at the first ticket that its own gate stops.
        """
        while self._wakes and self._wakes[0][0] <= now:
            at, _, gate = heappop(self._wakes)
            if gate.wake == at:
                gate.wake = None
                self._ready.add(gate)
        heads: list[tuple[int, int, int, Gate]] = []
        for tie, gate in enumerate(self._ready):
            _push_head(heads, gate, (-1, 0), tie)
        self._ready.clear()
        while heads:
            priority, number, tie, gate = heads[0]
            ticket = self.tickets[gate.line[bisect_left(gate.line, (priority, number))][3]]
            found = obstacles(now, ticket.asks, priority, number)
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
        del self.tickets[ticket.id]
        for gate, quantity in ticket.asks:
            if quantity:
                del gate.line[bisect_left(gate.line, (ticket.priority, ticket.number))]
                gate.queued[ticket.priority] -= quantity
                if not gate.line:
                    gate.largest = 0


def _push_head(
    heads: list[tuple[int, int, int, Gate]], gate: Gate, place: tuple[int, int], tie: int
) -> None:
    """Add the first in this line from `place` on, if there is one."""
    index = bisect_left(gate.line, place)
    if index < len(gate.line):
        heappush(heads, (*gate.line[index][:2], tie, gate))
