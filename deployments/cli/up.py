"""`raygate up`: from nothing to a gateway that answers."""

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import typer

from deployments.cli import checking, configuration, local_ray, processes, ready
from deployments.cli.configuration import Plan
from deployments.cli.down import alive, stays_alive, take_down
from deployments.cli.options import ConfigOption, JsonOption
from deployments.cli.ready import Ready
from deployments.cli.state import Running, StateFile
from deployments.cli.terminal import Problem, Progress, notice, progress

_PATIENCE_S = 65.0
_NO_HAPROXY = "HAProxy is not here (it is for Linux only): Serve's own, slower proxy is used."


def up(
    config: ConfigOption = None,
    port: int | None = typer.Option(None, min=1, max=65535, help="Another port than configured."),
    detach: bool = typer.Option(False, "--detach", "-d", help="Return when it is ready."),
    as_json: JsonOption = False,
    dashboard: bool = typer.Option(False, "--dashboard", help="Run Ray's dashboard (local Ray)."),
    timeout: float = typer.Option(240.0, min=1.0, help="Seconds until it must be ready."),
) -> None:
    """Start the gateway: on the Ray cluster at RAY_ADDRESS, or on a Ray of its own.

    Returns with --detach, otherwise runs until Ctrl-C. The admin's key is the one in
    RAYGATE_ADMIN_KEY, or is made and shown at the first start.
    """
    began = time.monotonic()
    raw = configuration.read(configuration.find(config), port)
    name, storage_path = configuration.identity(raw)
    state = StateFile(configuration.folder_of(storage_path, name))
    with _interruptible(), state.lock(), progress() as say:
        before = _recover(state, say)
        address = os.environ.get("RAY_ADDRESS")
        if before is not None and before.session is not None:
            raw = _as_it_runs(before, raw, port, address, detach)
        deadline = began + timeout
        try:
            if address:
                made = _join(state, before, raw, address, deadline, say)
            else:
                made = _start(state, before, raw, dashboard, deadline, say)
        except BaseException as error:
            _undo(state, before, say, keep_logs=isinstance(error, Exception))
            raise
    ready.announce(made, time.monotonic() - began, as_json, detach)
    if not detach:
        _stay(state, made.running)


def _recover(state: StateFile, say: Progress) -> Running | None:
    """What is up already; what an earlier run has left behind, HAProxy first of all, is ended."""
    before = state.read()
    if before is None or (before.complete and stays_alive(before)):
        return before
    if before.session is not None:
        say("Ending what an earlier run has left behind")
        if ended := local_ray.end(Path(before.session)):
            notice(f"{ended} processes of an earlier run were left, and have been ended.")
    elif alive(before):
        # On a cluster nothing of it is in the way; what it began is taken up.
        return before
    state.clear()
    return None


def _as_it_runs(
    before: Running, raw: dict[str, Any], port: int | None, address: str | None, detach: bool
) -> dict[str, Any]:
    """The configuration for the local gateway that is up; Problem where it can't be changed."""
    itself = f"{before.name} is up already, at {before.url}"
    if address:
        raise Problem(f"{itself}, on a Ray of its own. Take it down first: raygate down.")
    if port is not None and not before.url.endswith(f":{port}"):
        raise Problem(f"{itself}. To move it to port {port}, take it down first: raygate down.")
    if not detach:
        raise Problem(f"{itself}. `raygate up --detach` changes its configuration.")
    return configuration.moved(raw, int(before.url.rpartition(":")[2]))


def _start(
    state: StateFile,
    before: Running | None,
    raw: dict[str, Any],
    dashboard: bool,
    deadline: float,
    say: Progress,
) -> Ready:
    """On a Ray of our own, started where it does not run yet."""
    http = raw.get("http_options") or {}
    url = ready.url_of(http)
    if before is None:
        _refuse_taken_port(http)
        folder = local_ray.make_folder()
        running = Running(configuration.identity(raw)[0], url, session=str(folder))
        # Before anything runs, so that nothing is ever left that nobody knows of.
        state.write(running)
    else:
        assert before.session is not None
        running, folder = before, Path(before.session)
    # Ray's processes have another working folder than this one.
    raw = configuration.with_storage(raw, str(state.folder.parent))
    variables = local_ray.environment(folder, configuration.environment_of(raw))
    # Serve reads them when it is imported, which the check does.
    os.environ.update(variables)
    say("Checking the configuration")
    plan = _checked(raw)
    _refuse_missing_keys(plan)
    if before is None:
        if not local_ray.has_haproxy():
            notice(_NO_HAPROXY)
        say("Starting Ray")
        address, dashboard_url = local_ray.start(folder, variables, dashboard)
        pid, created = local_ray.raylet(folder)
        running = dataclasses.replace(
            running, address=address, pid=pid, created=created, dashboard=dashboard_url
        )
    running = dataclasses.replace(running, applications=_order(plan, running.applications))
    state.write(running)
    say("Starting Serve")
    return _deploy(state, plan, running, True, deadline, say)


