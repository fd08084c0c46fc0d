from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import experiment_manager
from actors.errors import Conflict, InvalidRequest, NotFound, Overloaded, RaygateError
from actors.experiment_manager import (
    Experiment,
    ExperimentManager,
    Variant,
    variant_at,
    variant_for,
)
from actors.mechanism import Gone, Row
from actors.tallies import Interaction


def spec(**more: Any) -> dict[str, Any]:
    """Two arms, one to three."""
    arms = [{"id": "plain", "weight": 1, "version": 1}, {"id": "warm", "weight": 3, "version": 2}]
    return {"prompt": "hello", "variants": arms} | more


def running(*weights: int, salt: str = "s") -> Experiment:
    """A running experiment with variants v0, v1, ... of these weights."""
    variants = tuple(Variant(f"v{i}", weight) for i, weight in enumerate(weights))
    return Experiment("tone", None, variants, "running", salt, "", 0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_each_variant_owns_exactly_its_weight_of_points(weights: list[int]) -> None:
    """Over all points of the hash's remainder, shares equal the weights exactly."""
    variants = running(*weights).variants
    owned = Counter(variant_at(variants, point).id for point in range(sum(weights)))
    assert [owned[f"v{i}"] for i in range(len(weights))] == weights
    with pytest.raises(ValueError, match="past"):
        variant_at(variants, sum(weights))


@given(st.text(), st.integers(1, 9), st.integers(0, 9))
def test_subject_always_gets_the_same_variant(subject: str, one: int, other: int) -> None:
    """Assignment depends on nothing but the experiment's content and the subject."""
    first = variant_for(running(one, other), subject)
    assert first is not None
    assert variant_for(running(one, other), subject) == first
    assert first.weight > 0


def test_assignment_stays_the_same_between_releases() -> None:
    """Known answers: a changed hash would move every subject to another arm."""
    found = [variant_for(running(1, 1, salt="salt"), f"user-{i}") for i in range(12)]
    assert "".join(one.id[1] for one in found if one) == "101001111100"


def test_subjects_spread_as_the_weights_say() -> None:
    """10,000 subjects at 1:3 lie within five standard deviations of 2,500."""
    one = running(1, 3)
    found = Counter(variant_for(one, f"user-{i}") for i in range(10_000))
    assert abs(found[one.variants[0]] - 2500) < 5 * (10_000 * 0.25 * 0.75) ** 0.5


def test_salts_make_experiments_independent() -> None:
    """The same subjects are split anew by another salt."""
    one, other = running(1, 1, salt="a"), running(1, 1, salt="b")
    same = sum(variant_for(one, str(i)) == variant_for(other, str(i)) for i in range(10_000))
    assert abs(same - 5000) < 5 * 50


def test_salt_and_subject_do_not_run_together() -> None:
    """Salt `a` with subject `b1` is not salt `ab` with subject `1`, over many subjects."""
    one, other = running(1, 1, salt="a"), running(1, 1, salt="ab")
    pairs = [(variant_for(one, f"b{i}"), variant_for(other, str(i))) for i in range(200)]
    assert any(left != right for left, right in pairs)


def test_only_a_running_experiment_assigns() -> None:
    """Draft and stopped experiments leave every request alone."""
    manager = ExperimentManager()
    draft = manager.create(1, "a", "tone", spec())
    assert variant_for(draft, "u") is None
    started = manager.start(2, "a", "tone")
    assert variant_for(started, "u") is not None
    assert variant_for(manager.stop(3, "a", "tone"), "u") is None
    again = manager.start(4, "a", "tone")
    assert variant_for(again, "u") == variant_for(started, "u")


def test_life_of_an_experiment_shows_in_its_view() -> None:
    """Every change but a recorded outcome is seen by watchers."""
    manager = ExperimentManager()
    for command in ("create", "start", "stop", "remove"):
        getattr(manager, command)(1, "a", "tone", *([spec()] if command == "create" else []))
        assert manager.take_changes().views == {"tone"}
    assert manager.view("tone", 2) is None


def test_results_sum_what_was_recorded() -> None:
    """Sums, rates and means per variant; strangers are not counted."""
    manager = ExperimentManager()
    manager.create(1, "a", "tone", spec())
    manager.start(2, "a", "tone")
    manager.take_changes()
    batch = (
        Interaction("tone", "plain", "success", False, 10, 20, 300, 1000),
        Interaction("tone", "plain", "fallback", False, 0, 0, 0, 500),
        Interaction("tone", "plain", "success", True, 1, 2, 3, 0),
        Interaction("tone", "unknown", "success"),
        Interaction("gone", "plain", "success"),
    )
    assert manager.record(3, "a", batch) == 3
    changes = manager.take_changes()
    assert [row.key for row in changes.rows] == ["tone/plain"]
    assert changes.views == set()
    plain, warm = manager.results(4, "a", "tone")["variants"]
    assert plain == {
        "id": "plain",
        "weight": 1,
        "calls": 3,
        "success": 2,
        "fallback": 1,
        "error": 0,
        "cached": 1,
        "tokens_in": 11,
        "tokens_out": 22,
        "cost_nanos": 303,
        "latency_ns": 1500,
        "success_rate": 2 / 3,
        "mean_cost_nanos": 101,
        "mean_latency_ns": 500,
    }
    assert warm["calls"] == 0
    assert warm["success_rate"] is None


@pytest.mark.parametrize(
    "bad",
    [
        "no interaction",
        Interaction("tone", "plain", "maybe"),
        Interaction("tone", "plain", "success", cost_nanos=-1),
        Interaction("tone", "plain", "success", tokens_in=2**63),
        Interaction("tone", 5, "success"),  # type: ignore[arg-type]
    ],
)
def test_a_batch_with_nonsense_counts_nothing(bad: Any) -> None:
    """All or nothing, with the place of the nonsense."""
    manager = ExperimentManager()
    manager.create(1, "a", "tone", spec())
    manager.take_changes()
    with pytest.raises(InvalidRequest) as caught:
        manager.record(2, "a", (Interaction("tone", "plain", "success"), bad))
    assert str(caught.value.param).startswith("interactions[1]")
    assert manager.take_changes().rows == []


def test_sums_stop_at_what_a_row_can_hold() -> None:
    """A sum never outgrows 64 bits."""
    manager = ExperimentManager()
    manager.create(1, "a", "tone", spec())
    big = Interaction("tone", "plain", "success", cost_nanos=2**63 - 1)
    manager.record(2, "a", (big, big))
    assert manager.results(3, "a", "tone")["variants"][0]["cost_nanos"] == 2**63 - 1


@pytest.mark.parametrize(
    ("param", "change"),
    [
        ("variants", {"variants": []}),
        ("variants", {"variants": [{"id": "a", "weight": 0}]}),
        ("variants", {"variants": [{"id": "a", "weight": 1}, {"id": "a", "weight": 1}]}),
        ("variants[0].id", {"variants": [{"weight": 1}]}),
        ("variants[0].weight", {"variants": [{"id": "a", "weight": 0.5}]}),
        ("variants[0].weight", {"variants": [{"id": "a", "weight": -1}]}),
        ("variants[0]", {"variants": [{"id": "a", "weight": 1, "version": 1, "label": "b"}]}),
        ("variants[0].temperature", {"variants": [{"id": "a", "weight": 1, "temperature": 9}]}),
        ("variants[0].colour", {"variants": [{"id": "a", "weight": 1, "colour": "red"}]}),
        ("prompt", {"prompt": "a b"}),
        ("colour", {"colour": "red"}),
    ],
)
def test_bad_spec_is_refused_by_path(param: str, change: dict[str, Any]) -> None:
    """The error's `param` is the path of the field."""
    with pytest.raises(InvalidRequest) as caught:
        ExperimentManager().create(1, "a", "tone", spec(**change))
    assert caught.value.param == param


def test_an_experiment_cannot_be_changed_or_removed_while_it_matters() -> None:
    """The id stays with its content; running ones must be stopped before they go."""
    manager = ExperimentManager()
    made = manager.create(1, "a", "tone", spec())
    assert manager.create(2, "a", "tone", spec()) == made
    with pytest.raises(Conflict):
        manager.create(3, "a", "tone", spec(salt="other"))
    with pytest.raises(Conflict):
        manager.stop(4, "a", "tone")
    manager.start(5, "a", "tone")
    with pytest.raises(Conflict):
        manager.remove(6, "a", "tone")
    assert manager.remove(7, "a", "unknown") is False


def test_unknown_experiments_are_not_found() -> None:
    """The code says that it was the experiment."""
    for command in ("start", "stop", "results"):
        with pytest.raises(NotFound) as caught:
            getattr(ExperimentManager(), command)(1, "a", "tone")
        assert caught.value.code == "experiment_not_found"


def test_number_of_experiments_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full manager refuses, and removing makes room."""
    monkeypatch.setattr(experiment_manager, "MAX_EXPERIMENTS", 1)
    manager = ExperimentManager()
    manager.create(1, "a", "tone", spec())
    with pytest.raises(Overloaded):
        manager.create(2, "a", "other", spec())
    manager.remove(3, "a", "tone")
    manager.create(4, "a", "other", spec())
    assert manager.keep(manager.list(5, "a")) == Gone()


COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(["create", "start", "stop", "remove", "record"]),
        st.sampled_from(["tone", "size"]),
        st.sampled_from(["plain", "warm"]),
        st.integers(0, 1000),
    ),
    max_size=40,
)


@given(COMMANDS)
def test_loaded_rows_equal_the_state_that_lived(commands: list[tuple[str, str, str, int]]) -> None:
    """I8: all rows ever handed out, loaded afresh, are the manager that lived."""
    lived = ExperimentManager()
    rows: dict[tuple[str, str], object] = {}
    for now, (name, id, variant, amount) in enumerate(commands):
        try:
            if name == "create":
                lived.create(now, "a", id, spec())
            elif name == "record":
                lived.record(now, "a", (Interaction(id, variant, "success", cost_nanos=amount),))
            else:
                getattr(lived, name)(now, "a", id)
        except RaygateError:
            assert lived.take_changes().rows == []
        rows.update({(row.table, row.key): row.value for row in lived.take_changes().rows})
    fresh = ExperimentManager()
    fresh.load(
        Row(table, key, msgspec.msgpack.decode(msgspec.msgpack.encode(value)))
        for (table, key), value in rows.items()
        if value is not None
    )
    assert fresh.list(0, "a") == lived.list(0, "a")
    assert fresh.status(0, "a") == lived.status(0, "a")
    for id in lived.view_keys():
        assert fresh.view(id, 0) == lived.view(id, 0)
        assert fresh.results(0, "a", id) == lived.results(0, "a", id)
