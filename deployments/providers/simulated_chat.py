"""The simulated provider's chat endpoint: one call from its first byte to its last."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from .simulated_knobs import Behaviour, Fate, Knobs
from .simulated_line import ClientGone, Line
from .simulated_log import CallLog, OpenCall
from .simulated_request import ChatRequest, Refusal, check_chat, parse_object
from .simulated_text import Reply, compose, count_prompt

_MAX_EVENTS_PER_SEND = 64
_SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@dataclass(frozen=True, slots=True)
class _Told:
    """A call that will be answered: what is asked, what is said, what it costs."""

    request: ChatRequest
    reply: Reply
    fate: Fate
    knobs: Knobs
    usage: dict[str, Any]
    id: str
    created: int


class ChatCompletions:
    """The endpoint, as an ASGI application.

    behaviour: what happens to calls. log: where they are recorded.
    models: the names that are known.
    """

    def __init__(self, behaviour: Behaviour, log: CallLog, models: dict[str, int]) -> None:
        self._behaviour = behaviour
        self._log = log
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call, and have its end on record whichever way it ends."""
        line = Line(receive, send)
        try:
            body = await line.body()
        except ClientGone:
            return
        headers = {name: value for name, value in scope["headers"] if name[:9] == b"x-raygate"}
        raw, refusal = _parsed(body)
        model = raw.get("model")
        call = self._log.begin(
            charge_id=_text(headers.get(b"x-raygate-charge-id")),
            admitted_ns=_stamp(headers.get(b"x-raygate-admitted-ns")),
            probe=headers.get(b"x-raygate-probe") == b"1",
            model=model if isinstance(model, str) else None,
            stream=raw.get("stream") is True,
            question=_question(raw.get("messages")),
        )
        try:
            if refusal is not None:
                raise refusal
            await self._serve(raw, line, call)
        except Refusal as error:
            call.outcome = "throttled" if error.status == 429 else "error"
            call.status = error.status
            await line.reply(error.status, error.body(), error.headers)
        except ClientGone:
            pass
        except Exception:
            call.outcome, call.status = "error", 500
            raise
        finally:
            self._log.end(call)
            line.close()

    async def _serve(self, raw: dict[str, Any], line: Line, call: OpenCall) -> None:
        request = check_chat(raw, self._models)
        knobs, fate = self._behaviour.knobs, self._behaviour.decide()
        if fate.verdict == "error":
            await line.wait(knobs.error_after_s)
            raise Refusal(knobs.error_status, "The simulated provider failed.", "server_error")
        if fate.verdict == "throttled":
            await line.wait(knobs.error_after_s)
            raise _throttled(knobs.retry_after_s)
        if fate.verdict == "hang":
            call.outcome = "hang"
            await line.wait(knobs.hang_s)
            await line.cut()
        elif fate.verdict == "reset" and knobs.reset_at == "before":
            call.outcome = "reset"
            await line.cut()
        else:
            told = _tell(request, knobs, fate)
            call.input_tokens = told.usage["prompt_tokens"]
            if request.stream:
                await _stream(told, line, call)
            else:
                await _plain(told, line, call)


