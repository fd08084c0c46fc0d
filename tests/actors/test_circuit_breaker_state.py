import random
from typing import Any

import pytest

from actors.circuit_breaker import (
    FAILURE,
    MAX_TARGETS,
    SUCCESS,
    THROTTLED,
    UNKNOWN,
    CircuitBreaker,
)
from actors.errors import InvalidRequest, Overloaded

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


def test_targets_have_their_own_breaker_and_specification() -> None:
    """One target's failures and exceptions are not another's."""
    made = CircuitBreaker()
    policy = {"default": {"failure_threshold": 2}, "targets": {"b": {"failure_threshold": 3}}}
    made.configure(START, ME, "1", policy)
    for target in "ab":
        fail(made, START, 2, target)
    targets = made.status(START, ME)["targets"]
    assert {name: at["state"] for name, at in targets.items()} == {"a": "open", "b": "closed"}


def test_a_new_policy_keeps_what_was_counted() -> None:
    """Counts stay and count under the new rules; the same revision again changes nothing."""
    made = breaker(failure_threshold=10, min_calls=10)
    fail(made, START, 4)
    made.configure(START, ME, "1", {"default": {"failure_threshold": 1}})
    fail(made, START, 1)
    assert made.status(START, ME)["targets"][TARGET]["failure_count"] == 5
    made.configure(START, ME, "2", {"default": {"failure_threshold": 6, "window_ns": 60 * SECOND}})
    assert made.status(START, ME)["targets"][TARGET]["failure_count"] == 5
    fail(made, START, 1)
    assert (made.view(TARGET, START) or UNKNOWN).state == "open"


INVALID: list[tuple[Any, str]] = [
    ([], "policy"),
    ({"defaults": {}}, "defaults"),
    ({"default": None}, "default"),
    ({"default": {"treshold": 1}}, "default.treshold"),
    ({"default": {"failure_threshold": -1}}, "default.failure_threshold"),
    ({"default": {"failure_threshold": True}}, "default.failure_threshold"),
    ({"default": {"failure_rate": 50}}, "default.failure_rate"),
    ({"default": {"slow_rate": float("nan")}}, "default.slow_rate"),
    ({"default": {"window": "calls"}}, "default.window"),
    ({"default": {"window_ns": 1.5}}, "default.window_ns"),
    ({"default": {"success_threshold": 0}}, "default.success_threshold"),
    ({"default": {"half_open_max_ns": 0}}, "default.half_open_max_ns"),
    ({"targets": {"a/b": {"recovery_factor": 0.5}}}, "targets.a/b.recovery_factor"),
    ({"targets": {"a/b": 7}}, "targets.a/b"),
    ({"targets": {str(n): {} for n in range(MAX_TARGETS + 1)}}, "targets"),
]


@pytest.mark.parametrize(
    ("policy", "param"),
    INVALID,
    ids=[f"{n} {param}" for n, (_, param) in enumerate(INVALID)],
)
def test_invalid_policy_names_its_field_and_changes_nothing(policy: Any, param: str) -> None:
    """A bad policy is refused with the path of the field, and the one before stays."""
    made = breaker(failure_threshold=1)
    made.take_changes()
    with pytest.raises(InvalidRequest) as caught:
        made.configure(START, ME, "2", policy)
    assert caught.value.param == param
    assert made.take_changes() == ([], [], set(), [])
    fail(made, START, 1)
    assert (made.view(TARGET, START) or UNKNOWN).state == "open"


def test_views_change_with_the_state_and_the_rest_only() -> None:
    """Watchers hear of openings, probing and rests, not of every outcome or permit."""
    made = breaker(**IN_A_ROW)

    def shown() -> set[str]:
        return made.take_changes().views

    fail(made, START, 2)
    assert shown() == set()
    fail(made, START, 1)
    assert shown() == {TARGET}
    now = START + 5 * SECOND
    made.permit(now, ME, "p", TARGET)
    assert shown() == {TARGET}
    made.permit(now, ME, "q", TARGET)
    made.report(now, ME, TARGET, 2, SUCCESS, 0, "p", None)
    assert shown() == set()
    made.report(now, ME, TARGET, 2, THROTTLED, 0, "q", SECOND)
    assert shown() == {TARGET}


def test_a_batch_writes_one_row_per_target() -> None:
    """A hundred outcomes cost one row; a call that nothing depends on costs none."""
    made = breaker()
    made.take_changes()
    for _ in range(100):
        made.permit(START, ME, "p", TARGET)
        made.report(START, ME, TARGET, 0, SUCCESS, SECOND, None, None)
    assert [row.key for row in made.take_changes().rows] == [TARGET]
    made.permit(START, ME, "p", TARGET)
    assert made.take_changes().rows == []


def test_targets_are_bounded() -> None:
    """The closed target that was quiet for longest makes room; what matters is never lost."""
    made = breaker(failure_threshold=1)
    for n in range(MAX_TARGETS):
        made.report(START + n, ME, str(n), 0, FAILURE if n == 0 else SUCCESS, 0, None, None)
    made.take_changes()
    now = START + MAX_TARGETS
    made.report(now, ME, "new", 0, SUCCESS, 0, None, None)
    assert set(made.view_keys()) == {str(n) for n in range(MAX_TARGETS) if n != 1} | {"new"}
    rows, _, views, _ = made.take_changes()
    assert {(row.key, row.value is None) for row in rows} == {("1", True), ("new", False)}
    assert views == {"1"}
    assert made.view("1", now) is None


def test_no_room_among_open_targets_is_an_overload() -> None:
    """When every known target is open, another one is refused and nothing is forgotten."""
    made = breaker(failure_threshold=1)
    for n in range(MAX_TARGETS):
        fail(made, START, 1, str(n))
    with pytest.raises(Overloaded):
        fail(made, START, 1, "new")
    assert len(made.status(START, ME)["targets"]) == MAX_TARGETS


def test_a_forgotten_target_repeats_no_generation() -> None:
    """What was reported of a target's first life does not count in its second."""
    made = breaker(failure_threshold=1)
    fail(made, START, 1)
    made.force(START, ME, TARGET, "reset")
    for n in range(MAX_TARGETS):
        made.report(START + 1, ME, str(n), 0, SUCCESS, 0, None, None)
    assert made.view(TARGET, START) is None
    fail(made, START + 2, 1)
    assert (made.view(TARGET, START + 2) or UNKNOWN).generation == 3
