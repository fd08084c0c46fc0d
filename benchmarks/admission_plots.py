"""Pictures of `benchmarks.admissions`. Needs matplotlib, which is in the notebook extra."""

from pathlib import Path
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_PARTS = {
    "limiter_us": ("rate_limiter", "#0072B2"),
    "tracker_us": ("cost_tracker", "#E69F00"),
    "caller_us": ("callers", "#999999"),
}


def draw(figures: dict[str, Any], folder: Path) -> None:
    """One picture for each of the two tables that `figures` holds."""
    mode = "leases" if figures["leases"] else "direct"
    if "callers" in figures:
        rows = {int(number): one for number, one in figures["callers"].items()}
        _draw(
            rows, "callers", f"{figures['concurrency']} admissions under way at each", mode, folder
        )
    if "keys" in figures:
        rows = {int(keys): one["round"] for keys, one in figures["keys"].items()}
        _draw(rows, "keys", "each with its own limit and budget", mode, folder)


def _draw(rows: dict[int, Any], what: str, note: str, mode: str, folder: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    speed, cost = figure.subplots(1, 2)
    places = range(len(rows))
    names = [f"{number:,}" for number in rows]
    speed.plot(places, [one["per_s"] for one in rows.values()], "o-", color="#009E73")
    speed.set_ylim(0)
    speed.set_ylabel("admissions a second")
    floor = [0.0] * len(rows)
    for field, (name, colour) in _PARTS.items():
        heights = [one[field] for one in rows.values()]
        cost.bar(places, heights, bottom=floor, color=colour, label=name)
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    cost.set_ylabel("processor time per admission, µs")
    cost.legend(frameon=False, fontsize=9)
    for axes in (speed, cost):
        axes.set_xticks(places, names)
        axes.set_xlabel(f"{what} ({note})")
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    word = "by direct consults" if mode == "direct" else "from leases"
    figure.suptitle(f"Full admissions {word}: three limits and two budgets", fontsize=11)
    figure.savefig(folder / f"admissions-{mode}-{what}.png", dpi=110)
