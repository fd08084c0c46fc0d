"""`raygate simulate`: a load simulation against a running gateway."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from deployments.cli.options import ConfigOption, KeyOption, UrlOption
from deployments.cli.reach import reach
from deployments.cli.terminal import Problem, answers, notices

if TYPE_CHECKING:
    from simulations.records import Progress


def simulate(
    scenario: Annotated[str, typer.Argument(help="demo, steady-day, provider-outage, ...")],
    scale: Annotated[float, typer.Option(min=0.01, help="Multiplies the load.")] = 1.0,
    duration: Annotated[float | None, typer.Option(min=0.1, help="Seconds of the run.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 7,
    config: ConfigOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Play a scenario against a running gateway; exit code 1 where its claims do not hold."""
    from simulations.client import SimulationError
    from simulations.report import render
    from simulations.scenarios import SCENARIOS, run

    if scenario not in SCENARIOS:
        known = "\n".join(f"  {name}: {each.summary}" for name, each in SCENARIOS.items())
        raise Problem(f"There is no scenario {scenario}. There are:\n{known}")
    if not key:
        raise Problem("A simulation needs an admin's key: --key, or RAYGATE_ADMIN_KEY.")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=notices) as bars:
        task = bars.add_task(scenario)

        def show(progress: "Progress") -> None:
            bars.update(
                task,
                description=f"{scenario}: {progress.phase}",
                completed=progress.done,
                total=progress.total,
            )

        try:
            report = run(scenario, reach(config, url).url, key, scale, show, duration, seed)
        except SimulationError as error:
            raise Problem(str(error)) from None
    render(answers, report)
    if not report.holds:
        raise typer.Exit(1)
