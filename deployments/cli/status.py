"""`raygate status`: how it is, at a glance."""

import json
from typing import Any

import typer
from rich.table import Table

from deployments.cli.gateway_client import GatewayClient
from deployments.cli.options import ConfigOption, JsonOption, KeyOption, UrlOption
from deployments.cli.reach import Reach, reach
from deployments.cli.terminal import Problem, answers, line, notice

_OPEN = ("open", "half_open", "forced_open")


def status(
    config: ConfigOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Health, singletons, replicas, spend today, open breakers.

    Asks the gateway with an admin's key, and its Ray where that is known (RAY_ADDRESS, or a
    gateway that is up here); either alone will do. Exit code 1 where no gateway answers.
    """
    at = reach(config, url)
    picture: dict[str, Any] = {"name": at.name, "url": at.url, "status": "down"}
    parts = ("singletons", "replicas", "costs", "open_breakers", "ledger_damage")
    picture |= dict.fromkeys(parts)
    if at.ray is not None and url is None:
        try:
            picture |= _from_ray(at)
        except Problem as problem:
            notice(str(problem))
    picture |= _from_http(at, key)
    if as_json:
        line(json.dumps(picture))
    else:
        _print(picture)
    if picture["status"] == "down":
        raise typer.Exit(1)


def _from_http(at: Reach, key: str | None) -> dict[str, Any]:
    try:
        code, health = GatewayClient(at.url, key).attempt("GET", "/health")
    except OSError:
        return {}
    if code == 401:
        raise Problem("That key is not known to the gateway.")
    if code != 200 or not isinstance(health, dict) or "status" not in health:
        return {}
    found: dict[str, Any] = {"status": health["status"]}
    if "costs" in health:
        found["costs"] = health["costs"]
        found["ledger_damage"] = health["ledger"]["damage"]
    if "circuit_breaker" in health:
        found["open_breakers"] = _opened(health["circuit_breaker"]["targets"])
    return found | ({"health": health} if key else {})


def _from_ray(at: Reach) -> dict[str, Any]:
    with at.connected() as serving:
        from actors import registry
        from deployments.cli import admin_key

        if registry.home(at.name) is None:
            return {}
        ips = {node["NodeID"]: node["NodeManagerAddress"] for node in serving.nodes()}
        singletons = registry.describe(at.name)
        for one in singletons.values():
            one["node_ip"] = ips.get(one.get("node"))
        names = at.running.applications if at.running else serving.gateways()
        costs = admin_key.ask(at.name, "cost_tracker", "summary")
        damage = costs.pop("ledger_damage", None)
        breakers = admin_key.ask(at.name, "circuit_breaker", "status")
        return {
            "singletons": singletons,
            "replicas": serving.replicas(names),
            "costs": {name: value for name, value in costs.items() if "nanos" not in name},
            "open_breakers": _opened(breakers["targets"]),
            "ledger_damage": damage,
        }


def _opened(targets: dict[str, Any]) -> dict[str, str]:
    return {name: one["state"] for name, one in targets.items() if one["state"] in _OPEN}


def _print(picture: dict[str, Any]) -> None:
    line(f"{picture['name']} at {picture['url']}: {picture['status']}")
    costs = picture["costs"]
    if costs is not None:
        spent, budget = costs["today_cost"], costs["daily_budget"]
        line(f"  spent today: ${spent:,.6f} of ${budget:,.2f}")
    if picture["ledger_damage"]:
        line(f"  the ledger is damaged: {picture['ledger_damage']}")
    opened = picture["open_breakers"]
    if opened is not None:
        told = ", ".join(f"{name} ({state})" for name, state in opened.items())
        line(f"  open breakers: {told or 'none'}")
    for application, parts in (picture["replicas"] or {}).items():
        for deployment, states in parts.items():
            told = ", ".join(f"{count} {state.lower()}" for state, count in states.items())
            line(f"  {application}/{deployment}: {told or 'no replicas'}")
    singletons = picture["singletons"] or picture.get("health", {}).get("singletons")
    if singletons:
        table = Table("singleton", "reachable", "epoch", "restarts", "storage", "node")
        for name, one in singletons.items():
            cells = [one.get(key) for key in ("epoch", "restarts", "storage", "node_ip")]
            table.add_row(
                name,
                "yes" if one["reachable"] else "[red]no[/]",
                *("–" if cell is None else str(cell) for cell in cells),
            )
        answers.print(table)
