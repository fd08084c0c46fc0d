"""`raygate ledger repair`: a damaged ledger made usable again, with what is lost signed off."""

import getpass
import time
from pathlib import Path
from typing import Annotated

import typer

from actors.mending import Diagnosis, diagnosed, mend
from actors.store_errors import StoreError
from deployments.cli.ledger_source import FILE, Where, folder, offline
from deployments.cli.terminal import Problem, line, notice

_SHOWN = 20


def repair(
    storage_path: Annotated[
        Path, typer.Option("--storage-path", help="The folder that holds the gateway's state.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="Which gateway's.")] = None,
    accept: Annotated[
        str | None,
        typer.Option(
            "--accept", help="Why rows that are lost or changed are accepted as they are."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Mend the ledger of a gateway that does not run; says first what it would do.

    A backup of the folder from before the damage is better, where there is one. Files that
    change are copied before. Lost rows stay lost: --accept signs them off, in the ledger itself.
    """
    where = Where(None, None, None, storage_path, name)
    with offline(where) as store:
        found = diagnosed(store)
    if found.sound:
        line("The ledger is sound; there is nothing to mend.")
        return
    for text in _plan(found):
        line(text)
    if (found.accept or found.lost) and not accept:
        raise Problem(
            "Rows are lost: say why that is accepted, with --accept. Nothing was changed."
        )
    if not yes and not typer.confirm("Do this?", err=True):
        raise Problem("Nothing was changed.")
    path = folder(where) / FILE
    try:
        copies = mend(path, found, time.time_ns(), getpass.getuser(), accept or "")
    except StoreError as error:
        raise Problem(str(error)) from None
    notice("What was there before: " + ", ".join(copy.name for copy in copies))
    with offline(where) as store:
        left = diagnosed(store)
    if not left.sound:
        raise Problem("It is still damaged: " + "; ".join(_plan(left)[:3]))
    line("The ledger can be used again.")


def _plan(found: Diagnosis) -> list[str]:
    """What would be done, a line for each."""
    plan = [f"damaged: {problem}" for problem in found.anew[:_SHOWN]]
    if found.anew:
        plan.append(
            "Write the database anew, with the rows that can be read; count what was spent by "
            "day, and of the budgets' present periods, again from the ledger."
        )
    plan += [f"Write the file of {month} anew, with what can be read." for month in found.months]
    plan += [f"Accept that {each}." for each in found.accept[:_SHOWN]]
    if len(found.accept) > _SHOWN:
        plan.append(f"And {len(found.accept) - _SHOWN:,} more.")
    if found.lost:
        first, last = found.lost
        plan.append(
            f"Cut at row {first - 1}, the last there is, and accept that rows {first}-{last} "
            "are lost. Their numbers are used again."
        )
    if found.noted:
        plan.append(f"Let money be spent again. The gateway had noted: {found.noted}")
    return plan
