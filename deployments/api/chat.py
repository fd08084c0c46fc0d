"""`POST /v1/chat/completions` and `GET /v1/models`."""

import asyncio

from actors.errors import RaygateError
from deployments.api.auth import authenticate, must_be_user
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
from deployments.api.reading import chat_request
from deployments.api.writing import count_refusal, refusal_headers, send_chat
from deployments.idempotency import once
from deployments.pipeline import run
from deployments.request import Request
from deployments.services import Services
from deployments.telemetry.trace import new_trace


async def chat_completions(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """OpenAI's chat completions, plain and streaming."""
    headers = headers_of(scope)
    trace = new_trace(headers)
    request: Request | None = None
    try:
        key = await authenticate(services, headers)
        must_be_user(key)
        raw = await read_body(headers, receive, services.args.max_body_bytes)
        request = chat_request(services, key, headers, parse_object(raw), trace, len(raw))
        await once(services, request, headers, raw, send, _answer)
    except ClientGone:
        return
    except RaygateError as error:
        count_refusal(services, trace, "chat", error, request)
        await send_error(send, error, refusal_headers(trace, request))


async def _answer(services: Services, request: Request, send: Send) -> None:
    try:
        reply = await run(services, request)
    except asyncio.CancelledError:
        if not request.calling:
            request.trace.facts["outcome"] = "client_gone"
            services.finish(request.trace)
        raise
    except RaygateError as error:
        count_refusal(services, request.trace, "chat", error, request)
        await send_error(send, error, refusal_headers(request.trace, request))
        return
    await send_chat(services, request, reply, send)


async def list_models(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """The models that this key may use."""
    try:
        key = await authenticate(services, headers_of(scope))
    except RaygateError as error:
        await send_error(send, error)
        return
    routes = services.policy.routes if services.policy is not None else {}
    models = [
        {"id": name, "object": "model", "created": 0, "owned_by": "raygate"}
        for name in routes
        if not key.models or name in key.models
    ]
    await send_json(send, {"object": "list", "data": models})
