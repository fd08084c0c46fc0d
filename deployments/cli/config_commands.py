"""`raygate config`: check a configuration, see what it would change, see what is in force."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from deployments.cli import checking, comparison, configuration
from deployments.cli.gateway_client import GatewayClient
from deployments.cli.options import ConfigOption, KeyOption, UrlOption
from deployments.cli.reach import Reach, reach
from deployments.cli.terminal import Problem, line, notice
from deployments.config import Policy

app = typer.Typer(help="The configuration: check, diff, show.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(help="A Serve configuration.")]


@app.command()
def check(file: FileArgument = Path(configuration.DEFAULT_NAME)) -> None:
    """Every error with its path, what was found and what is allowed; exit code 1 if any."""
    _plan(file)
    notice(f"{file} is valid.")


@app.command()
def diff(
    file: FileArgument = Path(configuration.DEFAULT_NAME),
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """What a deploy of FILE would change."""
    at = reach(file, url)
    plan = _plan(file)
    force = _in_force(at, key)
    policy = comparison.changes(force["policy"] or {}, plan.policy.model_dump(mode="json"))
    args = []
    if force["args"] is not None:
        args = comparison.changes(force["args"], plan.args.model_dump(mode="json"))
    for title, found in (
        ("args (replicas restart, one after another):", args),
        ("user_config (in place, nothing restarts):", policy),
    ):
        if found:
            line(title)
        for change in found:
            line(f"  {change}")
    if not args and not policy:
        notice("Nothing would change.")


@app.command()
def show(config: ConfigOption = None, url: UrlOption = None, key: KeyOption = None) -> None:
    """The policy in force; secrets are not in it (keys are named by their variables)."""
    force = _in_force(reach(config, url), key)
    if force.get("problem"):
        notice(f"A later policy was refused: {force['problem']}", style="yellow")
    shown = {name: force[name] for name in ("revision", "args", "policy") if force.get(name)}
    line(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip())


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it there.")] = None,
) -> None:
    """The JSON schema of a configuration, for editors."""
    from deployments.cli.schema import schema as made

    text = json.dumps(made(), indent=1, sort_keys=True)
    if output is None:
        line(text)
    else:
        output.write_text(text + "\n")


def _plan(file: Path) -> configuration.Plan:
    errors, plan = checking.check(configuration.read(configuration.find(file)))
    for error in errors:
        line(error)
    if plan is None:
        many = f"{len(errors)} errors" if len(errors) > 1 else "an error"
        raise Problem(f"{file} has {many}.")
    return plan


def _in_force(at: Reach, key: str | None) -> dict[str, Any]:
    """Revision, args and policy, from the gateway; without a key, the policy from Serve."""
    if key:
        found: dict[str, Any] = GatewayClient(at.url, key).call("GET", "/admin/v1/config")
        return found
    if at.ray is None:
        raise Problem("Give an admin's key (--key, RAYGATE_ADMIN_KEY), or set RAY_ADDRESS.")
    with at.connected() as serving:
        raw = serving.user_config("Gateway")
    if raw is None:
        raise Problem("No gateway is deployed on that cluster.")
    return {
        "revision": None,
        "args": None,
        "policy": Policy.model_validate(raw).model_dump(mode="json"),
    }
