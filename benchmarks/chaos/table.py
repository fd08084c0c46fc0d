"""The table of faults: how often each, what it did to requests, how long it took."""

from collections import Counter
from collections.abc import Iterator
from statistics import quantiles

from benchmarks.chaos.faults import Struck
from benchmarks.chaos.run import Run
from benchmarks.strict.evidence import ANSWERED, CLOSED, INGRESS, Asked

_HEADINGS = (
    "fault",
    "times",
    "requests meanwhile",
    "cut off",
    "longest, s",
    "singleton back p50 / p99, s",
    "all well again, s",
)


def rows(run: Run) -> Iterator[tuple[str, ...]]:
    """One for each kind of fault."""
    asked = run.evidence.asked if run.evidence is not None else ()
    for fault, times in sorted(Counter(one.fault for one in run.struck).items()):
        mine = [one for one in run.struck if one.fault == fault]
        met = [one for one in asked if any(_meets(one, each) for each in mine)]
        cut = sum(one.end in (CLOSED, INGRESS) for one in met)
        took_s = [_took_s(one) for one in met if one.tenant == "ample" and one.end == ANSWERED]
        back_s = [each for one in mine for each in one.back_s.values()]
        well_s = max((one.over_ns - one.at_ns) / 1e9 for one in mine)
        back = f"{_percentile(back_s, 50):.1f} / {_percentile(back_s, 99):.1f}" if back_s else "–"
        longest = f"{max(took_s, default=0.0):.1f}"
        yield fault, str(times), str(len(met)), str(cut), longest, back, f"{well_s:.0f}"


def markdown(run: Run) -> str:
    """The table, and what the judge says."""
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|---" * len(_HEADINGS) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(run)]
    figures = run.findings.figures
    told = (
        f"{figures.get('requests', 0):,} requests, {figures.get('calls', 0):,} calls of the "
        f"provider, {len(run.struck)} faults; {figures.get('excused', 0)} requests were cut off "
        f"with what served them, {figures.get('failed', 0)} failed otherwise; "
        f"{figures.get('wrong_charges', 0)} charges unlike the provider's log, "
        f"{figures.get('lost_with_node', 0)} calls in what a lost node had on loan, "
        f"{figures.get('estimated', 0)} estimated, {figures.get('over_limit', 0)} units over "
        f"limits, {figures.get('over_budget_nanos', 0)} nano-dollars over budgets, "
        f"{figures.get('doubled', 0)} doubled calls, {len(figures.get('leaks', {}))} holds left."
    )
    lines += ["", f"Seed {run.seed}: {told}", ""]
    lines += [f"- {each.invariant}, {each.times} ×: {each.text}" for each in run.findings.breaches]
    return "\n".join(lines) + "\n"


def _meets(one: Asked, struck: Struck) -> bool:
    return one.sent_ns <= struck.over_ns and one.ended_ns >= struck.at_ns


def _took_s(one: Asked) -> float:
    return (one.ended_ns - one.sent_ns) / 1e9


def _percentile(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[percent - 1]
