"""All windows at once: against the plain definition."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.strict.windows import NANOS, above, gaps, most_above, overlapping
from tests.benchmarks.evidence_of import call

TAKES = st.lists(st.tuples(st.integers(0, 5 * NANOS), st.integers(1, 9)), max_size=12)


@given(TAKES, st.integers(1, 20))
def test_most_above_is_the_most_of_all_windows(takes: list[tuple[int, int]], per_s: int) -> None:
    """I1's left side less its rate, tried for every pair of moments."""
    times = [at for at, _ in takes]
    windows = [
        sum(units for at, units in takes if a <= at <= b) * NANOS - per_s * (b - a)
        for a in times
        for b in times
        if a <= b
    ]
    assert most_above(per_s, takes) == max(windows, default=0)


def test_above_counts_whole_units_beyond_the_bound() -> None:
    """A part of a unit over is one unit over; the bound itself is none."""
    assert above(10, 2, [(0, 2), (NANOS // 10, 1)]) == 0
    assert above(10, 2, [(0, 2), (NANOS // 10 - 1, 1)]) == 1
    assert above(10, 2, [(0, 5)]) == 3


def test_gaps_are_the_long_ones_that_touch_a_span() -> None:
    """The one up to the end belongs to them; a gap counts whole, and once."""
    times = [0, 1, 5, 6, 10]
    assert gaps(times, 20, 2, [(2, 3), (3, 4)]) == 4
    assert gaps(times, 20, 2, [(2, 3), (7, 8)]) == 8
    assert gaps(times, 20, 2, [(15, 99)]) == 10
    assert gaps(times, 20, 10, [(0, 99)]) == 0
    assert gaps(times, 20, 2, [(5, 6)]) == 0
    assert gaps(times, 8, 1, [(0, 99)]) == 6


def test_overlapping_counts_a_call_without_an_end_for_ever() -> None:
    """And one that begins as another ends beside it not at all."""
    calls = [call("1", "m", 0.0), call("2", "m", 0.3), call("3", "m", 0.5)]
    assert overlapping(calls) == 2
    assert overlapping([calls[0]._replace(ended_ns=None), *calls[1:]]) == 3
    assert overlapping([]) == 0
