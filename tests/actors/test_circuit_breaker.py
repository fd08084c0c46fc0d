import random
from typing import Any

import pytest

from actors.circuit_breaker import (
    FAILURE,
    IGNORED,
    SUCCESS,
    THROTTLED,
    UNKNOWN,
    Barred,
    BreakerView,
    CircuitBreaker,
    Permit,
)
from actors.errors import Conflict, InvalidRequest
from actors.mechanism import Mechanism

SECOND = 1_000_000_000
START = 1_000 * SECOND
TARGET = "simulated/gpt"
ME = "replica"

IN_A_ROW: dict[str, Any] = {
    "failure_threshold": 3,
    "failure_rate": 0,
    "slow_rate": 0,
    "recovery_ns": 5 * SECOND,
    "recovery_factor": 1.5,
    "jitter": 0,
    "success_threshold": 4,
}


def breaker(**spec: Any) -> CircuitBreaker:
    """A breaker whose targets all follow `spec`."""
    made = CircuitBreaker(random.Random(1))
    made.configure(START, ME, "1", {"default": spec})
    return made


def fail(made: CircuitBreaker, now: int, times: int = 5, target: str = TARGET) -> None:
    """Report failures of calls that went by the present view."""
    view = made.view(target, now) or UNKNOWN
    for _ in range(times):
        made.report(now, ME, target, view.generation, FAILURE, 0, None, None)


def test_half_open_by_hand_is_a_conflict() -> None:
    """An operator cannot make a closed breaker half-open."""
    with pytest.raises(Conflict):
        breaker().force(START, ME, TARGET, "half_open")


def test_defaults_open_after_five_failures_in_a_row() -> None:
    """Without a policy, the fifth failure opens for 60 s, and three probes may go then."""
    made = CircuitBreaker()
    fail(made, START, 4)
    assert made.view(TARGET, START) == UNKNOWN
    fail(made, START, 1)
    assert made.view(TARGET, START) == BreakerView("open", 1, 60 * SECOND, 0)
    later = START + 60 * SECOND
    assert made.view(TARGET, later) == BreakerView("open", 1, 0, 0)
    replies = [made.permit(later, ME, f"p{n}", TARGET) for n in range(4)]
    assert replies == [Permit(2, True)] * 3 + [Barred("half_open", SECOND)]


def test_defaults_open_by_rate_at_ten_calls() -> None:
    """Without a policy, half of ten calls failing opens although none failed five times."""
    made = CircuitBreaker()
    for n in range(10):
        assert (made.view(TARGET, START) or UNKNOWN).state == "closed"
        outcome = SUCCESS if n % 2 else FAILURE
        made.report(START, ME, TARGET, 0, outcome, 0, None, None)
    assert (made.view(TARGET, START) or UNKNOWN).state == "open"


def test_old_generation_changes_nothing() -> None:
    """Calls that began before a change of state can neither open nor close it afterwards."""
    made = breaker(**IN_A_ROW)
    fail(made, START, 3)
    later = START + 5 * SECOND
    made.permit(later, ME, "probe", TARGET)
    before = made.status(later, ME)
    made.take_changes()
    for outcome in (SUCCESS, FAILURE, IGNORED, THROTTLED):
        for generation in (0, 1, 3):
            made.report(later, ME, TARGET, generation, outcome, 0, None, 9 * SECOND)
    assert made.status(later, ME) == before
    assert made.take_changes() == ([], [], set(), [])


def test_probes_of_earlier_generations_count() -> None:
    """Probes that have not come back keep their places when the breaker is half-open again."""
    made = breaker(**IN_A_ROW)
    fail(made, START, 3)
    now = START + 5 * SECOND
    for n in range(4):
        made.permit(now, ME, f"old{n}", TARGET)
    made.report(now, ME, TARGET, 2, FAILURE, 0, "old0", None)
    now += 8 * SECOND
    assert made.permit(now, ME, "new0", TARGET) == Permit(4, True)
    assert isinstance(made.permit(now, ME, "new1", TARGET), Barred)
    made.report(now, ME, TARGET, 2, SUCCESS, 0, "old1", None)
    assert made.permit(now, ME, "new1", TARGET) == Permit(4, True)
    status = made.status(now, ME)["targets"][TARGET]
    assert (status["success_count"], status["probes"]) == (0, 4)


