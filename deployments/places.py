"""A call's place at its target's gate (`target_gate.py`), from before the call to its end."""

import time

from actors.errors import Overloaded
from deployments.policy import Target
from deployments.request import Request
from deployments.services import Services
from deployments.target_gate import Gate

_STREAM = -1
# What comes late because this process is late says nothing of the target.
_LATE_S = 0.05


def must_have_room(services: Services, request: Request, target: Target) -> None:
    """Before anything is taken for a call. Raises Overloaded."""
    _gate_with_room(services, request, target)


def take_place(services: Services, request: Request, target: Target) -> "Place":
    """The last thing before a call but its breaker. Raises Overloaded."""
    return Place(services, _gate_with_room(services, request, target))


def _gate_with_room(services: Services, request: Request, target: Target) -> Gate:
    gate = services.gate(target)
    after_s = gate.refuses(request.priority, time.monotonic())
    if after_s is None:
        return gate
    services.metrics.count("raygate_shed_total", target.name, str(request.priority))
    raise Overloaded(
        f"{target.name} is given as much as it can do, and requests of this priority have no room "
        f"beside that. Try again in {after_s:.3g} s.",
        retry_after_s=after_s,
    )


class Place:
    """Counts at the gate until `leave`, which may come more than once."""

    __slots__ = ("_among", "_began", "_gate", "_here", "_services")

    def __init__(self, services: Services, gate: Gate) -> None:
        self._services = services
        self._gate = gate
        self._began = time.monotonic()
        self._among = gate.enter()
        self._here = True

    def answered(self, streamed: bool, first_byte_ns: int, output_tokens: int) -> None:
        """The call has ended well.

        first_byte_ns: how long it took a stream to begin. output_tokens: by which calls without
        a stream are compared with their like.
        """
        now = time.monotonic()
        if self._here and self._services.front.late_s < _LATE_S:
            first_s = first_byte_ns / 1e9 if streamed else now - self._began
            kind = _STREAM if streamed else output_tokens.bit_length()
            self._gate.answered(kind, self._among, self._began, first_s, now)
        self.leave()

    def leave(self) -> None:
        """The call has ended, or was not made."""
        if self._here:
            self._here = False
            self._gate.leave(time.monotonic())
