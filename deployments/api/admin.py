"""`/admin/v1/...`: what an operator sees and changes; admin keys only.

A handler takes the services, the path's words, the query and the body, and returns what is
sent as JSON. A change returns when every replica knows of it.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from actors import inspection
from actors import keys as gateway_keys
from actors.consultant import Consultant
from actors.errors import InvalidRequest, NotFound
from actors.key_store import KeyRecord
from actors.trace_collector import MAX_PAGE
from deployments import prompts
from deployments.api.auth import PRIORITIES
from deployments.api.reading import tags_of
from deployments.services import Services
from deployments.telemetry.trace import shown

Query = dict[str, str]
Body = dict[str, Any]
Handler = Callable[[Services, dict[str, str], Query, Body], Awaitable[Any]]

_MAX_PAGE = 1_000
_MAX_KEY_S = 100 * 365 * 86_400
_TRACE_WHO = ("trace_id", "request_id", "key", "team", "user")
_TRACE_WHAT = ("model", "target", "endpoint", "cache", "outcome", "prompt", "variant", "experiment")
_TRACE_WORDS = frozenset((*_TRACE_WHO, *_TRACE_WHAT))
_TRACE_NUMBERS = frozenset(
    ("status", "version", "attempts", "since_ns", "until_ns", "min_duration_ns", "min_cost_nanos")
)
_TRACE_OTHERS = frozenset({"priority", "stream", "tags", "limit", "cursor"})


async def everywhere(services: Services, singleton: Consultant) -> None:
    """Return when no replica goes by what was true before."""
    await singleton.ask("everywhere", services.mint())


def limit_of(query: Query, default: int = 100) -> int:
    """The page size that a query asks for."""
    limit = _whole(query, "limit", default)
    if not 1 <= limit <= _MAX_PAGE:
        raise InvalidRequest(f"limit must be 1 to {_MAX_PAGE}.", param="limit")
    return limit


def _whole(query: Query, name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InvalidRequest(f"{name} must be a whole number.", param=name)
    return int(text)


async def list_keys(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Keys, oldest first, without their secrets: nobody knows those but their owners."""
    after, _, id = query.get("cursor", "").partition("-")
    if (after or id) and not (after.isascii() and after.isdecimal() and len(after) < 20):
        raise InvalidRequest("cursor must be one that a page gave.", param="cursor")
    limit = limit_of(query)
    records = await services.keys.ask("list", (int(after or -1), id), limit)
    last = records[-1] if len(records) == limit else None
    cursor = None if last is None else f"{last.created_ns}-{last.id}"
    return {"data": [_key(record) for record in records], "cursor": cursor}


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
        if value is None:
            continue
        good = isinstance(value, kind) and (bool in kind or not isinstance(value, bool))
        if not good or (word == "seconds" and not 0 <= value <= _MAX_KEY_S):
            raise InvalidRequest(f"{field} must be {word}.", param=field)
    minted = gateway_keys.mint()
    expires_s, wait_s = body.get("expires_in_s"), body.get("max_wait_s")
    record = KeyRecord(
        id=minted.id,
        name=body.get("name") or minted.id,
        team=body.get("team") or "",
        role=body.get("role") or "user",
        hash=minted.hash,
        models=tuple(body.get("models") or ()),
        may_be_high=bool(body.get("may_be_high")),
        max_wait_ns=round((10.0 if wait_s is None else wait_s) * 1e9),
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


async def costs_summary(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Today, the average, the month; and `by` key, team, model or day."""
    summary = await services.costs.ask("summary")
    by = query.get("by")
    if by is not None:
        rows = await services.costs.ask("spend", by, _whole(query, "days", 1))
        summary["by"] = [row._asdict() for row in rows]
    return summary


async def costs_ledger(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """A page of the ledger, oldest first; `after` is the last sequence already seen."""
    after = query.get("after", "")
    rows = await services.costs.ask("rows", "ledger", after, limit_of(query))
    page = [inspection.shown(row.value) for row in rows]
    return {"data": page, "next": rows[-1].key if rows else None}


async def inspect_ledger(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Its months, files, rows and heads, and what the start has looked at."""
    return await services.costs.ask("inspect")


async def audit_ledger(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Look at some more of its rows, backwards; `progress`: what the last call has returned."""
    return await services.costs.ask("audit", body.get("progress"))


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
    if unknown := sorted(query.keys() - {"model", "tenant", "key"}):
        raise InvalidRequest(
            f"{unknown[0]} is no filter of a purge; there are model, tenant and key.",
            param=unknown[0],
        )
    by = next((word for word in ("model", "tenant", "key") if word in query), "all")
    purged = await services.cache.ask("purge", by, query.get(by, ""))
    await everywhere(services, services.cache)
    return {"purged": purged}


async def search_traces(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Traces that fit all filters of the query, newest first.

    Each field of a trace by its name; `since_ns`, `until_ns`, `min_duration_ns`,
    `min_cost_nanos`; `tags` as `a=b,c=d`; `priority` as a word; `stream` as true or false.
    """
    filters: dict[str, Any] = {}
    for name, text in query.items():
        if name in _TRACE_WORDS:
            filters[name] = text
        elif name in _TRACE_NUMBERS:
            filters[name] = _whole(query, name, 0)
        elif name not in _TRACE_OTHERS:
            known = ", ".join(sorted(_TRACE_WORDS | _TRACE_NUMBERS | _TRACE_OTHERS))
            raise InvalidRequest(
                f"Traces have no filter {name[:50]}; there are {known}.", None, name
            )
    if "priority" in query:
        filters["priority"] = _chosen(query, "priority", PRIORITIES)
    if "stream" in query:
        filters["stream"] = _chosen(query, "stream", {"true": True, "false": False})
    if "tags" in query:
        filters["tags"] = tags_of(query["tags"])
    limit = min(limit_of(query, 50), MAX_PAGE)
    page = await services.traces.ask("search", filters, limit, query.get("cursor"))
    return {"data": [shown(trace) for trace in page[0]], "cursor": page[1]}


def _chosen(query: Query, name: str, choices: dict[str, Any]) -> Any:
    if query[name] not in choices:
        raise InvalidRequest(f"{name} must be {' or '.join(choices)}.", param=name)
    return choices[query[name]]


async def one_trace(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """One trace with its steps."""
    found = await services.traces.ask("get", path["id"])
    if found is None:
        raise NotFound(f"Trace {path['id'][:64]} is not kept (any more).")
    return shown(found)


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


async def unlabel_prompt(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """Take a label away."""
    before = await services.prompts.ask("label", path["id"], path["label"], None)
    if before is None:
        raise NotFound(f"Template {path['id'][:100]} has no label {path['label'][:100]}.")
    await everywhere(services, services.prompts)
    return {"id": path["id"], "label": path["label"], "version": None, "before": before}


async def show_config(services: Services, path: dict[str, str], query: Query, body: Body) -> Any:
    """The policy in force; it holds no secrets (keys are named by their variables)."""
    policy = services.policy
    return {
        "revision": policy.revision if policy else None,
        "problem": services.policy_problem,
        "args": services.args.model_dump(mode="json"),
        "policy": policy.policy.model_dump(mode="json") if policy else None,
    }
