"""A run's report: what it found, as data and as tables for a terminal."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from simulations import measures
from simulations.accounts import Accounts
from simulations.records import Finding, Record, Sample, Window

_COLOURS = {"success": "green", "fallback": "yellow", "refused": "yellow"}
_SIGNS = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]•[/]"}


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run left behind.

    scenario: its name
    title: one line that says what was played
    duration_s: from the start to the last end
    records: in order of intended send time
    samples: the gateway's health in order of time, the last one after the end
    windows: spans to shade, such as an outage
    findings: what the scenario set out to show
    accounts: the ledger against the provider's log
    """

    scenario: str
    title: str
    duration_s: float
    records: tuple[Record, ...]
    samples: tuple[Sample, ...]
    windows: tuple[Window, ...] = ()
    findings: tuple[Finding, ...] = ()
    accounts: Accounts | None = None

    @property
    def holds(self) -> bool:
        """Whether no finding speaks against the gateway."""
        return all(finding.holds is not False for finding in self.findings)


def usd(nanos: int) -> str:
    """Nano-dollars as dollars, to the last digit that matters."""
    whole, part = divmod(abs(nanos), 10**9)
    digits = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}${whole:,}.{digits}"


def seconds(value: float | None) -> str:
    """A time for people: milliseconds below a second."""
    if value is None:
        return "–"
    return f"{value * 1000:,.0f} ms" if value < 1 else f"{value:,.2f} s"


def render(console: Console, report: Report) -> None:
    """Prints a report: findings, totals, outcomes, latencies, gateway, breakers, books."""
    console.rule(f"[bold]{report.scenario}")
    console.print(report.title)
    for finding in report.findings:
        console.print(f" {_SIGNS[finding.holds]} {finding.text}")
    for table in _tables(report):
        console.print(table)


def _tables(report: Report) -> Iterable[Table]:
    yield _totals(report)
    yield _outcomes(report)
    yield _latencies(report)
    if report.samples:
        yield _gateway(report)
    if any(len(line) > 1 for line in measures.breaker_timeline(report.samples).values()):
        yield _breakers(report)
    if report.accounts is not None:
        yield _books(report.accounts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _totals(report: Report) -> Table:
    records = report.records
    total = len(records)
    unsent = sum(record.outcome == "unsent" for record in records)
    shared = measures.shared_answers(records)
    hits = sum(record.outcome == "success" and record.cache == "HIT" for record in records)
    table = _table("Totals", "", "requests", "share")

    def row(name: str, count: int) -> None:
        table.add_row(name, f"{count:,}", f"{measures.share(count, total):.1%}")

    row("meant to be sent", total)
    for outcome in ("success", "fallback", "refused", "failed"):
        row(outcome, sum(record.outcome == outcome for record in records))
    row("cache hits", hits)
    row("shared another's call, or stale", shared - hits)
    if unsent:
        row("[red]not sent: the driver had no slot free", unsent)
    table.add_section()
    rate = measures.share(total - unsent, 1) / max(report.duration_s, 1e-9)
    table.add_row("run", seconds(report.duration_s), f"{rate:.1f}/s")
    table.add_row("driver late by at most", seconds(measures.tardiness(records)), "")
    return table


def _outcomes(report: Report) -> Table:
    table = _table("Outcomes by reason", "outcome", "reason", "requests")
    table.columns[1].justify = "left"
    for outcome, reason, count in measures.outcomes(report.records):
        colour = _COLOURS.get(outcome, "red")
        table.add_row(f"[{colour}]{outcome}", reason or "–", f"{count:,}")
    return table


def _latencies(report: Report) -> Table:
    table = _table(
        "Time from the intended send to the end (answered requests)",
        *("", "requests", "p50", "p90", "p95", "p99", "longest"),
    )
    lines: list[tuple[str, list[float]]] = [("all", measures.latencies(report.records))]
    for priority in ("high", "normal", "low"):
        lines.append((f"{priority} priority", measures.latencies(report.records, priority)))
    lines.append(("to the first token (streams)", measures.first_texts(report.records)))
    for name, values in lines:
        spread = measures.spread(values)
        if spread is not None:
            times = (spread.p50, spread.p90, spread.p95, spread.p99, spread.largest)
            table.add_row(name, f"{spread.requests:,}", *map(seconds, times))
    return table


def _gateway(report: Report) -> Table:
    last = report.samples[-1]
    worst_limiter = max(sample.limiter_used for sample in report.samples)
    table = _table("The gateway", "", "at the end", "at most")
    order = ("healthy", "warning", "degraded")
    worst = max(report.samples, key=lambda sample: order.index(sample.status)).status
    table.add_row("health", last.status, worst)
    opened = sum(state != "closed" for state in last.breakers.values())
    most = max(sum(state != "closed" for state in s.breakers.values()) for s in report.samples)
    table.add_row("breakers not closed", str(opened), str(most))
    table.add_row("limiter in use", f"{last.limiter_used:.1%}", f"{worst_limiter:.1%}")
    cache_used = max(sample.cache_used for sample in report.samples)
    table.add_row("cache in use", f"{last.cache_used:.2%}", f"{cache_used:.2%}")
    table.add_row("cache hit rate", f"{last.cache_hit_rate:.1%}", "")
    table.add_row("spent today", f"${last.cost_today_usd:,.6f}", "")
    table.add_row("of the daily budget", f"{last.budget_used:.3%}", "")
    return table


def _breakers(report: Report) -> Table:
    table = _table("Breakers over time", "target", "state", "from", "to")
    table.columns[1].justify = "left"
    for target, line in measures.breaker_timeline(report.samples).items():
        for number, stretch in enumerate(line):
            name = target if number == 0 else ""
            table.add_row(name, stretch.state, f"{stretch.start_s:.1f} s", f"{stretch.end_s:.1f} s")
        table.add_section()
    return table


def _books(accounts: Accounts) -> Table:
    table = _table("The ledger against the provider's own count", "", "ledger", "provider")
    table.add_row("billed calls", f"{accounts.matched:,}", f"{accounts.calls:,}")
    (ledger_in, ledger_out), (seen_in, seen_out) = accounts.tokens_ledger, accounts.tokens_provider
    table.add_row("input tokens", f"{ledger_in:,}", f"{seen_in:,}")
    table.add_row("output tokens", f"{ledger_out:,}", f"{seen_out:,}")
    table.add_row("calls without a charge", str(accounts.uncharged), "")
    table.add_row("charged more than once", str(accounts.charged_twice), "")
    table.add_row("charges without a call", str(accounts.without_call), "")
    table.add_row("failed calls", "", f"{accounts.failed_calls:,}")
    table.add_row("spent by this run", usd(accounts.spend_nanos), "")
    return table
