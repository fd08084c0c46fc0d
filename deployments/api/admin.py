"""`/admin/v1/...`: what an operator sees and changes; admin keys only.

A handler takes the services, the path's words, the query and the body, and returns what is
sent as JSON. A change returns when every replica knows of it.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from actors import keys as gateway_keys
from actors import ledger
from actors.consultant import Consultant
from actors.errors import InvalidRequest, NotFound
from actors.key_store import KeyRecord
from deployments import prompts
from deployments.services import Services

Query = dict[str, str]
Body = dict[str, Any]
Handler = Callable[[Services, dict[str, str], Query, Body], Awaitable[Any]]

_MAX_PAGE = 1_000
_TRACE_FILTERS = ("key", "team", "user", "model", "target", "outcome", "endpoint", "cache")


async def everywhere(services: Services, singleton: Consultant) -> None:
    """Return when no replica goes by what was true before."""
    await singleton.ask("everywhere", services.mint())


def limit_of(query: Query, default: int = 100) -> int:
    """The page size that a query asks for."""
    text = query.get("limit", str(default))
    if not text.isdigit() or not 1 <= int(text) <= _MAX_PAGE:
        raise InvalidRequest(f"limit must be 1 to {_MAX_PAGE}.", param="limit")
    return int(text)


async def list_keys(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Every key, without its secret: nobody knows that but its owner."""
    records = await services.keys.ask("list")
    return {"data": [_key(record) for record in records]}


async def create_key(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Make a key; its secret is in this reply and nowhere else."""
    known = {"name", "team", "role", "models", "may_be_high", "max_wait_s", "expires_in_s"}
    if unknown := sorted(body.keys() - known):
        raise InvalidRequest(
            f"{unknown[0]} is not a field of a key; there are {', '.join(sorted(known))}.",
            param=unknown[0],
        )
    for field, kind, word in (
        ("max_wait_s", (int, float), "seconds"),
        ("expires_in_s", (int, float), "seconds"),
        ("may_be_high", (bool,), "true or false"),
        ("models", (list,), "a list of model names"),
        ("name", (str,), "a string"),
        ("team", (str,), "a string"),
        ("role", (str,), "admin, user or viewer"),
    ):
        value = body.get(field)
        if value is not None and (not isinstance(value, kind) or value is True and bool not in kind):
            raise InvalidRequest(f"{field} must be {word}.", param=field)
    minted = gateway_keys.mint()
    expires_s = body.get("expires_in_s")
    record = KeyRecord(
        id=minted.id,
        name=body.get("name") or minted.id,
        team=body.get("team") or "",
        role=body.get("role") or "user",
        hash=minted.hash,
        models=tuple(body.get("models") or ()),
        may_be_high=bool(body.get("may_be_high")),
        max_wait_ns=round(float(body.get("max_wait_s") or 10.0) * 1e9),
        expires_ns=None if expires_s is None else time.time_ns() + round(expires_s * 1e9),
    )
    made = await services.keys.ask("create", record)
    return {**_key(made), "key": minted.secret}


async def revoke_key(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Revoke a key; when this returns, no replica takes it."""
    record = await services.keys.ask("revoke", path["id"])
    await everywhere(services, services.keys)
    return _key(record)


def _key(record: KeyRecord) -> dict[str, Any]:
    shown = record._asdict()
    del shown["hash"]
    return {**shown, "models": list(record.models)}


async def list_budgets(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Each budget with what is posted, held and left."""
    return {"data": await services.costs.ask("budgets")}


async def costs_summary(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Today, the average, the month; and `by` key, team, model or day."""
    summary = await services.costs.ask("summary")
    by = query.get("by")
    if by is not None:
        days = query.get("days", "1")
        if not days.isdigit():
            raise InvalidRequest("days must be a whole number.", param="days")
        rows = await services.costs.ask("spend", by, int(days))
        summary["by"] = [row._asdict() for row in rows]
    return summary


async def costs_ledger(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """A page of the ledger, oldest first; `after` is the last sequence already seen."""
    after = query.get("after", "")
    rows = await services.costs.ask("rows", "ledger", after, limit_of(query))
    page = []
    for row in rows:
        entry = ledger.Entry(*row.value)._asdict()
        page.append({**entry, "previous": entry["previous"].hex()})
    return {"data": page, "next": rows[-1].key if rows else None}


async def list_breakers(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Each target's breaker."""
    return {"data": (await services.breaker.ask("status"))["targets"]}


async def force_breaker(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """`open`, `closed` or `reset` a target's breaker by hand."""
    target, word = body.get("target"), body.get("to")
    if not isinstance(target, str) or not isinstance(word, str):
        raise InvalidRequest("Give target and to (open, closed or reset).", param="target")
    routes = services.policy.routes.values() if services.policy is not None else ()
    if not any(target == each.name for route in routes for each in route.targets):
        raise NotFound(f"No model has the target {target[:100]}.", param="target")
    await services.breaker.ask("force", target, word)
    await everywhere(services, services.breaker)
    return {"target": target, "forced": word}


async def list_limits(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Each limit in use: what remains, who waits."""
    return await services.limiter.ask("status")


async def cache_stats(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Sizes, hits, misses."""
    return await services.cache.ask("status")


async def purge_cache(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Drop all entries, or those of a model or tenant."""
    by = next((word for word in ("model", "tenant", "key") if word in query), "all")
    purged = await services.cache.ask("purge", by, query.get(by, ""))
    await everywhere(services, services.cache)
    return {"purged": purged}


async def search_traces(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Traces that fit all filters, newest first."""
    filters = {name: query[name] for name in _TRACE_FILTERS if name in query}
    page = await services.traces.ask("search", filters, limit_of(query, 50), query.get("cursor"))
    return {"data": list(page[0]), "cursor": page[1]}


async def one_trace(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """One trace with its steps."""
    found = await services.traces.ask("get", path["id"])
    if found is None:
        raise NotFound(f"Trace {path['id'][:64]} is not kept (any more).")
    return found


async def list_prompts(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Templates with their versions and labels."""
    return {"data": await services.prompts.ask("list")}


async def create_prompt(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """A new version of a template (the same content again is the same version)."""
    spec = prompts.check({**body, "id": path["id"]})
    id = spec.pop("id")
    version = await services.prompts.ask("register", id, spec)
    await everywhere(services, services.prompts)
    return {"id": id, "version": version}


async def label_prompt(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Point a label at a version (promote, roll back)."""
    version = body.get("version")
    if not isinstance(version, int):
        raise InvalidRequest("version must be a whole number.", param="version")
    before = await services.prompts.ask("label", path["id"], path["label"], version)
    await everywhere(services, services.prompts)
    return {"id": path["id"], "label": path["label"], "version": version, "before": before}


async def show_config(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """The policy in force; it holds no secrets (keys are named by their variables)."""
    policy = services.policy
    return {
        "revision": policy.revision if policy else None,
        "problem": services.policy_problem,
        "args": services.args.model_dump(mode="json"),
        "policy": policy.policy.model_dump(mode="json") if policy else None,
    }
