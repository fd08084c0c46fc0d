"""The gateway as a plain ASGI app: testable without Ray, served by whatever serves ASGI."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from actors.errors import NotFound, Overloaded, RaygateError, SingletonUnavailable
from deployments.api import admin, budgets, chat, health, openapi, operators, prompts
from deployments.api.auth import PRIORITIES, authenticate, must_be_admin
from deployments.api.http import (
    ClientGone,
    Receive,
    Scope,
    Send,
    headers_of,
    parse_object,
    read_body,
    send_error,
    send_json,
)
from deployments.services import Services
from deployments.uploads import Upload

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Endpoint = Callable[[Services, Scope, Receive, Send], Awaitable[None]]

# Looked up before anything else: a router that tries patterns one by one shows in profiles.
_ENDPOINTS: dict[tuple[str, str], Endpoint] = {
    ("POST", "/v1/chat/completions"): chat.chat_completions,
    ("GET", "/v1/models"): chat.list_models,
    ("GET", "/health"): health.health,
    ("GET", "/health/live"): health.live,
    ("GET", "/health/ready"): health.ready,
    ("GET", "/metrics"): health.metrics,
    ("GET", "/openapi.json"): openapi.openapi,
}
_ALWAYS = frozenset({"/health", "/health/live", "/health/ready"})
_EXECUTE = re.compile(r"^/v1/prompts/([^/]+)/execute$")
_ADMIN = "/admin/v1/"
_ADMIN_S = 20.0
_ADMIN_CALLS: tuple[tuple[str, str, admin.Handler], ...] = (
    ("GET", "keys", admin.list_keys),
    ("POST", "keys", admin.create_key),
    ("DELETE", "keys/{id}", admin.revoke_key),
    ("GET", "budgets", budgets.list_budgets),
    ("PUT", "budgets/{name}", budgets.set_budget),
    ("DELETE", "budgets/{name}", budgets.remove_budget),
    ("GET", "limits", admin.list_limits),
    ("GET", "breakers", admin.list_breakers),
    ("POST", "breakers", admin.force_breaker),
    ("GET", "cache", admin.cache_stats),
    ("DELETE", "cache", admin.purge_cache),
    ("GET", "prompts", admin.list_prompts),
    ("POST", "prompts/{id}", admin.create_prompt),
    ("PUT", "prompts/{id}/labels/{label}", admin.label_prompt),
    ("DELETE", "prompts/{id}/labels/{label}", admin.unlabel_prompt),
    ("GET", "experiments", operators.list_experiments),
    ("POST", "experiments/{id}", operators.create_experiment),
    ("POST", "experiments/{id}/start", operators.start_experiment),
    ("POST", "experiments/{id}/stop", operators.stop_experiment),
    ("GET", "experiments/{id}/results", operators.experiment_results),
    ("DELETE", "experiments/{id}", operators.remove_experiment),
    ("GET", "traces", admin.search_traces),
    ("GET", "traces/{id}", admin.one_trace),
    ("GET", "costs/summary", admin.costs_summary),
    ("GET", "costs/ledger", admin.costs_ledger),
    ("GET", "ledger", admin.inspect_ledger),
    ("POST", "ledger/audit", admin.audit_ledger),
    ("GET", "config", admin.show_config),
    ("GET", "providers/{name}/{what}", operators.ask_provider),
    ("PUT", "providers/{name}/{what}", operators.tell_provider),
    ("DELETE", "providers/{name}/{what}", operators.reset_provider),
)
_ADMIN_ROUTES: tuple[tuple[str, re.Pattern[str], admin.Handler], ...] = tuple(
    (method, re.compile("^" + re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path) + "$"), handler)
    for method, path, handler in _ADMIN_CALLS
)


def create_app(services: Services) -> App:
    """The gateway, over the given services (which the caller starts and closes)."""
    front, args = services.front, services.args

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        # How this replica is can be asked however many wait: the answer is at hand.
        guarded = _path(scope) not in _ALWAYS
        if guarded and not front.calm and await _shed(services, scope, send):
            return
        upload = Upload(receive, front, args.body_timeout_s, args.body_bytes_per_s)
        front.requests += guarded
        try:
            await _route(services, scope, upload, send)
        except ClientGone:
            return
        except Exception as error:
            await _broke(send, error)
        finally:
            front.requests -= guarded
            upload.close()

    return app


async def _shed(services: Services, scope: Scope, send: Send) -> bool:
    """Refuse a request of the least priority for which there is no room; whether it was."""
    word = headers_of(scope).get(b"x-raygate-priority", b"normal").decode("latin-1").lower()
    administers = _path(scope).startswith(_ADMIN)
    priority = PRIORITIES["high"] if administers else PRIORITIES.get(word, PRIORITIES["normal"])
    after_s = services.front.refuses(priority)
    if after_s is None:
        return False
    services.metrics.count("raygate_shed_total", "replica", str(priority))
    text = f"This replica has as much in hand as it can do. Try again in {after_s:.3g} s."
    await send_error(
        send, Overloaded(text, retry_after_s=after_s), [(b"x-request-id", services.mint().encode())]
    )
    return True


async def _broke(send: Send, error: Exception) -> None:
    """A bug of ours, told as an error where the reply has not begun yet."""
    try:
        await send_error(send, error)
    except Exception:
        # The server takes no second beginning: it must cut this reply off.
        raise error from None


async def _route(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    method, path = scope["method"], _path(scope)
    endpoint = _ENDPOINTS.get((method, path))
    if endpoint is not None:
        await endpoint(services, scope, receive, send)
    elif method == "POST" and (match := _EXECUTE.match(path)):
        await prompts.execute(services, scope, receive, send, match[1])
    elif path.startswith(_ADMIN):
        await _administer(services, scope, receive, send, method, path.removeprefix(_ADMIN))
    elif allowed := sorted(verb for verb, known in _ENDPOINTS if known == path):
        await _wrong_method(send, path, allowed)
    else:
        await send_error(send, NotFound(f"There is nothing at {method} {path[:200]}."))


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(root) else path


async def _wrong_method(send: Send, path: str, allowed: list[str]) -> None:
    error = NotFound(f"{path} takes {', '.join(allowed)}.", code="method_not_allowed")
    await send_error(send, error, [(b"allow", ", ".join(allowed).encode())])


async def _administer(
    services: Services, scope: Scope, receive: Receive, send: Send, method: str, path: str
) -> None:
    """One admin call: the key first, then whether there is such a thing."""
    headers = headers_of(scope)
    try:
        async with asyncio.timeout(_ADMIN_S):
            found = await _administered(services, scope, headers, receive, method, path)
    except TimeoutError:
        silent = [name for name, one in services.consultants.items() if not one.fresh()]
        text = f"{', '.join(silent) or 'A singleton'} did not answer within {_ADMIN_S:g} s."
        await send_error(send, SingletonUnavailable(text, retry_after_s=2.0))
    except RaygateError as error:
        await send_error(send, error)
    else:
        await send_json(send, found)


async def _administered(
    services: Services,
    scope: Scope,
    headers: dict[bytes, bytes],
    receive: Receive,
    method: str,
    path: str,
) -> Any:
    must_be_admin(await authenticate(services, headers))
    words, handler = _admin_handler(method, path)
    raw = await read_body(headers, receive, services.args.max_body_bytes)
    query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
    return await handler(services, words, query, parse_object(raw) if raw else {})


def _admin_handler(method: str, path: str) -> tuple[dict[str, str], admin.Handler]:
    matching = [(verb, match, h) for verb, p, h in _ADMIN_ROUTES if (match := p.match(path))]
    for verb, match, handler in matching:
        if verb == method:
            return match.groupdict(), handler
    takes = f" It takes {', '.join(verb for verb, _, _ in matching)}." if matching else ""
    raise NotFound(f"There is nothing at {method} {_ADMIN}{path[:200]}.{takes}")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
