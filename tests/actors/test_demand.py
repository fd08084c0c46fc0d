"""How much of a slice is kept at hand follows from how fast it goes."""

import pytest

from actors.demand import Demand


def used(per_s: float, quantity: int, for_s: float, every_s: float = 0.05) -> tuple[Demand, float]:
    """A demand that has seen so many takes a second, measured at a regular pace."""
    demand = Demand(0.0)
    now_s = 0.0
    owed = 0.0
    while now_s < for_s:
        now_s += every_s
        owed += per_s * every_s
        while owed >= 1.0:
            demand.note(quantity)
            owed -= 1.0
        demand.measure(now_s)
    return demand, now_s


def test_a_single_use_is_not_worth_a_slice() -> None:
    """Else every key that is used once would take from its limits what others could use."""
    demand = Demand(0.0)
    demand.note(1)
    demand.measure(0.05)
    assert demand.target(0.05) == 0


def test_seldom_used_limits_are_asked_for_each_time() -> None:
    """Two a second for a minute: still nothing at hand."""
    demand, now_s = used(per_s=2, quantity=1, for_s=60)
    assert demand.target(now_s) == 0


@pytest.mark.parametrize("per_s", [50, 400, 5_000])
def test_what_is_used_often_is_at_hand_for_a_quarter_of_a_second(per_s: int) -> None:
    """After two seconds of even use."""
    demand, now_s = used(per_s, quantity=1, for_s=2)
    assert demand.target(now_s) == pytest.approx(per_s / 4, rel=0.05, abs=4)


def test_a_few_of_the_largest_uses_fit_at_least() -> None:
    """Tokens come in large and uneven quantities."""
    demand, now_s = used(per_s=10, quantity=10_000, for_s=2)
    assert demand.target(now_s) >= 40_000


def test_use_in_quick_succession_counts_at_once() -> None:
    """Within a tenth of a second of heavy use there is something at hand."""
    demand, now_s = used(per_s=400, quantity=1, for_s=0.1)
    assert demand.target(now_s) > 10


def test_what_is_used_no_more_is_given_back_within_seconds() -> None:
    """A lull ends it, and in the end nothing is remembered."""
    demand, now_s = used(per_s=400, quantity=1, for_s=2)
    for _ in range(20):
        now_s += 0.05
        demand.measure(now_s)
    assert demand.target(now_s) == 0
    demand.measure(now_s + 3)
    assert demand.idle()


def test_after_a_recall_nothing_is_kept_for_a_second() -> None:
    """However hard it is used: others are waiting."""
    demand, now_s = used(per_s=400, quantity=1, for_s=2)
    demand.rest(now_s)
    assert demand.target(now_s + 0.9) == 0
    assert demand.target(now_s + 1.1) > 0


def test_one_large_use_is_not_prepared_for_for_ever() -> None:
    """A million tokens once, then small requests: seconds later a small slice is enough."""
    demand, now_s = used(per_s=20, quantity=1_000, for_s=1)
    demand.note(1_000_000)
    for _ in range(60):
        now_s += 0.05
        demand.note(1_000)
        demand.measure(now_s)
    assert demand.target(now_s) < 10_000
