"""The table: for a terminal, as Markdown, and as data."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.strict.cells import Cell
from benchmarks.strict.findings import Findings


@dataclass(frozen=True, slots=True)
class Result:
    """A cell with what was found. took_s: from its beginning to its last look."""

    cell: Cell
    findings: Findings
    took_s: float

    @property
    def holds(self) -> bool:
        """Whether no bound is broken."""
        return not self.findings.breaches

    def data(self) -> dict[str, Any]:
        """For a file."""
        return {
            "cell": self.cell.name,
            **self.cell._asdict(),
            "holds": self.holds,
            "took_s": round(self.took_s, 1),
            "figures": self.findings.figures,
            "breaches": [breach._asdict() for breach in self.findings.breaches],
        }


Figures = dict[str, Any]
_Column = tuple[str, str, Callable[[Figures], str]]


def _share(name: str) -> Callable[[Figures], str]:
    def shown(figures: Figures) -> str:
        share = figures.get(name)
        return "–" if share is None else f"{share:.1%}"

    return shown


def _number(name: str) -> Callable[[Figures], str]:
    return lambda figures: f"{figures.get(name, 0):,}"


def _wait(figures: Figures) -> str:
    if figures.get("longest_wait_s") is None:
        return "–"
    return f"{figures['longest_wait_s']:.2f} / {figures['promised_s']:g}"


def _held(figures: Figures) -> str:
    """How many things; an amount of money is one of them."""
    leaks = figures.get("leaks", {})
    return str(sum(1 if "nanos" in name else count for name, count in leaks.items()))


# The heading, the invariant that the column shows, and how.
_COLUMNS: tuple[_Column, ...] = (
    ("calls", "", _number("calls")),
    ("kills", "", _number("kills")),
    ("units over limits", "I1", _number("over_limit")),
    ("$ over budgets", "I2", lambda figures: f"{figures.get('over_budget_nanos', 0) / 1e9:g}"),
    ("charges ≠ calls", "I3", _number("wrong_charges")),
    (
        "estimates without call / cut off",
        "I3",
        lambda f: f"{f.get('estimates_without_call', 0)} / {f.get('cut_off', 0)}",
    ),
    ("probes over", "I4", lambda f: f"{f.get('probes_over', 0)} of {f.get('probes', 0)}"),
    ("doubled calls", "I5", _number("doubled")),
    ("failed by us", "I9", _number("failed")),
    ("longest wait / promised, s", "I11", _wait),
    ("still held", "I12", _held),
    ("least used of a limit", "I13", _share("limit_share")),
    ("of a budget", "I13", _share("budget_share")),
)


def terminal(results: Iterable[Result]) -> Table:
    """With broken bounds in red."""
    table = Table(title="Strictness, by the provider's count")
    table.add_column("cell", no_wrap=True)
    for heading, invariant, _ in _COLUMNS:
        table.add_column(f"{heading}\n[dim]{invariant}[/]", justify="right")
    table.add_column("holds")
    for result in results:
        broken = {breach.invariant for breach in result.findings.breaches}
        shown = [
            f"[red]{show(result.findings.figures)}[/]"
            if invariant in broken
            else show(result.findings.figures)
            for _, invariant, show in _COLUMNS
        ]
        verdict = "[green]yes[/]" if result.holds else "[red]no[/]"
        table.add_row(result.cell.name, *shown, verdict)
    return table


def markdown(results: Iterable[Result]) -> str:
    """The same table, and each broken bound in words."""
    results = tuple(results)
    headings = [f"{head} ({invariant})" if invariant else head for head, invariant, _ in _COLUMNS]
    lines = [
        "| cell | " + " | ".join(headings) + " | holds |",
        "|---" * (len(_COLUMNS) + 2) + "|",
    ]
    for result in results:
        shown = [show(result.findings.figures) for _, _, show in _COLUMNS]
        verdict = "yes" if result.holds else "**no**"
        lines.append(f"| {result.cell.name} | " + " | ".join(shown) + f" | {verdict} |")
    for result in results:
        if not result.holds:
            lines += ["", f"**{result.cell.name}**", ""]
            lines += [
                f"- {each.invariant}, {each.times} ×: {each.text.replace('|', '/')}"
                for each in result.findings.breaches
            ]
    return "\n".join(lines) + "\n"
