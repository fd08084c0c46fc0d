"""`raygate ledger adopt`: an operator decides from which copy of its rows a singleton goes on."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from deployments.cli.options import ConfigOption
from deployments.cli.reach import reach
from deployments.cli.terminal import Problem, answers, line, notice

if TYPE_CHECKING:
    from actors.placing import Waiting
    from actors.terms import Copy

_EMPTY = "empty"


def adopt(
    singleton: Annotated[
        str | None, typer.Argument(help="Which one; none: show those that wait.")
    ] = None,
    copy: Annotated[
        str | None,
        typer.Option("--copy", help=f"Its number in the list, or `{_EMPTY}`: begin anew."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Say from which copy of its rows a singleton goes on, where the cluster can't tell.

    It waits where the copy that was in charge is gone and no other one is known to have all
    that was acknowledged. Bringing the missing machine back loses nothing, and needs no
    decision. Needs access to the cluster itself: RAY_ADDRESS, or a gateway that is up here.
    """
    at = reach(config, None)
    with at.connected():
        from actors import placing, registry
        from actors.terms import Lost

        try:
            found = {one.host: one for one in registry.waiting(at.name)}
            if singleton is None or copy is None:
                _show(list(found.values()))
                return
            if singleton not in found:
                raise Problem(f"{singleton} does not wait for a decision.")
            chosen = _chosen(found[singleton], copy)
            told = "beginning empty" if chosen is None else f"{chosen.file} on {chosen.machine}"
            line(found[singleton].why)
            if not yes and not typer.confirm(f"Go on with {told}?", err=True):
                raise Problem("Nothing was changed.")
            placing.adopt(at.name, singleton, chosen)
        except (Lost, LookupError) as error:
            raise Problem(str(error)) from None
    notice(f"{singleton} goes on with {told}.")


def _chosen(waiting: "Waiting", copy: str) -> "Copy | None":
    if copy == _EMPTY:
        return None
    if not copy.isdecimal() or not 0 < int(copy) <= len(waiting.found):
        raise Problem(f"--copy: there is no copy {copy}; `raygate ledger adopt` lists them.")
    return waiting.found[int(copy) - 1].copy


def _show(waiting: "list[Waiting]") -> None:
    if not waiting:
        line("No singleton waits for a decision.")
        return
    table = Table("singleton", "copy", "machine", "file", "role", "term", "its other copy was on")
    for one in waiting:
        line(f"{one.host}: {one.why}")
        for number, (copy, standing) in enumerate(one.found, 1):
            cells = (copy.machine, copy.file, standing.role, str(standing.number), standing.peer)
            table.add_row(one.host, str(number), *cells)
    answers.print(table)
