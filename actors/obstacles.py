"""What stops a request at its gates, for how long, and how it is told so."""

from typing import NamedTuple

from actors.gate import Gate
from actors.gates import Asks
from actors.limits import Refused


class Obstacle(NamedTuple):
    """A gate that does not let `quantity` through; wait_ns as of `Gate.obstacle`."""

    gate: Gate
    quantity: int
    wait_ns: int | None


def met(now: int, asks: Asks, priority: int, number: int) -> list[Obstacle]:
    """The gates that stop somebody with this place in the order; none: he may go."""
    found = []
    for gate, quantity in asks:
        if quantity:
            wait = gate.obstacle(now, priority, number, quantity)
            if wait != 0:
                found.append(Obstacle(gate, quantity, wait))
    return found


def unlent(now: int, found: list[Obstacle], priority: int) -> list[Obstacle]:
    """The same gates, with a newcomer's wait if all that is lent there came back at once."""
    return [
        Obstacle(gate, quantity, gate.estimate(now, priority, quantity - gate.meter.held))
        for gate, quantity, _ in found
    ]


def too_long(obstacle: Obstacle, max_wait_ns: int) -> bool:
    """Whether it is not worth waiting for; what nobody can tell is, to one who waits at all."""
    wait_ns = obstacle.wait_ns
    return max_wait_ns == 0 if wait_ns is None else wait_ns > max_wait_ns


def longest(found: list[Obstacle]) -> int | None:
    """The longest of the waits; None when nobody can tell one of them."""
    waits = [obstacle.wait_ns for obstacle in found]
    return None if None in waits else max((wait for wait in waits if wait), default=0)


def beyond_burst(asks: Asks) -> Obstacle | None:
    """The first ask that can never be granted, if there is one."""
    for gate, quantity in asks:
        if quantity > gate.limit.burst:
            return Obstacle(gate, quantity, None)
    return None


def refused(now: int, asks: Asks, limiting: Obstacle) -> Refused:
    """The reply to somebody whom `limiting` stops."""
    gate, quantity, wait_ns = limiting
    limit = gate.limit
    states = tuple(asked.state(now) for asked, _ in asks)
    return Refused(limit.name, gate.subject, limit.unit, wait_ns, quantity, limit.burst, states)


def refused_for_now(now: int, asks: Asks, found: list[Obstacle], priority: int) -> Refused:
    """The reply that names, of all that is in the way, what takes longest (and is known)."""
    estimates = [
        Obstacle(gate, quantity, gate.estimate(now, priority, quantity))
        for gate, quantity, _ in found
    ]
    return refused(now, asks, max(estimates, key=lambda obstacle: obstacle.wait_ns or 0))
