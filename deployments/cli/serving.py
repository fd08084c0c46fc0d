"""What the commands do on a Ray cluster: connect, deploy, look, take down.

Imports Ray, which reads the environment while it is imported: for a local Ray of ours import
this only after `local_ray.access`.
"""

import hashlib
import logging
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel

from actors import registry
from deployments.cli import processes
from deployments.cli.configuration import AppPlan, Plan
from deployments.cli.terminal import Problem
from deployments.providers.secret import forget_cluster_secret

Say = Callable[[str], None]
_POLL_S = 0.2


def connect(address: str) -> str:
    """Connect this process to a cluster; returns the address of its head. Raises Problem."""
    if address.startswith("ray://"):
        raise Problem(
            f"{address} is Ray Client's address; run this on a machine of the cluster, with "
            "RAY_ADDRESS=HOST:6379 (or auto)."
        )
    for name in ("ray", "ray.serve", "actors"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ":" in address and not processes.listens(address):
        raise Problem(f"No Ray cluster answers at {address}.")
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address, log_to_driver=False, logging_level=logging.CRITICAL, namespace="raygate-cli"
        )
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Problem(f"The Ray cluster at {address} can't be reached: {reason[0]}") from None
    # Ray's own would exit on the spot, with what was begun left as it is.
    signal.signal(signal.SIGTERM, before)
    return str(ray.get_runtime_context().gcs_address)


def disconnect() -> None:
    """Let go of the cluster; what was deployed stays."""
    ray.shutdown()


def nodes() -> list[dict[str, Any]]:
    """The cluster's living nodes, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def serve_client() -> Any:
    """Serve's own client of its controller, or None where Serve does not run (Ray's private)."""
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)


def http_options() -> Mapping[str, Any] | None:
    """Host and port of the Serve that runs, None where none does."""
    client = serve_client()
    if client is None:
        return None
    return {"host": client.http_config.host, "port": client.http_config.port}


def refuse_conflicts(plan: Plan) -> None:
    """Raise Problem where what runs there is in the way."""
    client = serve_client()
    if client is None:
        return
    ours = {app.name: app for app in plan.apps}
    for name, found in client.get_serve_details()["applications"].items():
        if name in ours and str(found.get("source", "")).lower().endswith("declarative"):
            raise Problem(
                f"{name} was deployed on that cluster by `serve deploy`; change it with that, "
                "or delete it first."
            )
        for app in plan.apps:
            if name not in ours and found.get("route_prefix") == app.route_prefix:
                raise Problem(
                    f"The application {name} on that cluster has the route {app.route_prefix}; "
                    f"give {app.name} another route_prefix."
                )


def deploy(plan: Plan, variables_by_node: bool) -> None:
    """Deploy the plan's applications; others are left alone. Returns before they run.

    variables_by_node: the variables of the configuration are in the environment of Ray itself.
    """
    from ray import serve
    from ray.serve._private.constants import SERVE_LOGGER_NAME

    logging.getLogger(SERVE_LOGGER_NAME).setLevel(logging.CRITICAL)
    env = {} if variables_by_node else dict(plan.controller_env)
    serve.start(
        http_options=dict(plan.http_options),
        proxy_location=plan.proxy_location,
        controller_options={"runtime_env": {"env_vars": env}} if env else None,
    )
    targets = [
        serve.RunTarget(_built(app, variables_by_node), app.name, app.route_prefix)
        for app in plan.apps
    ]
    serve.run_many(
        targets,
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def _built(app: AppPlan, variables_by_node: bool) -> Any:
    """The application, with the options that the configuration gives its deployments."""
    from ray.serve import Application

    made = app.builder if isinstance(app.builder, Application) else app.builder(app.args)
    env = {} if variables_by_node else dict(app.env_vars)
    pending, seen = [made], set[str]()
    while pending:
        bound = pending.pop()
        deployment = bound._bound_deployment
        seen.add(deployment.name)
        options = dict(app.options.get(deployment.name, {}))
        if env:
            actor = {**(deployment.ray_actor_options or {}), **options.get("ray_actor_options", {})}
            runtime_env = dict(actor.get("runtime_env") or {})
            runtime_env["env_vars"] = env | dict(runtime_env.get("env_vars") or {})
            options["ray_actor_options"] = {**actor, "runtime_env": runtime_env}
        version = _version(app, options.get("ray_actor_options"))
        bound._bound_deployment = deployment.options(**options, version=version, _internal=True)
        given: Any = deployment
        arguments = [*given.init_args, *given.init_kwargs.values()]
        pending += [each for each in arguments if isinstance(each, Application)]
    for name in sorted(app.options.keys() - seen):
        raise Problem(
            f"applications[{app.name}].deployments[{name}]: there is no such deployment. "
            f"Allowed: {', '.join(sorted(seen))}"
        )
    return made


def _version(app: AppPlan, actor_options: Any) -> str:
    """Changes when replicas have to restart; else a policy is changed in place.

    Serve gives an application of `serve.run` a random one, so that each deploy restarts it.
    """
    sources = [Path(__file__).parents[2] / package for package in ("actors", "deployments")]
    newest = max(file.stat().st_mtime_ns for source in sources for file in source.rglob("*.py"))
    args = app.args.model_dump(mode="json") if isinstance(app.args, BaseModel) else app.args
    told = repr((app.import_path, args, dict(app.env_vars), actor_options, newest))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def replicas(applications: Iterable[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Application → deployment → state → how many replicas."""
    from ray import serve

    found = serve.status().applications
    return {
        name: {
            deployment: {
                str(getattr(state, "value", state)): count
                for state, count in each.replica_states.items()
            }
            for deployment, each in found[name].deployments.items()
        }
        for name in applications
        if name in found
    }


