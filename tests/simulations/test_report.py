import io
from collections.abc import Callable

import pytest
from rich.console import Console

from simulations.accounts import Accounts
from simulations.records import BudgetState, Finding, Record, Sample, Window
from simulations.report import Report, render, seconds, usd
from simulations.workload import Intent


def a_report() -> Report:
    """A run with something of everything."""
    chat = Intent(0.5, "chat", stream=True)
    return Report(
        scenario="provider-outage",
        title="a run",
        duration_s=10.0,
        records=(
            Record(chat, "success", latency_s=0.25, ttft_s=0.125, cache="HIT"),
            Record(Intent(4.0, "prompt"), "fallback", "circuit_breaker_open", latency_s=0.01),
            Record(Intent(5.0, "chat"), "refused", "insufficient_quota", latency_s=0.01),
            Record(Intent(6.0, "chat"), "unsent", "no_slot_free"),
        ),
        samples=(
            Sample(0.0, "healthy", {"sim/m": "closed"}, budget=BudgetState(10, 0, 0)),
            Sample(4.0, "degraded", {"sim/m": "open"}, 0.5, 0.1, 0.2, 1.5, 0.003),
            Sample(10.0, "healthy", {"sim/m": "closed"}, budget=BudgetState(10, 6, 2)),
        ),
        windows=(Window("provider outage", 3.0, 6.0),),
        findings=(Finding(True, "it held"), Finding(False, "it broke")),
        accounts=Accounts(calls=3, matched=3, spend_nanos=135_000),
    )


def test_a_report_shows_what_was_asked_for() -> None:
    """Findings, outcomes by reason, percentiles, gateway, breaker timeline and books are there."""
    screen = io.StringIO()
    render(Console(file=screen, width=120), a_report())
    text = screen.getvalue()
    for piece in (
        "✓ it held",
        "✗ it broke",
        "insufficient_quota",
        "circuit_breaker_open",
        "not sent: the driver had no slot free",
        "p99",
        "250 ms",
        "to the first token",
        "125 ms",
        "degraded",
        "sim/m",
        "4.0 s",
        "$0.000135",
    ):
        assert piece in text


def test_a_report_holds_only_if_all_findings_do() -> None:
    """One finding against it is enough."""
    assert not a_report().holds


def test_an_empty_run_can_be_shown() -> None:
    """Nothing sent, nothing seen: tables without numbers, and no error."""
    screen = io.StringIO()
    render(Console(file=screen), Report("demo", "nothing", 0.0, (), ()))
    assert "nothing" in screen.getvalue()


@pytest.mark.parametrize(
    ("nanos", "shown"),
    [
        (0, "$0.00"),
        (135_000, "$0.000135"),
        (1_500_000_000, "$1.50"),
        (-20_000_000, "-$0.02"),
        (1_234_000_000_001, "$1,234.000000001"),
    ],
)
def test_dollars_are_shown_to_the_last_digit_that_matters(nanos: int, shown: str) -> None:
    """No rounding hides a nano-dollar."""
    assert usd(nanos) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.0421, "42 ms"), (1.0, "1.00 s"), (12.345, "12.35 s")]
)
def test_times_are_shown_for_people(value: float | None, shown: str) -> None:
    """Milliseconds below a second, seconds above."""
    assert seconds(value) in (shown, shown.replace("12.35", "12.34"))


def test_every_figure_states_its_finding_and_its_units() -> None:
    """Each figure has a title with a figure in it, labelled axes and a legend."""
    plots = pytest.importorskip("simulations.plots")
    drawers: list[Callable[[Report], object]] = [
        plots.requests,
        plots.outcomes,
        plots.latency,
        plots.distribution,
        plots.breakers,
        plots.budget,
    ]
    report = a_report()
    assert len(plots.figures(report)) == 3
    for draw in drawers:
        figure = draw(report)
        (axes,) = figure.axes  # type: ignore[attr-defined]
        assert any(character.isdigit() for character in axes.get_title(loc="left"))
        assert "second" in axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_legend() is not None
        figure.savefig(io.BytesIO(), format="png")  # type: ignore[attr-defined]
