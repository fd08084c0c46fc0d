from collections import deque

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.outcome_window import (
    Counts,
    CountWindow,
    OutcomeWindow,
    Rates,
    TimeWindow,
    carry_over,
    window_from_row,
)

SECOND = 1_000_000_000

outcomes = st.lists(
    st.tuples(st.integers(0, 3 * SECOND), st.booleans(), st.booleans()), max_size=60
)


def stored_and_read(window: OutcomeWindow) -> OutcomeWindow:
    """The window that a restart finds."""
    return window_from_row(msgpack.unpackb(msgpack.packb(window.row())))


def test_count_window_keeps_the_last_outcomes() -> None:
    """Of ten places, twelve outcomes leave the last ten, and three more the last ten again."""
    window = CountWindow(10, min_calls=10)
    seen = []
    for letters in ("SSFF", "FFFFSSSS", "SSS"):
        for letter in letters:
            window.add(0, letter == "F", False)
        seen.append(window.counts(0).rates(window.min_calls))
    assert seen == [None, Rates(0.6, 0.0), Rates(0.3, 0.0)]


@pytest.mark.parametrize(
    ("at_s", "calls"), [(0.8, 3), (4.8, 3), (5.8, 0)], ids=["at once", "4 s on", "5 s on"]
)
def test_time_window_forgets_after_its_length(at_s: float, calls: int) -> None:
    """Calls at 0, 0.1 and 0.8 s are in a window of 5 s four seconds later, not after five."""
    window = TimeWindow(5 * SECOND, min_calls=1)
    for at in (0.0, 0.1, 0.8):
        window.add(int(at * SECOND), True, False)
    assert window.counts(int(at_s * SECOND)).calls == calls


def test_rates_need_enough_calls() -> None:
    """Below the fewest calls there is no rate, and none of no calls at all."""
    assert Counts(4, 4, 4).rates(5) is None
    assert Counts(5, 3, 1).rates(5) == Rates(0.6, 0.2)
    assert Counts(0, 0, 0).rates(0) is None


def test_fewest_calls_never_exceed_a_count_window() -> None:
    """A window of three calls gives a rate at three, whatever minimum was asked for."""
    assert CountWindow(3, min_calls=10).min_calls == 3


@settings(deadline=None)
@given(outcomes, st.integers(1, 12))
def test_count_window_equals_a_plain_list(calls: list[tuple[int, bool, bool]], size: int) -> None:
    """The running totals are those of the last outcomes, also after a restart at any point."""
    window: OutcomeWindow = CountWindow(size, 1)
    last: deque[tuple[bool, bool]] = deque(maxlen=size)
    for _, failed, slow in calls:
        window.add(0, failed, slow)
        last.append((failed, slow))
        expected = Counts(len(last), sum(f for f, _ in last), sum(s for _, s in last))
        assert window.counts(0) == expected
        window = stored_and_read(window)
        assert window.counts(0) == expected


@settings(deadline=None)
@given(outcomes, st.integers(1_000_000, 100 * SECOND))
def test_time_window_is_exact_but_for_one_bucket(
    calls: list[tuple[int, bool, bool]], window_ns: int
) -> None:
    """Nothing older than the window is counted, and all that is younger by one bucket is."""
    window: OutcomeWindow = TimeWindow(window_ns, 1)
    assert isinstance(window, TimeWindow)
    buckets = min(60, max(5, window_ns // SECOND))
    bucket_ns = -(-window_ns // buckets)
    now, past = 0, []
    for pause_ns, failed, slow in calls:
        now += pause_ns
        window.add(now, failed, slow)
        past.append(now)
        counted = window.counts(now).calls
        assert counted <= sum(at > now - window_ns for at in past)
        assert counted >= sum(at > now - window_ns + bucket_ns + buckets for at in past)
        assert len(window.row()[-1]) <= 60
        window = stored_and_read(window)
        assert window.counts(now).calls == counted


@settings(deadline=None)
@given(outcomes)
def test_totals_return_to_zero(calls: list[tuple[int, bool, bool]]) -> None:
    """A whole window later nothing is left of anything."""
    window, now = TimeWindow(5 * SECOND, 1), 0
    for pause_ns, failed, slow in calls:
        now += pause_ns
        window.add(now, failed, slow)
    assert window.counts(now + 5 * SECOND) == Counts(0, 0, 0)


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (CountWindow(10, 1), CountWindow(4, 1), Counts(4, 2, 4)),
        (CountWindow(10, 1), CountWindow(20, 5), Counts(6, 3, 4)),
        (TimeWindow(20 * SECOND, 1), TimeWindow(60 * SECOND, 1), Counts(6, 3, 4)),
        (TimeWindow(20 * SECOND, 1), TimeWindow(5 * SECOND, 1), Counts(5, 2, 4)),
        (TimeWindow(20 * SECOND, 1), CountWindow(20, 1), Counts(0, 0, 0)),
        (CountWindow(20, 1), TimeWindow(20 * SECOND, 1), Counts(0, 0, 0)),
    ],
    ids=["fewer calls", "more calls", "longer", "shorter", "time to count", "count to time"],
)
def test_another_shape_keeps_what_it_can(
    old: OutcomeWindow, new: OutcomeWindow, kept: Counts
) -> None:
    """A changed length keeps what still falls into it; a changed kind starts empty."""
    for second in range(6):
        old.add(second * SECOND, failed=second % 2 == 0, slow=second >= 2)
    assert carry_over(old, new).counts(5 * SECOND) == kept
