import itertools
import random
from typing import Any

import pytest

from actors.circuit_breaker import (
    FAILURE,
    IGNORED,
    SUCCESS,
    Barred,
    CircuitBreaker,
    Permit,
)

SECOND = 1_000_000_000
START = 1_000 * SECOND
TARGET = "simulated/gpt"
ME = "replica"

RESILIENCE4J: dict[str, Any] = {
    "failure_threshold": 0,
    "window_ns": 20 * SECOND,
    "min_calls": 5,
    "failure_rate": 0.5,
    "slow_rate": 0.5,
    "slow_ns": 4 * SECOND,
    "recovery_ns": 5 * SECOND,
    "recovery_factor": 1.5,
    "jitter": 0,
    "success_threshold": 4,
}
COUNTS_ONLY = {**RESILIENCE4J, "failure_rate": 0, "slow_rate": 0}
IN_A_ROW = {**RESILIENCE4J, "failure_threshold": 3, "failure_rate": 0, "slow_rate": 0}

Step = tuple[float, str, dict[str, Any] | str | None]

OUTCOMES = {"S": SUCCESS, "F": FAILURE, "I": IGNORED}


def breaker(**spec: Any) -> CircuitBreaker:
    """A breaker whose targets all follow `spec`."""
    made = CircuitBreaker(random.Random(1))
    made.configure(START, ME, "1", {"default": spec})
    return made


class Play:
    """Plays steps (second, what, expected) on a breaker.

    what: S, F or I with the seconds that it took ("F5"): a whole call; "take": a permit
        that stays out; "give": the first one that is out comes back; "ask": a permit that
        comes back at once; "look"; else an operator's action.
    expected: "go" or "no" for a permit; else the part of the status that must hold.
    """

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker = breaker
        self.ids = (f"p{n}" for n in itertools.count())
        self.out: list[tuple[str, Permit]] = []

    def permit(self, now: int, expected: object = "go") -> tuple[str, Permit | Barred]:
        id = next(self.ids)
        reply = self.breaker.permit(now, ME, id, TARGET)
        assert isinstance(reply, Permit if expected == "go" else Barred), reply
        return id, reply

    def report(self, now: int, out: tuple[str, Permit], outcome: str, took_s: float = 0) -> None:
        id, permit = out
        took_ns = int(took_s * SECOND)
        self.breaker.report(now, ME, TARGET, permit.generation, outcome, took_ns, id)

    def step(self, at_s: float, what: str, expected: dict[str, Any] | str | None) -> None:
        now = START + int(at_s * SECOND)
        if what in ("ask", "take"):
            id, reply = self.permit(now, expected)
            if isinstance(reply, Permit):
                self.out.append((id, reply))
                if what == "ask":
                    self.report(now, self.out.pop(), IGNORED)
        elif what == "give":
            self.report(now, self.out.pop(0), IGNORED)
        elif what[0] in OUTCOMES:
            id, reply = self.permit(now)
            assert isinstance(reply, Permit)
            self.report(now, (id, reply), OUTCOMES[what[0]], float(what[1:] or 0))
        elif what != "look":
            self.breaker.force(now, ME, TARGET, what)
        if isinstance(expected, dict):
            status = self.breaker.status(now, ME)["targets"][TARGET]
            assert {key: status[key] for key in expected} == expected, (at_s, what)


def calls(at_s: float, letters: str) -> list[Step]:
    """Whole calls that took no time."""
    return [(at_s, letter, None) for letter in letters]


def after_opening(*steps: Step) -> list[Step]:
    """Steps of a breaker that has just become half-open, at second 10."""
    return [*calls(0, "FFFFF"), (0, "look", {"state": "open"}), (10, "ask", "go"), *steps]


FRESH = {"failure_count": 0, "success_count": 0, "failure_rate": None, "slow_rate": None}