def _join(
    state: StateFile,
    before: Running | None,
    raw: dict[str, Any],
    address: str,
    deadline: float,
    say: Progress,
) -> Ready:
    """On a cluster that others may use too."""
    os.environ.update(configuration.environment_of(raw))
    if not local_ray.has_haproxy():
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
        notice(_NO_HAPROXY)
    say("Checking the configuration")
    _checked(raw)
    say(f"Joining the Ray cluster at {address}")
    from deployments.cli import serving

    address = serving.connect(address)
    if before is not None and before.address != address:
        raise Problem(f"{before.name} is up on {before.address}; take it down there first.")
    present = serving.http_options()
    if present is not None and present["port"] != (raw.get("http_options") or {}).get("port", 8000):
        notice(f"Serve listens on port {present['port']} of that cluster, and keeps it.")
        raw = configuration.moved(raw, int(present["port"]))
    elif present is None:
        _refuse_taken_port_of_head(serving.nodes(), raw.get("http_options") or {})
    plan = _checked(raw)
    if not local_ray.has_haproxy():
        plan = configuration.without_haproxy(plan)
    serving.refuse_conflicts(plan)
    running = Running(
        name=plan.args.name,
        url=ready.url_of(plan.http_options),
        address=address,
        applications=_order(plan, before.applications if before else ()),
        started_serve=before.started_serve if before else present is None,
        nodes=tuple(node["NodeID"] for node in serving.nodes()),
    )
    state.write(running)
    return _deploy(state, plan, running, False, deadline, say)


def _deploy(
    state: StateFile, plan: Plan, running: Running, local: bool, deadline: float, say: Progress
) -> Ready:
    from deployments.cli import admin_key, serving

    if local:
        serving.connect(running.address)
    serving.deploy(plan, variables_by_node=local)
    logs = serving.logs_of(running.session)
    replicas = serving.wait_running(
        [plan.gateway_app, *(app.name for app in plan.apps)], say, deadline, logs
    )
    say("Looking for the admin's key")
    given = os.environ.get("RAYGATE_ADMIN_KEY") or None
    minted = admin_key.ensure(plan.args.name, given)
    serving.disconnect()
    running = dataclasses.replace(running, complete=True)
    made = Ready(running, plan, replicas, minted, given is not None)
    ready.wait(made, minted or given, deadline, say, logs)
    state.write(running)
    return made


def _checked(raw: Mapping[str, Any]) -> Plan:
    errors, plan = checking.check(raw)
    if plan is None:
        raise Problem("The configuration is not valid:\n" + "\n".join(f"  {e}" for e in errors))
    return plan


def _order(plan: Plan, earlier: tuple[str, ...]) -> tuple[str, ...]:
    """The gateway first: what it still has to finish needs the providers."""
    names = [plan.gateway_app, *(app.name for app in plan.apps), *earlier]
    return tuple(dict.fromkeys(names))


def _refuse_taken_port(http: Mapping[str, Any]) -> None:
    host, port = str(http.get("host", "127.0.0.1")), int(http.get("port", 8000))
    try:
        free = processes.port_is_free(host, port)
    except OSError as error:
        raise Problem(f"http_options: {host}:{port} can't be used: {error.strerror}.") from None
    if not free:
        found = processes.holder(port)
        who = processes.described(found) if found else "a process of another user"
        raise Problem(f"Port {port} is held by {who}. End it, or choose another: --port N.")


def _refuse_taken_port_of_head(nodes: list[dict[str, Any]], http: Mapping[str, Any]) -> None:
    here = {each.address for found in psutil.net_if_addrs().values() for each in found}
    head = [n for n in nodes if "node:__internal_head__" in n["Resources"]]
    if head and head[0]["NodeManagerAddress"] in here:
        _refuse_taken_port(http)


def _refuse_missing_keys(plan: Plan) -> None:
    for number, each in enumerate(plan.args.providers):
        if each.api_key_env and not os.environ.get(each.api_key_env):
            raise Problem(
                f"applications[{plan.gateway_app}].args.providers.{number}.api_key_env: "
                f"the environment variable {each.api_key_env} is not set."
            )


def _undo(state: StateFile, before: Running | None, say: Progress, keep_logs: bool) -> None:
    """After a start that failed: what it began goes, what was up before stays."""
    if "ray" in sys.modules:
        # A driver whose cluster ends first waits for it, and is then killed by Ray.
        sys.modules["ray"].shutdown()
    running = state.read()
    if before is not None or running is None:
        return
    if keep_logs and running.session is not None and Path(running.session, "ray").exists():
        # The folder with the logs stays on record, and goes with the next `up` or `down`.
        processes.end_folder(Path(running.session))
    else:
        take_down(state, running, say, patience_s=0.0)


def _stay(state: StateFile, running: Running) -> None:
    """Until Ctrl-C or SIGTERM, or until it ends without us."""
    with _interruptible():
        try:
            while state.read() == running and alive(running):
                time.sleep(1.0)
            if state.read() != running:
                notice("It was taken down by another command.")
                return
            notice("Its Ray has ended without us.")
        except KeyboardInterrupt:
            notice("")
        with state.lock(), progress() as say:
            take_down(state, running, say, _PATIENCE_S)
    notice(f"{running.name} is down.")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal end this as Ctrl-C does, so that nothing is left."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
