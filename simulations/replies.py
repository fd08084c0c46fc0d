"""Reading one reply of the data plane, plain or streamed, into a record."""

from collections.abc import AsyncIterator, Callable
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import aiohttp
import orjson

from simulations.client import error_of
from simulations.records import Outcome, Record
from simulations.workload import Intent


class _Answer(NamedTuple):
    """What a reply's body said.

    result: the result object of a prompt, or the usage-bearing object of a chat
    error: (code, message) of a failure in mid-stream
    first_text_s: when the first generated text came
    complete: whether a stream ended as its protocol says
    """

    result: dict[str, Any]
    error: tuple[str, str] | None = None
    first_text_s: float | None = None
    complete: bool = True


async def read_reply(
    reply: aiohttp.ClientResponse, intent: Intent, sent_s: float, now_s: Callable[[], float]
) -> Record:
    """Reads a reply to its end.

    sent_s: when the request left, seconds from the start of the run
    now_s: the run's clock
    Raises aiohttp.ClientError or TimeoutError where the connection breaks.
    """
    if reply.status >= 400:
        code, _ = error_of(await reply.read())
        answer = _Answer({}, (code or f"http_{reply.status}", ""))
    elif intent.stream:
        answer = await _read_stream(reply, now_s)
    else:
        answer = _Answer(orjson.loads(await reply.read()))
    outcome, reason = _judge(reply, answer)
    tokens_in, tokens_out = _tokens(answer.result)
    first = answer.first_text_s
    return Record(
        intent=intent,
        outcome=outcome,
        reason=reason,
        status=reply.status,
        sent_s=sent_s,
        latency_s=now_s() - intent.at_s,
        ttft_s=None if first is None else first - intent.at_s,
        cache=reply.headers.get("x-raygate-cache", ""),
        cost_nanos=_cost_nanos(reply, answer.result),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        trace_id=_trace_id(reply, answer.result),
    )


def _judge(reply: aiohttp.ClientResponse, answer: _Answer) -> tuple[Outcome, str]:
    if answer.error is not None:
        return ("refused" if reply.status == 429 else "failed"), answer.error[0] or "error"
    if not answer.complete:
        return "failed", "stream_cut_off"
    if answer.result.get("status") == "fallback":
        return "fallback", str(answer.result.get("reason") or "")
    return "success", ""


def _tokens(result: dict[str, Any]) -> tuple[int, int]:
    usage = result.get("usage") or result.get("token_usage") or {}
    return (
        int(usage.get("prompt_tokens", usage.get("input", 0))),
        int(usage.get("completion_tokens", usage.get("output", 0))),
    )


def _cost_nanos(reply: aiohttp.ClientResponse, result: dict[str, Any]) -> int | None:
    told = reply.headers.get("x-raygate-cost-usd", result.get("cost"))
    if told is None:
        return None
    try:
        return round(Decimal(str(told)) * 10**9)
    except InvalidOperation:
        return None


def _trace_id(reply: aiohttp.ClientResponse, result: dict[str, Any]) -> str:
    told = result.get("trace_id")
    if told:
        return str(told)
    parts = reply.headers.get("traceparent", "").split("-")
    return parts[1] if len(parts) == 4 else ""


async def _read_stream(reply: aiohttp.ClientResponse, now_s: Callable[[], float]) -> _Answer:
    first_text_s: float | None = None
    result: dict[str, Any] = {}
    error: tuple[str, str] | None = None
    complete = False
    async for event, data in _events(reply):
        if data == b"[DONE]":
            complete = True
            continue
        if event == "error" or data.startswith(b'{"error"'):
            error = error_of(data)
            continue
        body = orjson.loads(data)
        if event == "result":
            result, complete = body, True
        elif event == "message" and body.get("usage"):
            result = body
        if first_text_s is None and _has_text(event, body):
            first_text_s = now_s()
    return _Answer(result, error, first_text_s, complete)


def _has_text(event: str, body: dict[str, Any]) -> bool:
    if event == "delta":
        return bool(body.get("text"))
    return any((choice.get("delta") or {}).get("content") for choice in body.get("choices") or ())


async def _events(reply: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, bytes]]:
    event, data = "message", b""
    async for line in reply.content:
        line = line.rstrip(b"\r\n")
        if line.startswith(b"event:"):
            event = line[6:].strip().decode()
        elif line.startswith(b"data:"):
            data += line[5:].strip()
        elif not line:
            if data:
                yield event, data
            event, data = "message", b""
