"""Figures of a report for somebody who has never seen the project.

Each title states what was found, each axis has its unit, and outages are shaded. Needs
matplotlib, which is part of the notebook extra.
"""

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from simulations import measures
from simulations.canvas import (
    BREAKER_COLOURS,
    BREAKER_NAMES,
    OUTCOME_COLOURS,
    OUTCOME_NAMES,
    SHARED_COLOUR,
    SHARED_NAME,
    TIME_LABEL,
    canvas,
    dots,
    finish,
    headroom,
    legend,
    plain_numbers,
    width_of_bars_s,
)
from simulations.records import SHARED
from simulations.report import Report, seconds, usd

MOST_ROWS = 40


def figures(report: Report) -> list[Figure]:
    """The figures that suit a report."""
    few = len(report.records) <= MOST_ROWS
    drawn = [requests(report)] if few else [outcomes(report), latency(report)]
    if len(report.records) >= 50:
        drawn.append(distribution(report))
    if any(len(line) > 1 for line in measures.breaker_timeline(report.samples).values()):
        drawn.append(breakers(report))
    if any(sample.budget is not None for sample in report.samples):
        drawn.append(budget(report))
    return drawn


def requests(report: Report) -> Figure:
    """Each request of a small run as a bar from its intended send to its end."""
    records = report.records
    last_s = max((record.done_s for record in records), default=0.0)
    shared = measures.shared_answers(records)
    figure, axes = canvas(
        f"{len(records)} requests are through after {seconds(last_s)}, {shared} of them without "
        "a provider call of their own",
        1.4 + 0.22 * len(records),
    )
    names = []
    for row, record in enumerate(reversed(records)):
        colour = OUTCOME_COLOURS[record.outcome]
        name = OUTCOME_NAMES[record.outcome]
        if record.outcome == "success" and record.cache in SHARED:
            colour, name = SHARED_COLOUR, SHARED_NAME
        names.append(f"{record.intent.user}, {record.intent.priority}")
        axes.barh(row, record.latency_s, left=record.intent.at_s, color=colour, label=name)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylabel("user, priority")
    finish(axes, report)
    return figure


def outcomes(report: Report) -> Figure:
    """Requests that ended in each second, by outcome."""
    figure, axes = canvas(_outcome_title(report), 3.6)
    width_s = width_of_bars_s(report.duration_s)
    buckets = measures.throughput(report.records, width_s)
    starts = [bucket.start_s for bucket in buckets]
    floor = [0.0] * len(buckets)
    for outcome, colour in OUTCOME_COLOURS.items():
        heights = [bucket.counts[outcome] / width_s for bucket in buckets]
        if any(heights):
            axes.bar(
                starts,
                heights,
                width=width_s,
                bottom=floor,
                align="edge",
                color=colour,
                edgecolor="white",
                linewidth=0.3,
                label=OUTCOME_NAMES[outcome],
            )
            floor = [low + height for low, height in zip(floor, heights, strict=True)]
    axes.set_ylim(0, max([1.0, *floor]) * headroom(report, 1.3))
    axes.set_ylabel("requests ended per second")
    finish(axes, report)
    return figure


def latency(report: Report) -> Figure:
    """Each request's latency at its intended send time."""
    spread = measures.spread(measures.latencies(report.records))
    if spread is None:
        title = "No request was answered"
    else:
        title = (
            f"Half of the answers took at most {seconds(spread.p50)}, "
            f"99 % at most {seconds(spread.p99)}, waiting included"
        )
    figure, axes = canvas(title, 3.6)
    for outcome, colour in OUTCOME_COLOURS.items():
        group = [r for r in report.records if r.outcome == outcome and outcome != "unsent"]
        own = [record for record in group if record.cache not in SHARED]
        shared = [record for record in group if record.cache in SHARED]
        dots(axes, own, colour, "o", OUTCOME_NAMES[outcome])
        dots(axes, shared, SHARED_COLOUR, "^", SHARED_NAME)
    axes.set_yscale("log")
    plain_numbers(axes.yaxis)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * headroom(report, 4.0))
    axes.set_ylabel("latency, seconds (log scale)")
    finish(axes, report, label=f"{TIME_LABEL}, at the intended send")
    return figure


