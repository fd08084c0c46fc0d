"""What a log says of all windows of time at once."""

from collections.abc import Iterable
from itertools import accumulate, pairwise
from math import inf

from deployments.providers.simulated_log import CallRecord

NANOS = 10**9


def most_above(per_s: int, takes: Iterable[tuple[int, int]]) -> int:
    """How much the fullest window holds above `per_s` units a second, in 1e-9 units.

    takes: (nanoseconds, units). A window of no length holds what was taken at one moment.
    """
    lowest: int | None = None
    most = taken = 0
    for at_ns, units in sorted(takes):
        before = taken * NANOS - per_s * at_ns
        lowest = before if lowest is None else min(lowest, before)
        taken += units
        most = max(most, taken * NANOS - per_s * at_ns - lowest)
    return most


def above(per_s: int, bound: int, takes: Iterable[tuple[int, int]]) -> int:
    """Units beyond `bound` + per_s · W in the worst window W, rounded up; 0 within it."""
    return max(0, -(-(most_above(per_s, takes) - bound * NANOS) // NANOS))


def gaps(times: Iterable[int], end_ns: int, usual_ns: int, spans: Iterable[tuple[int, int]]) -> int:
    """Nanoseconds in which nothing happened for longer than usual, and a span was touched.

    times: when something happened; after the last of them nothing does until `end_ns`.
    spans: (from, to) in nanoseconds.
    """
    touched = list(spans)
    moments = sorted({*(at for at in times if at < end_ns), end_ns})
    return sum(
        later - earlier
        for earlier, later in pairwise(moments)
        if later - earlier > usual_ns
        and any(begin < later and earlier < end for begin, end in touched)
    )


def overlapping(calls: Iterable[CallRecord]) -> int:
    """The most of these calls that were in flight together; one without an end goes on."""
    edges: list[tuple[float, int]] = []
    for call in calls:
        edges += [(call.started_ns, 1), (inf if call.ended_ns is None else call.ended_ns, -1)]
    return max(accumulate(change for _, change in sorted(edges)), default=0)
