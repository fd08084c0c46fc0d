"""`raygate down`: take down what `up` started, and only that."""

import shutil
import time
from pathlib import Path

import typer

from deployments.cli import configuration, local_ray, processes
from deployments.cli.options import ConfigOption
from deployments.cli.state import Running, StateFile
from deployments.cli.terminal import Problem, Progress, notice, progress
from deployments.cli.undeploy import Taken, undeploy

_PATIENCE_S = 65.0


def down(
    config: ConfigOption = None,
    purge: bool = typer.Option(False, "--purge", help="Delete durable state too, after asking."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    now: bool = typer.Option(False, "--now", help="Do not wait for requests under way."),
) -> None:
    """Take down what `up` started, and only that. Durable state stays."""
    raw = configuration.read(found) if (found := _find(config)) else {}
    state = StateFile(configuration.folder_of(*reversed(configuration.identity(raw))))
    if purge and not yes:
        _ask(state.folder)
    with state.lock(), progress() as say:
        running = state.read()
        if running is not None:
            take_down(state, running, say, patience_s=0.0 if now else _PATIENCE_S)
    notice("Nothing was up." if running is None else f"{running.name} is down.")
    if purge:
        shutil.rmtree(state.folder, ignore_errors=True)
        notice(f"{state.folder} is deleted.")


def take_down(state: StateFile, running: Running, say: Progress, patience_s: float) -> None:
    """End everything that `running` names, and forget it. The caller holds the lock.

    Ctrl-C ends the waiting for requests that are under way, not the rest.
    """
    if running.session is not None:
        _end_local(running, say, patience_s)
    else:
        _leave(running, say, patience_s)
    state.clear()


def alive(running: Running) -> bool:
    """Whether the Ray that it runs on does."""
    if running.session is not None and (
        running.pid is None or not processes.lives(running.pid, running.created)
    ):
        return False
    return processes.listens(running.address)


def stays_alive(running: Running) -> bool:
    """Whether its Ray runs and goes on running: one that is being killed still answers a while."""
    for _ in range(4):
        if not alive(running):
            return False
        time.sleep(0.25)
    return alive(running)


def _end_local(running: Running, say: Progress, patience_s: float) -> None:
    assert running.session is not None
    if alive(running):
        say("Letting requests under way finish")
        try:
            undeploy(running, patience_s)
        except KeyboardInterrupt:
            notice("Not waiting any longer.")
        except Problem as problem:
            # Its processes end all the same, and what was acknowledged is on disk.
            notice(str(problem))
    say("Ending Ray")
    local_ray.end(Path(running.session))


def _leave(running: Running, say: Progress, patience_s: float) -> None:
    """Leave a cluster as it was before."""
    if not alive(running):
        notice(f"The cluster at {running.address} is gone, and what was deployed there with it.")
        return
    say(f"Taking down {', '.join(running.applications)} on {running.address}")
    taken: Taken = undeploy(running, patience_s)
    if taken.shut_serve_down:
        _end_haproxy(running)


def _end_haproxy(running: Running) -> None:
    """End what Serve, shut down by us, left behind on this machine for that cluster's nodes."""
    marks = [f"/haproxy-serve/{node}/" for node in running.nodes]
    give_up = time.monotonic() + 3.0
    while processes.naming(marks) and time.monotonic() < give_up:
        time.sleep(0.1)
    processes.end(processes.naming(marks))


def _find(config: Path | None) -> Path | None:
    try:
        return configuration.find(config)
    except Problem:
        if config is not None:
            raise
        return None


def _ask(folder: Path) -> None:
    kept = sorted(path.name for path in folder.glob("*.sqlite"))
    notice(f"{folder} holds {', '.join(kept) or 'no stores'}: keys, prompts, the ledger.")
    if not typer.confirm("Delete it for good?", err=True):
        raise Problem("Nothing was changed.")