def distribution(report: Report) -> Figure:
    """How latencies and times to first token are spread, by priority."""
    first = measures.spread(measures.first_texts(report.records))
    title = "How long answers take"
    if first is not None:
        title = (
            f"Half of the streams show their first text within {seconds(first.p50)}, "
            f"95 % within {seconds(first.p95)}"
        )
    figure, axes = canvas(title, 3.6)
    lines = [
        (f"whole answer, {priority} priority", measures.latencies(report.records, priority), "-")
        for priority in ("high", "normal", "low")
    ]
    lines.append(("first token of streams", measures.first_texts(report.records), "--"))
    colours = ("#D55E00", "#0072B2", "#999999", "#009E73")
    for (name, values, style), colour in zip(lines, colours, strict=True):
        if values:
            ordered = sorted(values)
            shares = [100 * (number + 1) / len(ordered) for number in range(len(ordered))]
            label = f"{name} ({len(ordered):,})"
            axes.step(ordered, shares, style, where="post", color=colour, label=label)
    axes.set_xscale("log")
    plain_numbers(axes.xaxis)
    axes.set_ylim(0, 101)
    axes.set_ylabel("% of requests within this time")
    axes.set_xlabel("seconds since the intended send (log scale)")
    axes.grid(alpha=0.25)
    legend(axes)
    return figure


def breakers(report: Report) -> Figure:
    """The state of every target's breaker over time."""
    timeline = measures.breaker_timeline(report.samples)
    opened = [
        stretch.start_s
        for line in timeline.values()
        for stretch in line
        if stretch.state in ("open", "half_open")
    ]
    closed = [line[-1].start_s for line in timeline.values() if line[-1].state == "closed"]
    if not opened:
        title = "No breaker opened"
    elif len(closed) == len(timeline):
        title = f"The breaker opened at {min(opened):.0f} s and had closed again at "
        title += f"{max(closed):.0f} s"
    else:
        title = f"The breaker opened at {min(opened):.0f} s and was not closed at the end"
    figure, axes = canvas(title, 1.9 + 0.45 * len(timeline))
    seen: set[str] = set()
    for row, line in enumerate(timeline.values()):
        for stretch in line:
            seen.add(stretch.state)
            axes.broken_barh(
                [(stretch.start_s, stretch.end_s - stretch.start_s)],
                (row - 0.35, 0.7),
                facecolors=BREAKER_COLOURS.get(stretch.state, "#999999"),
            )
    axes.set_ylim(-0.5, len(timeline) - 0.5 + 0.8 * bool(report.windows))
    axes.set_yticks(range(len(timeline)), list(timeline))
    axes.set_ylabel("provider / model")
    finish(
        axes,
        report,
        handles=[
            Patch(color=colour, label=BREAKER_NAMES[state])
            for state, colour in BREAKER_COLOURS.items()
            if state in seen
        ],
    )
    return figure


def budget(report: Report) -> Figure:
    """What a budget had posted and held over time, against its amount."""
    points = [(s.at_s, s.budget) for s in report.samples if s.budget is not None]
    times = [at_s for at_s, _ in points]
    posted = [state.posted_nanos / 1e9 for _, state in points]
    both = [(state.posted_nanos + state.pending_nanos) / 1e9 for _, state in points]
    amount_nanos = points[-1][1].amount_nanos
    over = max(state.posted_nanos + state.pending_nanos - amount_nanos for _, state in points)
    last = usd(points[-1][1].posted_nanos)
    if over > 0:
        title = f"The spend passed its budget of {usd(amount_nanos)} by {usd(over)}"
    else:
        title = (
            f"The spend stops at {last} of a budget of {usd(amount_nanos)}, however much is asked"
        )
    figure, axes = canvas(title, 3.6)
    axes.fill_between(times, posted, step="post", color="#0072B2", alpha=0.85, label="spent")
    axes.fill_between(
        times, posted, both, step="post", color="#E69F00", label="reserved for calls under way"
    )
    axes.axhline(amount_nanos / 1e9, color="#D55E00", linestyle="--", label="the budget")
    refused = sorted(r.intent.at_s for r in report.records if r.reason == "insufficient_quota")
    if refused:
        axes.axvline(refused[0], color="black", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"from here on {len(refused):,} requests are refused",
            (refused[0], amount_nanos / 1e9 * 0.1),
            xytext=(6, 0),
            textcoords="offset points",
            color="white",
            fontsize=9,
        )
    axes.set_ylim(0, amount_nanos / 1e9 * 1.2)
    axes.set_ylabel("US dollars")
    finish(axes, report)
    return figure


def _outcome_title(report: Report) -> str:
    records = report.records
    answered = sum(record.answered for record in records)
    shared = measures.shared_answers(records)
    refused = sum(record.outcome == "refused" for record in records)
    for window in report.windows:
        within = [r for r in records if window.start_s <= r.intent.at_s < window.end_s]
        got = sum(record.answered for record in within)
        return (
            f"During the {window.label} {got:,} of {len(within):,} requests still got a text; "
            f"before and after it {answered - got:,} of {len(records) - len(within):,}"
        )
    title = f"{answered:,} of {len(records):,} requests were answered, {shared:,} from the cache"
    return f"{title}; {refused:,} were refused" if refused else title
