"""The simulated provider's HTTP: the routes, the key, and the operator's end of it."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic, time
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .simulated_chat import ChatCompletions
from .simulated_knobs import Behaviour, Knobs
from .simulated_log import CallLog
from .simulated_request import Refusal, parse_object

_MAX_PAGE_LINES = 10_000


def create_app(knobs: Knobs, models: Sequence[str], api_key: str, log: CallLog) -> Starlette:
    """The whole provider as one ASGI application.

    knobs: how it behaves at first; DELETE /control returns to them.
    models: the names that it answers to.
    api_key: what every request must bear.
    log: where calls are recorded; closed with the application.
    """
    created = dict.fromkeys(models, int(time()))
    behaviour = Behaviour(knobs, monotonic)
    desk = _Desk(knobs, behaviour, log, created)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        log.close()

    chat = ChatCompletions(behaviour, log, created)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", desk.models, methods=["GET"]),
            Route("/control", desk.show, methods=["GET"]),
            Route("/control", desk.turn, methods=["PUT"]),
            Route("/control", desk.restore, methods=["DELETE"]),
            Route("/log", desk.log_page, methods=["GET"]),
            Route("/stats", desk.stats, methods=["GET"]),
            Route("/stats", desk.reset_stats, methods=["DELETE"]),
        ],
        middleware=[Middleware(_Guard, api_key=api_key)],
        exception_handlers={Refusal: _refused, HTTPException: _not_served},
        lifespan=lifespan,
    )


class _Desk:
    """Everything but the calls themselves."""

    def __init__(
        self, knobs: Knobs, behaviour: Behaviour, log: CallLog, models: dict[str, int]
    ) -> None:
        self._first = knobs
        self._behaviour = behaviour
        self._log = log
        self._models = models

    async def models(self, _: Request) -> Response:
        data = [
            {"id": name, "object": "model", "created": created, "owned_by": "simulated"}
            for name, created in self._models.items()
        ]
        return _json({"object": "list", "data": data})

    async def show(self, _: Request) -> Response:
        return _json(self._behaviour.knobs.model_dump(mode="json"))

    async def turn(self, request: Request) -> Response:
        """Turn the knobs that are named; the others stay as they are."""
        changes = parse_object(await request.body())
        try:
            knobs = Knobs.model_validate({**self._behaviour.knobs.model_dump(), **changes})
        except ValidationError as error:
            raise _bad_knob(error) from None
        self._behaviour.set(knobs, reseed="seed" in changes)
        return await self.show(request)

    async def restore(self, request: Request) -> Response:
        self._behaviour.set(self._first, reseed=True)
        return await self.show(request)

    async def log_page(self, request: Request) -> Response:
        after = _query(request, "after", 0)
        limit = min(_query(request, "limit", 1000), _MAX_PAGE_LINES)
        page, following = await asyncio.to_thread(self._log.page, after, limit)
        return Response(
            page, media_type="application/x-ndjson", headers={"x-next-after": str(following)}
        )

    async def stats(self, _: Request) -> Response:
        return _json(self._log.stats())

    async def reset_stats(self, _: Request) -> Response:
        self._log.reset()
        return _json(self._log.stats())


class _Guard:
    """Lets nobody past who does not bear the key."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = b""
            for name, value in scope["headers"]:
                if name == b"authorization":
                    given = value
            if not hmac.compare_digest(given, self._expected):
                refusal = Refusal(401, "Incorrect API key provided.", code="invalid_api_key")
                await _refusal_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _bad_knob(error: ValidationError) -> Refusal:
    problems = error.errors(include_url=False, include_context=False)
    paths = [".".join(str(step) for step in problem["loc"]) for problem in problems]
    text = "; ".join(
        f"{path}: {problem['msg']} (found {problem['input']!r:.100})"
        for path, problem in zip(paths, problems, strict=True)
    )
    return Refusal(400, text, param=paths[0])


def _query(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 18:
        raise Refusal(400, f"{name} must be a whole number, not {text[:100]!r}.", param=name)
    return int(text)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _refusal_response(refusal: Refusal) -> Response:
    return Response(
        refusal.body(), refusal.status, headers=refusal.headers, media_type="application/json"
    )


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _refusal_response(error)


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail}."
    return _refusal_response(Refusal(error.status_code, text, code="not_found"))
