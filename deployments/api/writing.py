"""From a `Reply` to HTTP: headers, bodies and streams."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from actors.errors import RaygateError
from actors.limits import LimitState
from deployments.api.http import EVENTS, JSON, Headers, Send, error_object, send_bytes
from deployments.request import Reply, Request
from deployments.services import Services
from deployments.settlement import note_interaction
from deployments.telemetry.trace import Trace

PATIENCE_S = 5.0
"""After its deadline a stream ends with an error event; a client must take it within this."""


EVENT_ENDS = (b"\n\n", b"\n\r\n")


def reply_headers(request: Request, reply: Reply) -> Headers:
    """What `http-api` promises on every answer."""
    trace = request.trace
    headers: Headers = [
        (b"x-request-id", request.trace.request_id.encode()),
        (b"x-raygate-cache", reply.cache.encode()),
        traceparent(request),
        *_attempt_headers(reply),
    ]
    if reply.reason is not None:
        headers.append((b"x-raygate-fallback", reply.reason.encode()))
    if reply.live is None:
        overhead_ms = (trace.elapsed_ns() - trace.provider_ns) / 1e6
        headers.append((b"x-raygate-cost-usd", b"%.9f" % (reply.cost_nanos / 1e9)))
        headers.append((b"x-raygate-overhead-ms", b"%.2f" % overhead_ms))
    return headers + limit_headers(reply.limits)


def _attempt_headers(reply: Reply) -> Headers:
    headers: Headers = [(b"x-raygate-attempts", b"%d" % reply.attempts)]
    if reply.target:
        headers.append((b"x-raygate-target", reply.target.encode("latin-1", "replace")))
    return headers


def traceparent(request: Request) -> tuple[bytes, bytes]:
    """The W3C header that lets the caller join our trace."""
    return (b"traceparent", f"00-{request.trace.id}-{request.id[-16:]}-01".encode())


def limit_headers(states: tuple[LimitState, ...]) -> Headers:
    """`x-ratelimit-*` of the tightest limit of either unit."""
    headers: Headers = []
    for unit, word in (("requests", b"requests"), ("tokens", b"tokens")):
        mine = [state for state in states if state.unit == unit]
        if mine:
            tightest = min(mine, key=lambda state: state.remaining / state.burst)
            headers += [
                (b"x-ratelimit-limit-" + word, b"%d" % tightest.burst),
                (b"x-ratelimit-remaining-" + word, b"%d" % tightest.remaining),
                (b"x-ratelimit-reset-" + word, b"%.3fs" % (tightest.reset_ns / 1e9)),
            ]
    return headers


async def send_chat(services: Services, request: Request, reply: Reply, send: Send) -> None:
    """A chat completion, plain or as a stream."""
    headers = reply_headers(request, reply)
    if reply.live is None:
        kind = EVENTS if reply.kind == "sse" else JSON
        try:
            await send_bytes(send, 200, [kind, *headers], reply.body)
        finally:
            # What is written down of it does not keep its client waiting.
            finish(services, request, reply, 200)
        return
    await send_head(services, request, reply, send, headers)
    # A client that stops reading holds the line no longer than its request may take.
    async with (
        asyncio.timeout_at(request.deadline + PATIENCE_S),
        aclosing(pieces(services, request, reply)) as coming,
    ):
        async for piece in coming:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def send_head(
    services: Services, request: Request, reply: Reply, send: Send, headers: Headers
) -> None:
    """The beginning of an event stream; a client that leaves here is gone as one in mid-stream."""
    try:
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS, *headers]})
    except BaseException:
        if reply.live is not None:
            services.spawn(_drain(services, request, reply, 499), "drain")
        raise


async def pieces(services: Services, request: Request, reply: Reply) -> AsyncGenerator[bytes, None]:
    """What a live stream brings, and an error event where it breaks off.

    When the client leaves, the stream is read to its end without it: it is paid for.
    """
    live = reply.live
    assert live is not None
    outcome = 200
    last = b""
    began = request.trace.elapsed_ns()
    try:
        while (piece := await live.piece()) is not None:
            if piece:
                last = piece
                yield piece
    except RaygateError as error:
        outcome = error.status
        # A very long event may have been cut off in its middle.
        end = b"" if not last or last.endswith(EVENT_ENDS) else b"\n\n"
        yield end + b"data: " + orjson.dumps(error_object(error)) + b"\n\n"
    except (asyncio.CancelledError, GeneratorExit):
        outcome = 499
        raise
    finally:
        trace = request.trace
        trace.provider_ns += trace.elapsed_ns() - began
        trace.step("stream", began)
        if live.finished:
            finish(services, request, reply, outcome)
        else:
            services.spawn(_drain(services, request, reply, outcome), "drain")


async def _drain(services: Services, request: Request, reply: Reply, outcome: int) -> None:
    assert reply.live is not None
    await reply.live.drain(services.args.drain_s)
    finish(services, request, reply, outcome)


def finish(
    services: Services, request: Request, reply: Reply, status: int, code: str | None = None
) -> None:
    """Close the trace, count the request."""
    trace = request.trace
    if reply.live is not None:
        reply.usage = reply.live.usage
        reply.cost_nanos += reply.live.cost_nanos
    outcome = reply.reason or code or ("client_gone" if status == 499 else "success")
    _count(services, request, reply, outcome)
    note_interaction(services, request, reply, failed=status not in (200, 499))
    trace.step("answer", trace.elapsed_ns())
    facts = trace.facts
    facts |= {
        "model": request.model,
        "target": reply.target,
        "attempts": reply.attempts,
        "cache": reply.cache,
        "status": status,
        "outcome": outcome,
        "cost_nanos": reply.cost_nanos,
        "tokens": list(reply.usage) if reply.usage else [],
    }
    services.finish(trace)


def _count(services: Services, request: Request, reply: Reply, outcome: str) -> None:
    metrics = services.metrics
    metrics.count("raygate_requests_total", request.endpoint, request.model[:100], outcome)
    metrics.count("raygate_cache_total", reply.cache)
    if reply.reason is not None:
        metrics.count("raygate_fallbacks_total", reply.reason)
    metrics.observe(request.trace.elapsed_ns() / 1e9)


def count_refusal(
    services: Services,
    trace: Trace,
    endpoint: str,
    error: RaygateError,
    request: Request | None,
) -> None:
    """A request that ended in an error, before the pipeline or within it."""
    services.metrics.count("raygate_requests_total", endpoint, "", error.code)
    facts = trace.facts
    facts |= {"endpoint": endpoint, "status": error.status, "outcome": error.code}
    facts["error"] = error.message
    if request is not None:
        facts["model"] = request.model
        reply = request.reply
        if reply is not None:
            note_interaction(services, request, reply, failed=True)
            facts |= {"target": reply.target, "attempts": reply.attempts, "cache": reply.cache}
            facts["cost_nanos"] = reply.cost_nanos
    trace.step("answer", trace.elapsed_ns())
    services.finish(trace)


def refusal_headers(trace: Trace, request: Request | None) -> Headers:
    """What an error carries beside its own headers."""
    if request is None:
        return [
            (b"x-request-id", (trace.request_id or trace.id).encode()),
            (b"traceparent", f"00-{trace.id}-{trace.id[-16:]}-01".encode()),
        ]
    headers: Headers = [(b"x-request-id", trace.request_id.encode()), traceparent(request)]
    reply = request.reply
    if reply is not None:
        headers += _attempt_headers(reply) + limit_headers(reply.limits)
        if reply.cost_nanos:
            headers.append((b"x-raygate-cost-usd", b"%.9f" % (reply.cost_nanos / 1e9)))
    return headers
