"""The words of a circuit breaker: its states, the outcomes it is told, what it answers."""

from typing import NamedTuple

CLOSED = "closed"
OPEN = "open"
HALF_OPEN = "half_open"
FORCED_OPEN = "forced_open"
FORCED_CLOSED = "forced_closed"

SUCCESS = "success"
FAILURE = "failure"
IGNORED = "ignored"
THROTTLED = "throttled"
OUTCOMES = frozenset({SUCCESS, FAILURE, IGNORED, THROTTLED})


class Permit(NamedTuple):
    """The call may go.

    generation: goes back with the report.
    probe: it is one of the few of a half-open breaker, and a hold that `report` gives back.
    """

    generation: int
    probe: bool


class Barred(NamedTuple):
    """The call may not go.

    state: of the breaker; a closed or half-open one bars while the target rests.
    retry_after_ns: when to ask again, nanoseconds, at least 1; a guess where all probes are
        out, or an operator forced the breaker open.
    """

    state: str
    retry_after_ns: int


class BreakerView(NamedTuple):
    """What callers need to know of a breaker.

    state: one of the five states. An `open` one with `retry_after_ns` 0, and a `half_open`
        one, need a permit; a `closed` one with 0 needs none.
    generation: goes with the report of a call that took no permit.
    retry_after_ns: nothing may go before, nanoseconds from now; 0: may go.
    resting_ns: the part of it that the provider asked for by throttling.
    """

    state: str
    generation: int
    retry_after_ns: int
    resting_ns: int
