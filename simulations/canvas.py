"""What all figures share: colours, a bare canvas, shaded spans and a legend."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from simulations.records import Record
from simulations.report import Report

# Okabe and Ito's palette, which colour-blind readers can tell apart.
OUTCOME_COLOURS = {
    "success": "#0072B2",
    "fallback": "#E69F00",
    "refused": "#CC79A7",
    "failed": "#D55E00",
    "unsent": "#999999",
}
OUTCOME_NAMES = {
    "success": "answered by the model or the cache",
    "fallback": "answered with a fallback text",
    "refused": "refused by a limit or a budget",
    "failed": "failed",
    "unsent": "not sent (no slot free)",
}
SHARED_COLOUR = "#56B4E9"
SHARED_NAME = "answered from the cache or another's call"
BREAKER_COLOURS = {
    "closed": "#009E73",
    "half_open": "#F0E442",
    "open": "#D55E00",
    "forced_open": "#882255",
    "forced_closed": "#56B4E9",
}
BREAKER_NAMES = {
    "closed": "closed: calls go through",
    "half_open": "half-open: a few probes",
    "open": "open: calls are held back",
    "forced_open": "forced open",
    "forced_closed": "forced closed",
}
TIME_LABEL = "seconds since the run began"


def plain_numbers(axis: Axis) -> None:
    """Numbers as people write them on a logarithmic axis, and few of them."""
    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def headroom(report: Report, factor: float) -> float:
    """The factor by which the value axis goes beyond the data."""
    # The names of shaded spans stand above the data.
    return factor if report.windows else 1.05


def canvas(title: str, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes and a title that states its finding."""
    # Not pyplot: it keeps every figure of a process alive.
    figure = Figure(figsize=(9.5, height), layout="constrained")
    axes = figure.add_subplot()
    # Dollar signs are money here, not mathematics.
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", parse_math=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def dots(axes: Axes, records: Sequence[Record], colour: str, marker: str, label: str) -> None:
    """One dot per record: intended send time against latency, both in seconds."""
    if records:
        axes.scatter(
            [record.intent.at_s for record in records],
            [max(record.latency_s, 1e-3) for record in records],
            s=14,
            color=colour,
            marker=marker,
            alpha=0.65,
            linewidths=0,
            label=label,
        )


def finish(
    axes: Axes, report: Report, label: str = TIME_LABEL, handles: list[Patch] | None = None
) -> None:
    """Shades the report's windows, names the time axis and adds the legend."""
    for window in report.windows:
        axes.axvspan(window.start_s, window.end_s, color="black", alpha=0.08, linewidth=0, zorder=0)
        for edge_s in (window.start_s, window.end_s):
            axes.axvline(edge_s, color="black", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{window.label}, {window.end_s - window.start_s:.0f} s",
            ((window.start_s + window.end_s) / 2, 0.98),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
            fontsize=9,
        )
    axes.set_xlim(0, max(report.duration_s, 0.1))
    axes.set_xlabel(label)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    legend(axes, handles)


def legend(axes: Axes, handles: list[Patch] | None = None) -> None:
    """A legend beside the axes, from `handles` or from what was drawn."""
    shown = handles if handles is not None else axes.get_legend_handles_labels()[0]
    if not shown:
        return
    # Each name once, though several groups of dots may share it.
    unique = {str(handle.get_label()): handle for handle in shown}
    axes.legend(
        list(unique.values()),
        list(unique),
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=9,
    )


def width_of_bars_s(duration_s: float) -> float:
    """A round number of seconds that cuts a run into at most 60 bars."""
    for width_s in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0):
        if duration_s / width_s <= 60:
            return width_s
    return 60.0
