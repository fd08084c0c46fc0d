import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.arrivals import bursts, fixed_rate, office_day, poisson, shaped

RATES = st.floats(0.5, 200)
LENGTHS = st.floats(0.1, 30)
SEEDS = st.integers(0, 2**32)


@given(RATES, LENGTHS, SEEDS, st.floats(0.1, 3), st.floats(0.1, 3))
def test_arrivals_ascend_and_lie_within_the_run(
    rate: float, length: float, seed: int, on_s: float, off_s: float
) -> None:
    """Invariant: whatever the process, times never go back and none is outside [0, duration)."""
    for times in (
        list(fixed_rate(rate, length)),
        list(poisson(rate, length, random.Random(seed))),
        list(bursts(rate, on_s, off_s, length, random.Random(seed))),
        list(shaped(lambda at_s: rate / 2, rate, length, random.Random(seed))),
    ):
        assert times == sorted(times)
        assert all(0 <= at_s < length for at_s in times)


@given(SEEDS)
def test_the_same_seed_gives_the_same_arrivals(seed: int) -> None:
    """Invariant: a run can be repeated from its seed alone."""
    first = list(poisson(20, 5, random.Random(seed)))
    assert first == list(poisson(20, 5, random.Random(seed)))
    assert first != list(poisson(20, 5, random.Random(seed + 1)))


def test_fixed_rate_is_evenly_spaced() -> None:
    """Ten a second for one second are ten, a tenth of a second apart, from 0 on."""
    assert list(fixed_rate(10, 1)) == pytest.approx([number / 10 for number in range(10)])


def test_poisson_has_the_rate_and_the_spread_of_its_name() -> None:
    """Gaps have a mean of 1/rate, and a standard deviation as large as their mean."""
    times = list(poisson(50, 400, random.Random(1)))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) == pytest.approx(50 * 400, rel=0.03)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(1, abs=0.03)


def test_bursts_are_silent_in_between_and_keep_the_mean_rate() -> None:
    """With 1 s on and 3 s off at 80/s nothing arrives while off, and the mean is 20/s."""
    times = list(bursts(80, 1, 3, 400, random.Random(2)))
    assert all(at_s % 4 < 1 + 1e-9 for at_s in times)
    assert len(times) == pytest.approx(20 * 400, rel=0.03)


def test_shaped_arrivals_follow_their_rate() -> None:
    """A rate that is 10/s in the first half and 40/s in the second is met in both."""
    times = list(shaped(lambda s: 10 if s < 200 else 40, 40, 400, random.Random(3)))
    early = sum(at_s < 200 for at_s in times)
    assert early == pytest.approx(2000, rel=0.08)
    assert len(times) - early == pytest.approx(8000, rel=0.05)


def test_an_office_is_quiet_at_night_and_busiest_before_noon() -> None:
    """The day's shape lies between 0 and 1, with its peak in the morning and a dip at lunch."""
    hours = {hour: office_day(hour / 24) for hour in range(25)}
    assert all(0 < busy <= 1 for busy in hours.values())
    assert max(hours, key=hours.__getitem__) in (10, 11)
    assert hours[3] < 0.1
    assert hours[13] < hours[15] < hours[10]
