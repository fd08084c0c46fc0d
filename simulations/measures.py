"""Figures taken from records and samples: percentiles, throughput, outcomes, timelines."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from simulations.records import SHARED, Record, Sample

PERCENTILES = (50, 90, 95, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` % of the values lie, linear between neighbours.

    Raises ValueError when there are no values.
    """
    if not values:
        raise ValueError("no values, so no percentile")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


class Spread(NamedTuple):
    """How a time is spread over requests, in seconds."""

    requests: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    largest: float


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of some times in seconds; None when there are none."""
    if not values:
        return None
    p50, p90, p95, p99 = (percentile(values, percent) for percent in PERCENTILES)
    return Spread(len(values), sum(values) / len(values), p50, p90, p95, p99, max(values))


def latencies(records: Iterable[Record], priority: str | None = None) -> list[float]:
    """Latencies in seconds of answered requests, of one priority or of all."""
    return [
        record.latency_s
        for record in records
        if record.answered and priority in (None, record.intent.priority)
    ]


def first_texts(records: Iterable[Record]) -> list[float]:
    """Times to first token in seconds, of the streams that had one."""
    return [record.ttft_s for record in records if record.ttft_s is not None]


def outcomes(records: Iterable[Record]) -> list[tuple[str, str, int]]:
    """(outcome, reason, count), the most frequent first."""
    counts = Counter((record.outcome, record.reason) for record in records)
    return [(outcome, reason, count) for (outcome, reason), count in counts.most_common()]


def share(part: int, whole: int) -> float:
    """part/whole; 0 of nothing is 0."""
    return part / whole if whole else 0.0


def shared_answers(records: Iterable[Record]) -> int:
    """Successes that cost no provider call of their own."""
    return sum(record.outcome == "success" and record.cache in SHARED for record in records)


class Bucket(NamedTuple):
    """What ended within a span of the run that starts at `start_s`: counts by outcome."""

    start_s: float
    counts: Counter[str]


def throughput(records: Sequence[Record], width_s: float = 1.0) -> list[Bucket]:
    """Ends per span of `width_s` seconds, from the run's start; empty spans included."""
    if not records:
        return []
    counts: dict[int, Counter[str]] = {}
    for record in records:
        counts.setdefault(max(0, int(record.done_s // width_s)), Counter())[record.outcome] += 1
    return [
        Bucket(number * width_s, counts.get(number, Counter())) for number in range(max(counts) + 1)
    ]


class Stretch(NamedTuple):
    """A span, in seconds of the run, for which a breaker was seen in one state."""

    state: str
    start_s: float
    end_s: float


def breaker_timeline(samples: Sequence[Sample]) -> dict[str, list[Stretch]]:
    """The states of each target in order. A state lasts from its sample to the next one."""
    lines: dict[str, list[Stretch]] = {}
    ends_s = [following.at_s for following in samples[1:]] + [
        sample.at_s for sample in samples[-1:]
    ]
    for sample, end_s in zip(samples, ends_s, strict=True):
        for target, state in sample.breakers.items():
            line = lines.setdefault(target, [])
            if line and line[-1].state == state:
                line[-1] = line[-1]._replace(end_s=end_s)
            else:
                line.append(Stretch(state, sample.at_s, end_s))
    return lines


def tardiness(records: Iterable[Record]) -> float:
    """By how many seconds the driver itself was late, at worst; its own fault, not the gateway's.

    0 when nothing was sent.
    """
    return max(
        (record.sent_s - record.intent.at_s for record in records if record.outcome != "unsent"),
        default=0.0,
    )