def test_a_probe_counts_with_its_own_generation_only() -> None:
    """Naming another generation than the permit's gives the place back and decides nothing."""
    made = breaker(**{**IN_A_ROW, "success_threshold": 2})
    fail(made, START, 3)
    now = START + 5 * SECOND
    for id in ("old", "older"):
        made.permit(now, ME, id, TARGET)
    made.report(now, ME, TARGET, 0, FAILURE, 0, "older", None)
    assert made.view(TARGET, now) == BreakerView("half_open", 2, 0, 0)
    made.permit(now, ME, "failing", TARGET)
    made.report(now, ME, TARGET, 2, FAILURE, 0, "failing", None)
    now += 8 * SECOND
    made.permit(now, ME, "new", TARGET)
    made.report(now, ME, TARGET, 4, FAILURE, 0, "old", None)
    assert made.view(TARGET, now) == BreakerView("half_open", 4, 0, 0)
    assert made.status(now, ME)["targets"][TARGET]["probes"] == 1


def test_open_stays_open_while_all_probes_are_out() -> None:
    """With no place for a probe the wait's end changes nothing, and says to come back."""
    made = breaker(**{**IN_A_ROW, "success_threshold": 1, "half_open_max_ns": SECOND})
    fail(made, START, 3)
    now = START + 5 * SECOND
    made.permit(now, ME, "stuck", TARGET)
    assert made.permit(now + 10 * SECOND, ME, "p", TARGET) == Barred("open", SECOND)
    made.report(now + 20 * SECOND, ME, TARGET, 2, SUCCESS, 0, "stuck", None)
    assert made.permit(now + 20 * SECOND, ME, "p", TARGET) == Permit(4, True)


def test_a_dead_probers_permit_returns() -> None:
    """I4: with its owner's burial only, whatever time has passed, and it decides nothing."""
    made = breaker(**{**IN_A_ROW, "success_threshold": 2})
    fail(made, START, 3)
    now = START + 5 * SECOND
    made.permit(now, "dead.1", "one", TARGET)
    made.permit(now, "alive.1", "other", TARGET)
    assert made.advance(now) is None
    now += 1_000_000 * SECOND
    assert isinstance(made.permit(now, ME, "p", TARGET), Barred)
    assert set(made.owners()) == {"dead", "alive"}
    assert made.bury(now, ME, "dead", lost=False) == 1
    assert made.bury(now, ME, "dead", lost=True) == 0
    assert set(made.owners()) == {"alive"}
    made.report(now, "dead.1", TARGET, 2, FAILURE, 0, "one", None)
    assert made.permit(now, ME, "p", TARGET) == Permit(2, True)
    assert isinstance(made.permit(now, ME, "q", TARGET), Barred)


def test_a_burial_is_a_change_of_those_targets_only() -> None:
    """Each is one row; the breaker's state is as it was."""
    made = breaker(**IN_A_ROW)
    now = START + 5 * SECOND
    for target in "abc":
        fail(made, START, 3, target)
        made.permit(now, "dead.1" if target < "c" else "alive.1", target, target)
    made.take_changes()
    assert made.bury(now, ME, "dead", lost=False) == 2
    rows, _, views, _ = made.take_changes()
    assert ({row.key for row in rows}, views) == ({"a", "b"}, set())
    targets = made.status(now, ME)["targets"]
    assert [targets[name]["probes"] for name in "abc"] == [0, 0, 1]
    assert {at["state"] for at in targets.values()} == {"half_open"}


def test_asking_and_giving_back_may_be_repeated() -> None:
    """The same id takes one place, and its report counts once."""
    made = breaker(**IN_A_ROW)
    fail(made, START, 3)
    now = START + 5 * SECOND
    replies = {made.permit(now, ME, "p", TARGET) for _ in range(9)}
    assert replies == {Permit(2, True)}
    for _ in range(9):
        made.report(now, ME, TARGET, 2, SUCCESS, 0, "p", None)
        made.report(now, ME, TARGET, 2, IGNORED, 0, "never given", None)
    status = made.status(now, ME)["targets"][TARGET]
    assert (status["state"], status["success_count"], status["probes"]) == ("half_open", 1, 0)


