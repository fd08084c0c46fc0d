"""`GET /health*` and `GET /metrics`."""

import asyncio
from typing import Any

from actors.consultant import Consultant
from actors.errors import InvalidApiKey, RaygateError
from actors.shards import each
from deployments.api.auth import authenticate
from deployments.api.http import Receive, Scope, Send, headers_of, send_bytes, send_error, send_json
from deployments.services import Services
from deployments.telemetry.metrics import exposition, label

_PATIENCE_S = 1.5
_WORD_S = 1.0
_WORD_PATIENCE_S = 0.05
_WORST_FIRST = ("forced_open", "open", "half_open", "closed", "forced_closed")


async def live(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """The process answers."""
    await send_json(send, {"status": "alive"})


async def ready(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """This replica can serve: it has a policy, and its view of the keys came."""
    waiting = []
    if services.policy is None:
        waiting.append("a valid policy")
    waiting += [f"the {one.name}" for one in (services.keys,) if one.incarnation == (0, 0)]
    if waiting:
        await send_json(send, {"status": "starting", "waiting_for": waiting}, 503)
    else:
        await send_json(send, {"status": "ready"})


async def health(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """The whole picture for those with a key, one word for the others."""
    headers = headers_of(scope)
    role = None
    if b"authorization" in headers or b"x-api-key" in headers:
        try:
            role = (await _soon(authenticate(services, headers))).role
        except InvalidApiKey as error:
            await send_error(send, error)
            return
        except (RaygateError, TimeoutError):
            role = None
    if role is None:
        await send_json(send, {"status": await _word(services)})
        return
    picture = await picture_of(services)
    if role != "admin":
        picture.pop("costs", None)
        picture.pop("ledger", None)
    await send_json(send, picture)


async def _word(services: Services) -> str:
    """The status for anybody. However many ask, the singletons are asked once a second.

    Nobody waits for one that is silent: what was seen last is told then, and that it is silent.
    """
    now_s = asyncio.get_running_loop().time()
    asked = services.health_asked
    if asked is None or (asked[1].done() and now_s - asked[0] > _WORD_S):
        task = services.spawn(picture_of(services), "health")
        services.health_asked = asked = (now_s, task)
    await asyncio.wait([asked[1]], timeout=_WORD_PATIENCE_S)
    if asked[1].done():
        services.health_seen = str(asked[1].result()["status"])
    elif not all(
        host.reachable and host.fresh()
        for one in services.consultants.values()
        for host in each(one)
    ):
        return "degraded"
    return services.health_seen


async def picture_of(services: Services) -> dict[str, Any]:
    """What `/health` says to an admin. A singleton that does not answer leaves its part empty."""
    breakers, limits, cache, costs = await asyncio.gather(
        _ask(services.breaker, "status"),
        _ask(services.limiter, "status"),
        _ask(services.cache, "status"),
        _ask(services.costs, "summary"),
    )
    hosts = [host for one in services.consultants.values() for host in each(one)]
    lives = await asyncio.gather(*(_ask(host, "lives") for host in hosts))
    known = {host.name: told or {} for host, told in zip(hosts, lives, strict=True)}
    targets = (breakers or {}).get("targets", {})
    limiter = _limiter(limits or {})
    picture: dict[str, Any] = {
        "status": "healthy",
        "circuit_breaker": _breaker(targets),
        "rate_limiter": limiter,
        "cache": _cache(cache or {}),
        "costs": {
            key: value
            for key, value in (costs or {}).items()
            if "nanos" not in key and key != "ledger_damage"
        },
        "ledger": {"damage": (costs or {}).get("ledger_damage")},
        "singletons": {
            host.name: {
                "epoch": host.incarnation[0],
                # A watch returns every second, so an old view tells of a host that hangs.
                # Which of several shards did not answer, only that tells.
                "reachable": host.reachable and host.fresh() and (answered or host is not one),
                "restarts": host.incarnation[1],
                # Known of who answers; who does not is unreachable.
                "storage": known[host.name].get("storage", "ok"),
                **_protected(known[host.name], host),
            }
            for one in services.consultants.values()
            for answered in (_answered(services, one, breakers, limits, cache, costs),)
            for host in each(one)
        },
    }
    if services.policy is not None:
        picture["policy"] = {"revision": services.policy.revision}
    if services.policy_problem is not None:
        picture.setdefault("policy", {})["problem"] = services.policy_problem
    picture["status"] = _status(picture, services)
    return picture


def _protected(known: dict[str, Any], host: Consultant) -> dict[str, str]:
    """What protects its rows; of one that is not reachable, why."""
    told = {"protection": known["protection"]} if known.get("protection") else {}
    return told if host.reachable else {**told, "problem": host.trouble}


def _answered(services: Services, one: Consultant, *parts: Any) -> bool:
    asked = (services.breaker, services.limiter, services.cache, services.costs)
    return one not in asked or parts[asked.index(one)] is not None


def _status(picture: dict[str, Any], services: Services) -> str:
    singletons = picture["singletons"].values()
    ailing = any(not one["reachable"] or one["storage"] == "full" for one in singletons)
    breaker_open = picture["circuit_breaker"]["state"] in ("open", "forced_open")
    damaged = picture["ledger"]["damage"] is not None
    if ailing or breaker_open or damaged or services.policy_problem is not None:
        return "degraded"
    if picture["costs"].get("budget_used_percentage", 0.0) > 90.0:
        return "warning"
    limiter = picture["rate_limiter"]
    if limiter["max_tokens"] and limiter["tokens_available"] < 0.1 * limiter["max_tokens"]:
        return "warning"
    return "healthy"


def _breaker(targets: dict[str, Any]) -> dict[str, Any]:
    states = [target["state"] for target in targets.values()]
    worst = next((state for state in _WORST_FIRST if state in states), "closed")
    return {
        "state": worst,
        "failure_count": sum(target["failure_count"] for target in targets.values()),
        "success_count": sum(target["success_count"] for target in targets.values()),
        "targets": targets,
    }


def _limiter(status: dict[str, Any]) -> dict[str, Any]:
    """The cluster's request limit with the least left."""
    mine = [
        limit
        for limit in status.get("limits", [])
        if limit["subject"] == "" and limit["unit"] == "requests"
    ]
    tightest = min(mine, key=lambda limit: limit["remaining"] / limit["burst"], default=None)
    left = float(tightest["remaining"]) if tightest else 0.0
    most = tightest["burst"] if tightest else 0
    return {
        "tokens_available": left,
        "max_tokens": most,
        "utilization": 1.0 - left / most if most else 0.0,
        "waiting": status.get("waiting", 0),
        "holds": status.get("holds", 0),
    }


def _cache(status: dict[str, Any]) -> dict[str, Any]:
    most = status.get("max_size", 0)
    return {
        "size": status.get("size", 0),
        "max_size": most,
        "bytes": status.get("bytes", 0),
        "utilization": status.get("size", 0) / most if most else 0.0,
        "hit_rate": status.get("hit_rate", 0.0),
    }


async def metrics(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Prometheus text: cluster-wide sums from one scrape, of any replica."""
    try:
        await authenticate(services, headers_of(scope))
        sums = await _soon(services.traces.ask("counters"))
        picture = await picture_of(services)
    except RaygateError as error:
        await send_error(send, error)
        return
    except TimeoutError:
        await send_json(send, {"error": {"message": "trace_collector does not answer"}}, 503)
        return
    text = exposition(sums, _gauges(picture))
    kind = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
    await send_bytes(send, 200, [kind], text.encode())


def _gauges(picture: dict[str, Any]) -> dict[str, float]:
    gauges: dict[str, float] = {
        "raygate_cache_entries": picture["cache"]["size"],
        "raygate_cache_bytes": picture["cache"]["bytes"],
        "raygate_limiter_waiting": picture["rate_limiter"]["waiting"],
        "raygate_limiter_holds": picture["rate_limiter"]["holds"],
        "raygate_limiter_utilization": picture["rate_limiter"]["utilization"],
    }
    for name, target in picture["circuit_breaker"]["targets"].items():
        is_open = target["state"] in ("open", "forced_open")
        gauges[f'raygate_breaker_open{{target="{label(name)}"}}'] = float(is_open)
    for name, one in picture["singletons"].items():
        gauges[f'raygate_singleton_up{{singleton="{name}"}}'] = float(one["reachable"])
        gauges[f'raygate_singleton_storage_full{{singleton="{name}"}}'] = float(
            one["storage"] == "full"
        )
        gauges[f'raygate_singleton_restarts{{singleton="{name}"}}'] = one["restarts"]
    return gauges


async def _ask(consultant: Consultant, command: str) -> Any:
    try:
        return await _soon(consultant.ask(command))
    except (RaygateError, TimeoutError):
        return None


async def _soon(work: Any) -> Any:
    async with asyncio.timeout(_PATIENCE_S):
        return await work