KNOWN_ANSWERS: dict[str, tuple[dict[str, Any], list[Step]]] = {
    "1 opens by rate once there are enough calls": (
        RESILIENCE4J,
        [
            *calls(0, "FFF"),
            (0, "S", {"state": "closed", "failure_rate": None}),
            (0, "S", {"state": "open", "failure_rate": 0.6}),
            (0, "ask", "no"),
        ],
    ),
    "2 opens at exactly the rate": (
        RESILIENCE4J,
        [
            *[(second, letter, None) for second, letter in enumerate("SSSF")],
            (4, "F", {"state": "closed", "failure_rate": 0.4}),
            (5, "F", {"state": "open", "failure_rate": 0.5}),
        ],
    ),
    "3 opens by slowness": (
        RESILIENCE4J,
        [
            *[(0, call, None) for call in ("F5", "S5", "F0.1")],
            (0, "S0.1", {"state": "closed"}),
            (0, "S5", {"state": "open", "slow_rate": 0.6, "failure_rate": 0.4}),
        ],
    ),
    "4 half-open after the wait, with fresh counts": (
        RESILIENCE4J,
        [
            *calls(0, "FFFFF"),
            (3, "ask", "no"),
            (6, "ask", "go"),
            (6, "look", {"state": "half_open", **FRESH}),
        ],
    ),
    "5 waits longer at each reopening": (
        RESILIENCE4J,
        [
            *calls(0, "FFFFF"),
            (6, "take", "go"),
            *calls(6, "FFFF"),
            (6, "look", {"state": "open", "retry_after_ns": 7_500_000_000}),
            (12, "ask", "no"),
            (17, "ask", "go"),
        ],
    ),
    "6 half-open admits as many probes as it needs successes": (
        RESILIENCE4J,
        [
            *calls(0, "FFFFF"),
            *[(5, "take", "go")] * 4,
            *[(5, "take", "no")] * 2,
            (5, "give", {"probes": 3}),
            (5, "take", "go"),
        ],
    ),
    "7 half-open F F S F opens": (
        RESILIENCE4J,
        after_opening(*calls(10, "FFS"), (10, "F", {"state": "open", "failure_rate": 0.75})),
    ),
    "7 half-open F S S S closes": (
        RESILIENCE4J,
        after_opening(*calls(10, "FSS"), (10, "S", {"state": "closed", **FRESH})),
    ),
    "8 half-open opens by slowness": (
        RESILIENCE4J,
        after_opening(
            *[(10, call, None) for call in ("S5", "S5", "S5")],
            (10, "S1", {"state": "open", "slow_rate": 0.75}),
        ),
    ),
    "9 an ignored outcome only returns the permit": (
        RESILIENCE4J,
        after_opening(*calls(10, "SSSI"), (10, "F", {"state": "closed"})),
    ),
    "9 four ignored ones decide nothing": (
        RESILIENCE4J,
        after_opening(
            *calls(10, "IIII"),
            (10, "look", {"state": "half_open", "probes": 0}),
            *calls(10, "SSS"),
            (10, "S", {"state": "closed"}),
        ),
    ),
    "10 forced open stays open": (
        RESILIENCE4J,
        [
            (0, "open", {"state": "forced_open"}),
            (10_000, "ask", "no"),
            (10_000, "reset", {"state": "closed", **FRESH}),
            (10_000, "ask", "go"),
        ],
    ),
    "11 half-open has an end": (
        {**RESILIENCE4J, "half_open_max_ns": SECOND},
        after_opening(
            (10.999_999, "look", {"state": "half_open"}),
            (11, "look", {"state": "open", "retry_after_ns": 7_500_000_000}),
        ),
    ),
    "12 the last ten calls": (
        {**COUNTS_ONLY, "window": "count", "window_calls": 10, "min_calls": 10},
        [
            *calls(0, "SSFF"),
            (0, "look", {"failure_rate": None}),
            *calls(0, "FFFFSSSS"),
            (0, "look", {"failure_rate": 0.6}),
            *calls(0, "SSS"),
            (0, "look", {"failure_rate": 0.3}),
        ],
    ),
    "13 the last five seconds": (
        {**COUNTS_ONLY, "window_ns": 5 * SECOND},
        [
            (0, "F", None),
            (0.1, "F", None),
            (0.8, "S", None),
            (4.8, "look", {"failure_count": 2, "success_count": 1}),
            (5.8, "look", {"failure_count": 0, "success_count": 0}),
        ],
    ),
    "the wait ends at exactly its end": (
        RESILIENCE4J,
        [*calls(0, "FFFFF"), (4.999_999, "ask", "no"), (5, "ask", "go")],
    ),
    "slow is strictly more than the limit": (
        RESILIENCE4J,
        [*[(0.0, "S4", None)] * 5, (0, "look", {"state": "closed", "slow_rate": 0.0})],
    ),
    "failures in a row open": (
        IN_A_ROW,
        [*calls(0, "FFSFF"), (0, "look", {"state": "closed"}), (0, "F", {"state": "open"})],
    ),
    "an ignored outcome does not end a row": (
        IN_A_ROW,
        [*calls(0, "FFI"), (0, "F", {"state": "open"})],
    ),
    "in a row: one failed probe reopens": (
        IN_A_ROW,
        [*calls(0, "FFF"), *calls(5, "SSS"), (5, "F", {"state": "open"})],
    ),
    "in a row: enough successes close": (
        IN_A_ROW,
        [
            *calls(0, "FFF"),
            *calls(5, "SSS"),
            (5, "look", {"state": "half_open", "success_count": 3}),
            (5, "S", {"state": "closed", **FRESH}),
        ],
    ),
    "closing resets the wait": (
        IN_A_ROW,
        [
            *calls(0, "FFF"),
            (5, "F", {"retry_after_ns": 7_500_000_000}),
            *calls(20, "SSSS"),
            *calls(20, "FFF"),
            (20, "look", {"state": "open", "retry_after_ns": 5_000_000_000}),
        ],
    ),
    "the wait grows up to its cap": (
        {**IN_A_ROW, "recovery_cap_ns": 10 * SECOND},
        [
            *calls(0, "FFF"),
            (10, "F", {"retry_after_ns": 7_500_000_000}),
            (20, "F", {"retry_after_ns": 10_000_000_000}),
            (30, "F", {"retry_after_ns": 10_000_000_000}),
        ],
    ),
    "forced closed never opens, until reset": (
        IN_A_ROW,
        [
            (0, "closed", None),
            *calls(0, "FFFFFFF"),
            (0, "look", {"state": "forced_closed", "failure_count": 7}),
            (0, "reset", {"state": "closed", **FRESH}),
        ],
    ),
}


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_known_answers(name: str) -> None:
    """What resilience4j's own tests say (numbered), and the edges beside them."""
    spec, steps = KNOWN_ANSWERS[name]
    play = Play(breaker(**spec))
    for step in steps:
        play.step(*step)