def _tell(request: ChatRequest, knobs: Knobs, fate: Fate) -> _Told:
    try:
        prompt = knobs.input_tokens if knobs.input_tokens is not None else count_prompt(request.raw)
        reply = compose(
            request.raw, knobs.output_tokens, request.max_tokens, knobs.fill_max_tokens, knobs.seed
        )
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise Refusal(400, f"Malformed messages, tools or response format: {error}") from None
    output = len(reply.pieces) * request.choices
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {
            "cached_tokens": min(knobs.cached_tokens, prompt),
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    return _Told(
        request, reply, fate, knobs, usage, f"chatcmpl-{secrets.token_urlsafe(20)}", int(time())
    )


async def _plain(told: _Told, line: Line, call: OpenCall) -> None:
    reply, fate = told.reply, told.fate
    count = len(reply.pieces)
    begun = line.now()
    try:
        await line.wait(fate.ttft_s + (count - 1) * fate.token_gap_s)
    except (ClientGone, asyncio.CancelledError):
        spent = line.now() - begun - fate.ttft_s
        if spent >= 0 and fate.token_gap_s:
            produced = min(count, int(spent / fate.token_gap_s) + 1)
            call.output_tokens = produced * told.request.choices
        raise
    call.output_tokens = told.usage["completion_tokens"]
    text = "".join(reply.pieces)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if reply.tool is not None:
        message["content"] = None
        message["tool_calls"] = [_tool_call(told, text)]
    body = orjson.dumps(
        {
            "id": told.id,
            "object": "chat.completion",
            "created": told.created,
            "model": told.request.model,
            "choices": [
                {"index": i, "message": message, "logprobs": None, "finish_reason": reply.finish}
                for i in range(told.request.choices)
            ],
            "usage": told.usage,
            "service_tier": "default",
            "system_fingerprint": "fp_simulated",
        }
    )
    if fate.verdict == "reset":
        await line.start(200, {"content-length": str(len(body))})
        await line.piece(body[: int(len(body) * fate.cut_at)])
        call.outcome, call.status = "reset", 200
        return
    await line.reply(200, body, {})
    call.outcome, call.status = "ok", 200


async def _stream(told: _Told, line: Line, call: OpenCall) -> None:
    reply, fate, choices = told.reply, told.fate, told.request.choices
    count = len(reply.pieces)
    # At least one event comes before a reset and at least one is missing after it.
    end = int(fate.cut_at * count) if fate.verdict == "reset" else count
    event = _event_maker(told)
    line.watch()
    begun = line.now() + fate.ttft_s
    await line.until(begun)
    await line.start(200, _SSE)
    opening: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    if reply.tool is not None:
        opening = {"role": "assistant", "content": None, "tool_calls": [_tool_call(told, "")]}
    ready = b"".join(event(i, opening, None) for i in range(choices))
    said = 0
    while said < end:
        await line.until(begun + said * fate.token_gap_s)
        due = end if not fate.token_gap_s else int((line.now() - begun) / fate.token_gap_s) + 1
        upto = min(max(due, said + 1), said + _MAX_EVENTS_PER_SEND, end)
        parts = [ready]
        for piece in reply.pieces[said:upto]:
            delta: dict[str, Any] = {"content": piece}
            if reply.tool is not None:
                delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
            parts += [event(i, delta, None) for i in range(choices)]
        ready = b""
        said = upto
        call.output_tokens = said * choices
        await line.piece(b"".join(parts))
    if fate.verdict == "reset":
        await line.piece(ready)
        call.outcome, call.status = "reset", 200
        return
    parts = [ready, *(event(i, {}, reply.finish) for i in range(choices))]
    if told.request.include_usage:
        parts.append(event(None, {}, None))
    await line.piece(b"".join([*parts, b"data: [DONE]\n\n"]), last=True)
    call.outcome, call.status = "ok", 200


def _event_maker(told: _Told) -> Callable[[int | None, dict[str, Any], str | None], bytes]:
    """Makes chunk events; with None for an index the one that carries the usage."""
    head = orjson.dumps(
        {
            "id": told.id,
            "object": "chat.completion.chunk",
            "created": told.created,
            "model": told.request.model,
            "service_tier": "default",
            "system_fingerprint": "fp_simulated",
        }
    )[:-1]
    tail = b',"usage":null}\n\n' if told.request.include_usage else b"}\n\n"

    def event(index: int | None, delta: dict[str, Any], finish: str | None) -> bytes:
        if index is None:
            usage = orjson.dumps(told.usage)
            return b'data: %b,"choices":[],"usage":%b}\n\n' % (head, usage)
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b'data: %b,"choices":[%b]%b' % (head, orjson.dumps(choice), tail)

    return event


def _tool_call(told: _Told, arguments: str) -> dict[str, Any]:
    call: dict[str, Any] = {
        "id": f"call_{told.id[9:]}",
        "type": "function",
        "function": {"name": told.reply.tool, "arguments": arguments},
    }
    return {"index": 0, **call} if told.request.stream else call


def _throttled(retry_after_s: float) -> Refusal:
    return Refusal(
        429,
        "The simulated provider is throttling.",
        "rate_limit_error",
        "rate_limit_exceeded",
        headers={
            "retry-after": str(-int(-retry_after_s // 1)),
            "retry-after-ms": str(round(retry_after_s * 1000)),
        },
    )


def _parsed(body: bytes) -> tuple[dict[str, Any], Refusal | None]:
    try:
        return parse_object(body), None
    except Refusal as refusal:
        return {}, refusal


def _question(messages: Any) -> str:
    """By which a log's reader knows the same question again: 64 bits of a hash, in hex."""
    try:
        return hashlib.blake2b(orjson.dumps(messages), digest_size=8).hexdigest()
    except TypeError:
        # Nested too deeply; the call is answered, or refused, all the same.
        return ""


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _stamp(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else None
