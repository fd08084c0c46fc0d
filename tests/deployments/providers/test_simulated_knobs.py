from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.providers.simulated_knobs import Dice, Knobs


def fates(seed: int, *, count: int = 200, **knobs: Any) -> list[Any]:
    """What becomes of so many calls."""
    dice = Dice(seed)
    return [dice.throw(Knobs(**knobs), age_s=0) for _ in range(count)]


def test_the_same_seed_gives_the_same_run() -> None:
    """A run can be repeated, and another seed is another run."""
    mixed: dict[str, Any] = {"error_rate": 0.2, "reset_rate": 0.2, "hang_rate": 0.2, "spread": 0.5}
    assert fates(1, **mixed) == fates(1, **mixed)
    assert fates(1, **mixed) != fates(2, **mixed)


def test_turning_one_knob_leaves_the_luck_of_later_calls_alone() -> None:
    """The n-th call meets the same luck whatever happened to those before it."""
    calm, stormy = Dice(3), Dice(3)
    for i in range(50):
        rate = Random(i).random()
        calm.throw(Knobs(), 0)
        stormy.throw(Knobs(error_rate=rate, spread=1, outage=i % 2 == 0), 0)
    assert calm.throw(Knobs(spread=1), 0) == stormy.throw(Knobs(spread=1), 0)


@pytest.mark.parametrize(
    ("knob", "verdict"),
    [
        ("error_rate", "error"),
        ("throttle_rate", "throttled"),
        ("reset_rate", "reset"),
        ("hang_rate", "hang"),
    ],
)
def test_rates_are_shares_of_calls(knob: str, verdict: str) -> None:
    """Never at 0, always at 1, and about a third at a third."""
    for rate, least, most in ((0.0, 0, 0), (1.0, 1000, 1000), (1 / 3, 280, 390)):
        hit = sum(fate.verdict == verdict for fate in fates(5, count=1000, **{knob: rate}))
        assert least <= hit <= most


@pytest.mark.parametrize(
    ("age_s", "verdict"),
    [(0, "answer"), (1, "hang"), (2.9, "hang"), (3, "answer"), (10, "hang"), (11, "answer")],
)
def test_outages_come_and_go_by_the_clock(age_s: float, verdict: str) -> None:
    """Each window begins and ends on time, in the chosen manner."""
    windows = [{"from_s": 1, "for_s": 2}, {"from_s": 10, "for_s": 1}]
    knobs = Knobs(outages=windows, outage_mode="hang")
    assert Dice(0).throw(knobs, age_s).verdict == verdict


def test_without_spread_times_are_exact_and_with_it_they_scatter_about_the_median() -> None:
    """The knobs' times are medians of a log-normal."""
    exact = fates(0, ttft_s=0.5, tokens_per_s=100)
    assert {(fate.ttft_s, fate.token_gap_s) for fate in exact} == {(0.5, 0.01)}
    scattered = sorted(fate.ttft_s for fate in fates(0, count=1001, ttft_s=0.5, spread=0.5))
    assert 0.45 < scattered[500] < 0.55
    assert scattered[-1] > 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"error_rate": 1.1},
        {"ttft_s": -1},
        {"tokens_per_s": float("nan")},
        {"error_status": 200},
        {"reset_at": "end"},
        {"outages": [{"from_s": 0}]},
        {"no_such_knob": 1},
    ],
)
def test_a_knob_cannot_be_turned_beyond_its_stops(wrong: dict[str, Any]) -> None:
    """Values that mean nothing are refused."""
    with pytest.raises(ValidationError):
        Knobs(**wrong)
