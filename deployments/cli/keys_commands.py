"""`raygate keys`: who may ask the gateway."""

from typing import Annotated, Any

import typer
from rich.table import Table

from actors.errors import Conflict
from deployments.cli.gateway_client import GatewayClient
from deployments.cli.options import ConfigOption, KeyOption, UrlOption
from deployments.cli.reach import reach
from deployments.cli.terminal import Problem, answers, line, notice

app = typer.Typer(help="Keys: make, list, revoke.", no_args_is_help=True)


@app.command()
def bootstrap(config: ConfigOption = None) -> None:
    """Make the first admin's key, where `serve deploy` has made none.

    Needs access to the cluster itself: RAY_ADDRESS, or a gateway that is up here.
    """
    at = reach(config, None)
    with at.connected():
        from deployments.cli import admin_key

        try:
            secret = admin_key.bootstrap(at.name)
        except Conflict as error:
            raise Problem(str(error)) from None
    notice("The admin's key; it is shown this once, only its hash is kept:")
    line(secret)


@app.command("list")
def list_keys(config: ConfigOption = None, url: UrlOption = None, key: KeyOption = None) -> None:
    """Every key, without its secret."""
    table = Table("id", "name", "team", "role", "models", "state")
    client = _client(config, url, key)
    page: dict[str, Any] = {"cursor": ""}
    while page["cursor"] is not None:
        page = client.call("GET", f"/admin/v1/keys?limit=1000&cursor={page['cursor']}")
        for row in page["data"]:
            state = "revoked" if row["disabled"] else "usable"
            models = ", ".join(row["models"]) or "all"
            table.add_row(row["id"], row["name"], row["team"], row["role"], models, state)
    answers.print(table)


@app.command()
def create(
    name: str,
    team: Annotated[str, typer.Option(help="Its tenant; none: its own.")] = "",
    role: Annotated[str, typer.Option(help="admin, user or viewer.")] = "user",
    model: Annotated[list[str] | None, typer.Option(help="May be given again; none: all.")] = None,
    high: Annotated[bool, typer.Option("--high", help="May ask with high priority.")] = False,
    expires_in_s: Annotated[float | None, typer.Option(min=1.0)] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Make a key; prints it, and nobody can show it again."""
    body = {"name": name, "team": team, "role": role, "models": model or [], "may_be_high": high}
    if expires_in_s is not None:
        body["expires_in_s"] = expires_in_s
    made = _client(config, url, key).call("POST", "/admin/v1/keys", body)
    notice(f"Key {made['id']} of {name}; it is shown this once:")
    line(made["key"])


@app.command()
def revoke(
    id: str, config: ConfigOption = None, url: UrlOption = None, key: KeyOption = None
) -> None:
    """End a key; when this returns, no replica takes it."""
    _client(config, url, key).call("DELETE", f"/admin/v1/keys/{id}")
    notice(f"Key {id} is revoked.")


def _client(config: Any, url: str | None, key: str | None) -> GatewayClient:
    if not key:
        raise Problem("Give an admin's key: --key, or RAYGATE_ADMIN_KEY.")
    return GatewayClient(reach(config, url).url, key)
