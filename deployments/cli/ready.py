"""The end of `up`: the gateway answers through its ingress, and the user is told how to ask it."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from deployments.cli.configuration import Plan
from deployments.cli.gateway_client import GatewayClient, until
from deployments.cli.state import Running
from deployments.cli.terminal import Progress, line

_ANYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - what a configuration may say, bound by Serve
# HAProxy takes turns, so that this many in a row have met every replica.
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Ready:
    """A gateway that answers.

    admin_key: where it was made now. given: it was in the environment.
    """

    running: Running
    plan: Plan
    replicas: int
    admin_key: str | None
    given: bool


def url_of(http: Mapping[str, Any]) -> str:
    """Where clients on this machine reach Serve."""
    host = str(http.get("host", "127.0.0.1"))
    host = "127.0.0.1" if host in _ANYWHERE else host
    return f"http://{f'[{host}]' if ':' in host else host}:{http.get('port', 8000)}"


def wait(made: Ready, key: str | None, deadline: float, say: Progress, logs: str) -> None:
    """Wait until every replica answers through the ingress, and knows the key.

    deadline: on the monotonic clock, seconds. Raises Problem when it comes too late.
    """
    client = GatewayClient(made.running.url, key)
    times = _TURNS * made.replicas
    say("Waiting for the ingress")
    for each in made.plan.args.providers:
        if each.kind == "simulated" and each.base_url.startswith(made.running.url):
            models = f"{each.base_url}/models"
            silent = f"The simulated provider does not answer at {models}. See {logs}."
            until(partial(client.answers, models, (200, 401)), _TURNS, deadline, silent)
    problem = f"The gateway does not answer at {made.running.url}. See {logs}."
    until(lambda: client.answers("/health/ready", (200,)), times, deadline, problem)
    if key is not None:
        until(lambda: client.answers("/v1/models", (200,)), times, deadline, problem)


def announce(made: Ready, seconds: float, as_json: bool, detached: bool) -> None:
    """Say where it is, the key where it is new, and a line to paste."""
    running = made.running
    if as_json:
        line(
            json.dumps(
                {
                    "name": running.name,
                    "url": running.url,
                    "admin_key": made.admin_key,
                    "replicas": made.replicas,
                    "ready_after_s": round(seconds, 1),
                    "ray_address": running.address,
                    "dashboard": running.dashboard,
                }
            )
        )
        return
    line(f"\n{running.name} is ready: {running.url}")
    line(f"  {made.replicas} replicas, after {seconds:.0f} s")
    if running.dashboard:
        line(f"  Ray's dashboard: {running.dashboard} (token: {running.token})")
    if made.admin_key:
        line(f"\nAdmin key: {made.admin_key}")
        line("  It is shown this once; only its hash is kept.")
    line(f"\nTry it:\n{curl(made)}\n")
    line("`raygate down` takes it down." if detached else "Ctrl-C takes it down.")


def curl(made: Ready) -> str:
    """A line for a shell that asks the gateway a question."""
    # In double quotes, so that the shell puts in a key that only it knows.
    key = made.admin_key or "$RAYGATE_ADMIN_KEY"
    model = next(iter(made.plan.policy.models))
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}]}
    return (
        f"curl -sS {made.running.url}/v1/chat/completions "
        f'-H "Authorization: Bearer {key}" -H "Content-Type: application/json" '
        f"-d {shlex.quote(json.dumps(body))}"
    )