def test_a_cancelled_caller_returns_a_permit_of_unknown_generation() -> None:
    """Who never saw his permit can still give it back."""
    made = breaker(**IN_A_ROW)
    fail(made, START, 3)
    now = START + 5 * SECOND
    made.permit(now, ME, "p", TARGET)
    made.report(now, ME, TARGET, 0, IGNORED, 0, "p", None)
    assert made.status(now, ME)["targets"][TARGET]["probes"] == 0


@pytest.mark.parametrize(
    ("reports", "resting_s"),
    [
        ([(0, 7)], 7),
        ([(0, 7), (0, 3)], 7),
        ([(0, 7), (2, 9)], 11),
        ([(0, 7), (2, None)], 7),
        ([(0, None)], 0),
        ([(0, 0)], 0),
    ],
    ids=["once", "shorter", "longer", "silent", "only silent", "zero"],
)
def test_throttled_target_rests(reports: list[tuple[int, int | None]], resting_s: int) -> None:
    """A rest lasts until the latest Retry-After, counts as no failure, and then just ends."""
    made = breaker(failure_threshold=1)
    for at_s, after_s in reports:
        after_ns = None if after_s is None else after_s * SECOND
        made.report(START + at_s * SECOND, ME, TARGET, 0, THROTTLED, 0, None, after_ns)
    now = START + 2 * SECOND
    if resting_s:
        left = (resting_s - 2) * SECOND
        assert made.view(TARGET, now) == BreakerView("closed", 0, left, left)
        assert made.permit(now, ME, "p", TARGET) == Barred("closed", left)
    after = START + resting_s * SECOND
    assert made.permit(after, ME, "p", TARGET) == Permit(0, False)
    assert (made.view(TARGET, after) or UNKNOWN) == UNKNOWN


def test_throttled_probe_gives_its_place_back() -> None:
    """A throttled probe decides nothing; no other goes before the rest is over."""
    made = breaker(**{**IN_A_ROW, "success_threshold": 1})
    fail(made, START, 3)
    now = START + 5 * SECOND
    made.permit(now, ME, "p", TARGET)
    made.report(now, ME, TARGET, 2, THROTTLED, 0, "p", 30 * SECOND)
    assert made.permit(now, ME, "q", TARGET) == Barred("half_open", 30 * SECOND)
    assert made.permit(now + 30 * SECOND, ME, "q", TARGET) == Permit(2, True)


def test_reset_ends_a_rest() -> None:
    """An operator can send calls again although the provider named an absurd time."""
    made = breaker()
    made.report(START, ME, TARGET, 0, THROTTLED, 0, None, 2**62)
    assert made.force(START, ME, TARGET, "reset") == BreakerView("closed", 1, 0, 0)


def test_jitter_shortens_reopenings_only() -> None:
    """The first wait is exact; later ones lie below their nominal length, not below the first."""
    waits = set()
    for seed in range(50):
        made = CircuitBreaker(random.Random(seed))
        spec = {**IN_A_ROW, "recovery_factor": 2, "jitter": 0.2}
        made.configure(START, ME, "1", {"default": spec})
        fail(made, START, 3)
        assert (made.view(TARGET, START) or UNKNOWN).retry_after_ns == 5 * SECOND
        now = START + 5 * SECOND
        made.permit(now, ME, "p", TARGET)
        made.report(now, ME, TARGET, 2, FAILURE, 0, "p", None)
        waits.add((made.view(TARGET, now) or UNKNOWN).retry_after_ns)
    assert len(waits) > 40
    assert 8 * SECOND <= min(waits) < max(waits) <= 10 * SECOND


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("report", (TARGET, 0, "fine", 0, None, None)),
        ("force", (TARGET, "ajar")),
    ],
)
def test_wrong_words_are_refused(command: str, args: tuple[Any, ...]) -> None:
    """Unknown outcomes and actions change nothing."""
    made = breaker()
    made.take_changes()
    with pytest.raises(InvalidRequest):
        getattr(made, command)(START, ME, *args)
    assert made.take_changes() == ([], [], set(), [])


def test_it_is_a_mechanism() -> None:
    """The class fits the seam, and every command that it names exists."""
    made: Mechanism = CircuitBreaker()
    assert all(callable(getattr(made, command)) for command in made.COMMANDS)
    assert made.take_changes() == ([], [], set(), [])
