"""The gate against a provider with slots, in virtual time."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.target_gate import HIGH, LOW, NORMAL, Gate
from tests.deployments.gate_world import World

MOST = 2_000


def fixed(works_s: float) -> object:
    """Every call takes as long."""
    return lambda now, random: (5, works_s)


def mixed(now: float, random: Random) -> tuple[int, float]:
    """Answers of very different lengths, and a pace that varies: (kind, seconds)."""
    tokens = int(math.exp(random.gauss(5, 1))) + 1
    return tokens.bit_length(), (0.3 + tokens * 0.02) * math.exp(random.gauss(0, 0.2))


def world(slots: int, works_s: object, gates: int = 1) -> World:
    """A provider, and its gates at some replicas."""
    return World(slots, works_s, [Gate(MOST, 0.0, lambda: 0.5) for _ in range(gates)])  # type: ignore[arg-type]


@pytest.mark.parametrize("gates", [1, 2, 4])
@pytest.mark.parametrize(("slots", "works_s"), [(64, 0.2), (32, 0.2), (64, 1.0)])
def test_at_five_times_its_capacity_a_target_answers_as_many_and_as_quickly(
    slots: int, works_s: float, gates: int
) -> None:
    """At least 90 % of its capacity is answered, p99 within three times that at capacity."""
    capacity = slots / works_s
    here = world(slots, fixed(works_s), gates)
    here.run(capacity, 30 * max(works_s / 0.2, 1))
    p99_s = here.latency_s(0.99, 100.0)
    began = here.now
    here.run(5 * capacity, 60 * max(works_s / 0.2, 1))
    assert here.goodput(began) >= 0.9 * capacity
    assert here.latency_s(0.99, began) <= 3 * p99_s


def test_a_sudden_overload_is_under_control_within_ten_seconds() -> None:
    """Where a target has not shown its limit before, the first calls wait; those after do not."""
    here = world(64, fixed(0.2), gates=2)
    here.run(160, 10)
    here.run(1_600, 10)
    began = here.now
    here.run(1_600, 50)
    assert here.goodput(began) >= 0.9 * 320
    assert here.latency_s(0.99, began) <= 1.0


def test_longer_answers_are_no_queue() -> None:
    """Calls of all lengths, three times as many at a stroke: nobody is refused."""
    here = world(10**9, mixed)
    here.run(20, 120)
    here.run(60, 120)
    assert not here.refused


def test_a_burst_at_a_target_without_a_limit_gets_in() -> None:
    """Nothing is withheld without a sign of a queue."""
    here = world(10**9, fixed(0.2))
    here.run(5, 20)
    here.run(4_000, 0.4)
    assert not here.refused


def test_a_target_that_gets_slower_is_believed_after_a_trial() -> None:
    """Three times as slow, and less does not make it quicker: its gate opens again."""
    here = world(10**9, lambda now, random: (5, 1.0 if now < 160 else 3.0))  # type: ignore[misc]
    here.run(100, 60)
    here.run(100, 60)
    at_first = here.refused.total()
    assert here.gates[0].open
    here.run(100, 300)
    assert here.refused.total() - at_first == 0
    assert at_first < 0.2 * 6_000


def test_a_limit_is_remembered_and_then_forgotten() -> None:
    """Ten quiet minutes after an overload the gate stands open."""
    here = world(64, fixed(0.2))
    here.run(1_600, 30)
    assert not here.gates[0].open
    here.run(100, 300)
    assert not here.gates[0].open
    here.run(100, 310)
    assert here.gates[0].open
    assert here.gates[0].in_flight < 64


def test_the_limit_follows_a_target_that_is_given_more_slots() -> None:
    """Twice the slots under overload: twice the goodput, half a minute later."""
    here = world(64, fixed(0.2), gates=2)
    here.run(1_600, 60)
    here.slots = 128
    here.run(1_600, 30)
    began = here.now
    here.run(1_600, 30)
    assert here.goodput(began) >= 0.9 * 640


def test_low_priority_goes_first_and_high_last() -> None:
    """A third of the demand each: high gets nearly all that it asks for, low next to nothing."""
    here = world(64, fixed(0.2), gates=2)
    here.run(300, 20, (HIGH, NORMAL, LOW))
    here.let_in.clear()
    here.run(750, 60, (HIGH, NORMAL, LOW))
    shares = [here.let_in[priority] / (250 * 60) for priority in (HIGH, NORMAL, LOW)]
    assert shares[0] > 0.9
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.1


def test_who_is_refused_is_told_how_long_the_refused_would_take() -> None:
    """1,280 a second too many at a target that does 320: those of two seconds take four each."""
    here = world(64, fixed(0.2))
    here.run(1_600, 30)
    here.waits_s.clear()
    here.run(1_600, 10)
    assert 3.0 < sorted(here.waits_s)[len(here.waits_s) // 2] < 5.0


@given(
    most=st.integers(1, 50),
    steps=st.lists(st.tuples(st.sampled_from((HIGH, NORMAL, LOW)), st.floats(0, 2)), max_size=300),
    seed=st.integers(0, 1000),
)
def test_never_more_than_allowed_and_never_against_the_order(
    most: int, steps: list[tuple[int, float]], seed: int
) -> None:
    """At most `most`, however calls come and end; who ranks higher finds room where others do."""
    gate, random, now = Gate(most, 0.0, lambda: 0.5), Random(seed), 50.0
    calls: list[tuple[int, float]] = []
    for priority, pause_s in steps:
        now += pause_s
        limits = [gate.refuses(rank, now) is None for rank in (HIGH, NORMAL, LOW)]
        assert limits == sorted(limits, reverse=True)
        wait_s = gate.refuses(priority, now)
        if wait_s is None:
            calls.append((gate.enter(), now))
        else:
            assert 0.75 <= wait_s <= 37.5
        assert gate.in_flight == len(calls) <= most
        if calls and random.random() < 0.4:
            among, began = calls.pop(random.randrange(len(calls)))
            gate.leave(now)
            gate.answered(random.randrange(3), among, began, now - began, now)
