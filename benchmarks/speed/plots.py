"""Pictures of a result, for somebody who has never seen the project.

Each title states what was found, each axis has its unit. Needs matplotlib.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from simulations.canvas import plain_numbers

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_COLOURS = {"upstream": "#999999", "bare": "#999999", "gateway": "#0072B2", "hits": "#56B4E9"}
_COLOURS |= {"uncached": "#56B4E9", "portkey": "#E69F00"}
_COLOURS |= {"litellm": "#D55E00", "litellm_redis": "#D55E00"}


def speed(figures: dict[str, Any]) -> Figure:
    """Requests a second and latency of plain calls, at the middle and at the lowest load."""
    chat, titles = figures["chat"], figures["titles"]
    busy, quiet = ("32" if "32" in chat else list(chat)[-1]), next(iter(chat))
    found = chat[busy]
    title = f"Raygate, everything on, passes {found['gateway']['per_s']:,.0f} requests a second: "
    title += _compared(found, "per_s", titles)
    figure = Figure(figsize=(9.5, 1.6 + 0.36 * len(found)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, found, "per_s", titles, f"requests answered a second, {busy} clients")
    label = f"median latency, ms, {quiet} client{'s' if quiet != '1' else ''} (log scale)"
    _bars(right, chat[quiet], "p50_ms", titles, label, log=True)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def streams(figures: dict[str, Any]) -> Figure:
    """What becomes of streams."""
    found, titles = figures["streams"], figures["titles"]
    relays = {name: one for name, one in found.items() if name != "upstream"}
    words = "streams at 50 chunks/s, no stall over 200 ms"
    panels = [
        ("held", words, False),
        ("chunks_per_s", "chunks relayed a second, 32 streams\n(log scale)", True),
        ("first_p50_ms", "median time to first text, ms, 32 streams\n(log scale)", True),
    ]
    if all("held" in one for one in relays.values()):
        title = f"Raygate keeps {relays['gateway']['held']:,.0f} streams going without a stall: "
    else:
        # It takes long, and was not asked of everybody.
        del panels[0]
        title = f"Raygate relays {relays['gateway']['chunks_per_s']:,.0f} chunks a second: "
    title += _compared(relays, panels[0][0], titles)
    figure = Figure(figsize=(11, 1.8 + 0.36 * len(relays)), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharey=True)
    for axes, (what, label, log) in zip(drawn, panels, strict=True):
        _bars(axes, relays, what, titles, label, log)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _compared(found: dict[str, Any], what: str, titles: dict[str, str]) -> str:
    ours = found["gateway"][what]
    words = [f"{ours / found['bare'][what]:.0%} of a bare relay"]
    litellm = "litellm_redis" if "litellm_redis" in found else "litellm"
    words += [
        f"{ours / found[name][what]:.1f} × {titles[name].partition(',')[0]}"
        for name in (litellm, "portkey")
        if name in found and found[name][what]
    ]
    return ", ".join(words)


def _bars(
    axes: Axes,
    found: dict[str, Any],
    what: str,
    titles: dict[str, str],
    label: str,
    log: bool = False,
) -> None:
    names: Sequence[str] = list(found)
    values = [found[name][what] for name in names]
    drawn = axes.barh(
        [titles[name] for name in names],
        values,
        color=[_COLOURS.get(name, "#CC79A7") for name in names],
    )
    axes.bar_label(drawn, [_number(value) for value in values], padding=3, fontsize=9)
    if log:
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
        if max(values) > 300 * min(values):
            # One for each power of ten, or they stand in one another.
            axes.xaxis.set_major_locator(LogLocator(10, numticks=5))
            axes.xaxis.set_major_formatter(lambda value, _: _number(value))
        axes.set_xlim(min(values) / 2, max(values) * 4)
    else:
        axes.set_xlim(0, max(values) * 1.2)
    axes.set_xlabel(label)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