def wait_running(names: Iterable[str], say: Say, deadline: float, logs: str) -> int:
    """Wait until all applications run; returns how many replicas the first one has.

    deadline: on the monotonic clock, seconds. Raises Problem when one fails, or too late.
    """
    from ray import serve

    names = tuple(names)
    while True:
        found = serve.status().applications
        states = {name: found[name].status.value for name in names if name in found}
        for name, state in states.items():
            if state == "DEPLOY_FAILED":
                raise Problem(f"{name} can't be deployed: {_reason(found[name])} See {logs}.")
        if all(states.get(name) == "RUNNING" for name in names):
            counts = replicas(names[:1])[names[0]].values()
            return sum(each.get("RUNNING", 0) for each in counts)
        if time.monotonic() > deadline:
            slow = ", ".join(f"{name} is {states.get(name, 'missing')}" for name in names)
            raise Problem(f"Not ready in time: {slow}. See {logs}.")
        running = {
            name: sum(each.get("RUNNING", 0) for each in parts.values())
            for name, parts in replicas(names).items()
        }
        told = ", ".join(f"{name} {count}" for name, count in running.items())
        say(f"Starting replicas (running: {told or 'none'})")
        time.sleep(_POLL_S)


def _reason(application: Any) -> str:
    """The last words of what a failed deployment says: the error, not its traceback."""
    messages = [each.message for each in application.deployments.values()] + [application.message]
    for message in messages:
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line or "Problem" in line]
        if errors or lines:
            return str((errors or lines)[-1])[:500]
    return "no reason given."


def undeploy(
    name: str, applications: Sequence[str], everything: bool, patience_s: float
) -> dict[str, Any]:
    """Delete the applications and end the singletons; says what there was.

    everything: shut Serve down too, unless other applications run there.
    patience_s: for requests that are under way.
    """
    from ray import serve

    deleted: list[str] = []
    client = serve_client()
    if client is not None:
        for application in applications:
            present = serve.status().applications
            if application in present:
                deleted.append(application)
                # The last ones go with Serve itself, which is quicker.
                alone = everything and not present.keys() - set(applications)
                if not alone or application == applications[0]:
                    _delete(application, patience_s)
    ended = registry.teardown(name)
    forget_cluster_secret(name)
    left = serve.status().applications.keys() - set(applications) if client is not None else ()
    alone = client is not None and everything and not left
    if alone:
        serve.shutdown()
    return {"applications": deleted, "singletons": ended, "shut_serve_down": alone}


def _delete(application: str, patience_s: float) -> None:
    from ray import serve

    serve.delete(application, _blocking=False)
    give_up = time.monotonic() + patience_s
    while application in serve.status().applications and time.monotonic() < give_up:
        time.sleep(0.1)


def logs_of(session: str | None) -> str:
    """Where to look when something went wrong."""
    if session is None:
        return "Serve's logs on the cluster"
    return str(Path(session, "ray", "session_latest", "logs", "serve"))


def gateways() -> tuple[str, ...]:
    """The names of the applications that have a deployment `Gateway`."""
    from ray import serve

    if serve_client() is None:
        return ()
    found = serve.status().applications
    return tuple(name for name, each in found.items() if "Gateway" in each.deployments)


def user_config(deployment: str) -> Any:
    """What a deployment is configured with, by Serve's account; None where there is none."""
    client = serve_client()
    applications = client.get_serve_details()["applications"] if client is not None else {}
    for application in applications.values():
        found = application["deployments"].get(deployment)
        if found is not None:
            return found["deployment_config"].get("user_config")
    return None
