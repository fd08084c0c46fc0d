"""`POST /v1/prompts/{template_id}/execute`."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import orjson

from actors.errors import ProviderError, RaygateError
from deployments.api.auth import authenticate, must_be_user
from deployments.api.http import (
    JSON,
    ClientGone,
    Receive,
    Scope,
    Send,
    error_object,
    headers_of,
    parse_object,
    read_body,
    send_bytes,
    send_error,
)
from deployments.api.reading import prompt_request
from deployments.api.writing import (
    EVENT_ENDS,
    PATIENCE_S,
    count_refusal,
    finish,
    pieces,
    refusal_headers,
    reply_headers,
    send_head,
)
from deployments.deltas import listed, mapping
from deployments.idempotency import once
from deployments.pipeline import run
from deployments.replay import data_of
from deployments.request import Reply, Request
from deployments.services import Services
from deployments.telemetry.trace import new_trace


async def execute(
    services: Services, scope: Scope, receive: Receive, send: Send, template_id: str
) -> None:
    """Run a prompt template through every step."""
    headers = headers_of(scope)
    trace = new_trace(headers)
    request: Request | None = None
    try:
        key = await authenticate(services, headers)
        must_be_user(key)
        raw = await read_body(headers, receive, services.args.max_body_bytes)
        body = parse_object(raw)
        request = prompt_request(services, key, headers, body, trace, template_id)
        await once(services, request, headers, raw, send, _answer)
    except ClientGone:
        return
    except RaygateError as error:
        count_refusal(services, trace, "prompt", error, request)
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
        count_refusal(services, request.trace, "prompt", error, request)
        await send_error(send, error, refusal_headers(request.trace, request))
        return
    if request.stream:
        await _send_stream(services, request, reply, send)
    else:
        text = reply.text if reply.text is not None else text_of(reply.body)
        found = result(request, reply, text)
        finish(services, request, reply, 200)
        head = [JSON, *reply_headers(request, reply)]
        await send_bytes(send, 200, head, orjson.dumps(found))


def text_of(completion: bytes) -> str:
    """The assistant's words in a chat completion ("" where it has none)."""
    choices = orjson.loads(completion).get("choices") or [{}]
    content = (choices[0].get("message") or {}).get("content")
    return content if isinstance(content, str) else ""


def result(request: Request, reply: Reply, text: str) -> dict[str, Any]:
    """The reply's object, as the outside contract has it."""
    prompted, usage = request.prompted, reply.usage
    assert prompted is not None
    fallback = reply.text is not None
    return {
        "id": request.trace.request_id,
        "status": "fallback" if fallback else "success",
        "response": text,
        "reason": reply.reason,
        "prompt_template_id": prompted.template_id,
        "prompt_version": prompted.version,
        "variant_id": prompted.variant_id,
        "model": request.model,
        "cached": reply.cache in ("HIT", "WAIT", "STALE") and not fallback,
        "cost": 0.0 if fallback else reply.cost_nanos / 1e9,
        "token_usage": {
            "input": usage.input if usage and not fallback else 0,
            "output": usage.output if usage and not fallback else 0,
        },
        "duration": request.trace.elapsed_ns() / 1e9,
        "attempt": reply.attempts,
        "trace_id": request.trace.id,
    }


async def _send_stream(services: Services, request: Request, reply: Reply, send: Send) -> None:
    """`event: delta` per piece, then one `event: result`, or `event: error`."""
    await send_head(services, request, reply, send, reply_headers(request, reply))
    words: list[str] = []
    failed = False
    async with (
        asyncio.timeout_at(request.deadline + PATIENCE_S),
        aclosing(_events(services, request, reply)) as events,
    ):
        async for name, content in events:
            if failed:
                continue  # read to its end, as it is paid for
            failed = name == "error"
            if name == "delta":
                words.append(content["text"])
            await send(
                {"type": "http.response.body", "body": _sse(name, content), "more_body": True}
            )
    last = b"" if failed else _sse("result", result(request, reply, "".join(words)))
    if reply.live is None:
        finish(services, request, reply, 200)
    await send({"type": "http.response.body", "body": last})


def _sse(name: str, content: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(content) + b"\n\n"


async def _events(
    services: Services, request: Request, reply: Reply
) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    if reply.text is not None:
        yield "delta", {"text": reply.text}
    elif reply.live is None:
        for event in _deltas(reply.body):
            yield event
    else:
        async with aclosing(pieces(services, request, reply)) as coming:
            held: list[bytes] = []
            async for piece in coming:
                held.append(piece)
                # A very long event comes in pieces.
                if piece.endswith(EVENT_ENDS):
                    whole, held = b"".join(held), []
                    for event in _deltas(whole):
                        yield event


def _deltas(piece: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The words in some whole SSE events of OpenAI's."""
    for data in data_of(piece):
        if data == b"[DONE]":
            continue
        try:
            found = mapping(orjson.loads(data))
            if found.get("error"):
                failure = {"error": found["error"]}
                orjson.dumps(failure)  # what is nested too deeply can't be sent on
                yield "error", failure
                return
            words = _words_of(found)
        except (TypeError, ValueError):
            message = "The provider sent an event that can't be read."
            yield "error", error_object(ProviderError(message, should_retry=False))
            return
        if words:
            yield "delta", {"text": words}


def _words_of(chunk: dict[str, Any]) -> str:
    """What the first choice says in a chunk. Raises ValueError for what is none."""
    words = ""
    for choice in map(mapping, listed(chunk.get("choices") or [])):
        text = mapping(choice.get("delta") or {}).get("content") or ""
        if choice.get("index", 0) == 0:
            if not isinstance(text, str):
                raise ValueError("the content is no text")
            words += text
    return words
