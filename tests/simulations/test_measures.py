from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations import measures
from simulations.measures import Stretch
from simulations.records import Outcome, Record, Sample
from simulations.workload import Intent


def record(
    at_s: float = 0.0,
    latency_s: float = 0.1,
    outcome: Outcome = "success",
    reason: str = "",
    cache: str = "",
    sent_s: float = 0.0,
) -> Record:
    """A request's end."""
    intent = Intent(at_s, "chat")
    return Record(intent, outcome, reason, 200, sent_s, latency_s, cache=cache)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 99, 7.0),
        ([1.0, 2.0, 3.0, 4.0], 50, 2.5),
        ([4.0, 1.0, 3.0, 2.0], 100, 4.0),
        ([1.0, 2.0, 3.0, 4.0], 0, 1.0),
        ([float(number) for number in range(101)], 95, 95.0),
        ([10.0, 20.0], 90, 19.0),
    ],
)
def test_percentiles_of_known_values(values: list[float], percent: float, expected: float) -> None:
    """Linear between neighbours, whatever the order of the values."""
    assert measures.percentile(values, percent) == pytest.approx(expected)


def test_no_values_have_no_percentile() -> None:
    """Nothing measured is an error, or no spread; never a zero."""
    with pytest.raises(ValueError, match="no values"):
        measures.percentile([], 50)
    assert measures.spread([]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_percentiles_rise_and_stay_within_the_values(values: list[float]) -> None:
    """Invariant: p50 ≤ p90 ≤ p95 ≤ p99 ≤ largest, none outside of what was measured."""
    spread = measures.spread(values)
    assert spread is not None
    line = [min(values), spread.p50, spread.p90, spread.p95, spread.p99, spread.largest]
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(line))


def test_latencies_are_those_of_answers() -> None:
    """A quick refusal must not make the gateway look fast."""
    records = [record(latency_s=2.0), record(latency_s=0.001, outcome="refused")]
    assert measures.latencies(records) == [2.0]
    assert measures.latencies(records, "high") == []


def test_outcomes_are_counted_by_reason_the_most_frequent_first() -> None:
    """Each pair of outcome and reason is one line."""
    records = [record(outcome="refused", reason="insufficient_quota")] * 3 + [record()] * 5
    assert measures.outcomes(records) == [
        ("success", "", 5),
        ("refused", "insufficient_quota", 3),
    ]


def test_shared_answers_are_successes_without_a_call_of_their_own() -> None:
    """HIT, WAIT and STALE count, MISS and BYPASS do not, nor does a fallback."""
    caches = ("HIT", "WAIT", "STALE", "MISS", "BYPASS", "")
    records = [record(cache=cache) for cache in caches]
    assert measures.shared_answers([*records, record(outcome="fallback", cache="HIT")]) == 3


def test_throughput_counts_ends_and_keeps_empty_spans() -> None:
    """A span in which nothing ended is a gap that people must see."""
    records = [record(0.0, 0.5), record(0.2, 0.5), record(0.1, 2.2, "failed")]
    buckets = measures.throughput(records)
    assert [bucket.start_s for bucket in buckets] == [0.0, 1.0, 2.0]
    assert [bucket.counts for bucket in buckets] == [
        Counter(success=2),
        Counter(),
        Counter(failed=1),
    ]
    assert measures.throughput([]) == []


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), min_size=1, max_size=50))
def test_throughput_loses_no_request(ends: list[tuple[float, float]]) -> None:
    """Invariant: the counts of all spans add up to the requests, whatever the width."""
    records = [record(at_s, latency_s) for at_s, latency_s in ends]
    for width_s in (0.1, 1.0, 7.0):
        buckets = measures.throughput(records, width_s)
        assert sum(bucket.counts.total() for bucket in buckets) == len(records)


def test_a_breaker_timeline_joins_equal_samples() -> None:
    """Polled states become stretches, each lasting until the next sample."""
    states = ["closed", "closed", "open", "open", "half_open", "closed"]
    samples = [Sample(float(at), "healthy", {"t": state}) for at, state in enumerate(states)]
    assert measures.breaker_timeline(samples) == {
        "t": [
            Stretch("closed", 0, 2),
            Stretch("open", 2, 4),
            Stretch("half_open", 4, 5),
            Stretch("closed", 5, 5),
        ]
    }


def test_tardiness_is_the_worst_delay_of_the_driver() -> None:
    """What was never sent is not late."""
    records = [record(1.0, sent_s=1.25), record(2.0, sent_s=2.0)]
    assert measures.tardiness(records) == pytest.approx(0.25)
    assert measures.tardiness([record(0.0, outcome="unsent", sent_s=9.0)]) == 0.0
