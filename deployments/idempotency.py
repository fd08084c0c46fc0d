"""`idempotency-key`: a request that comes again is run once, and its reply is sent again.

Every reply below 400 is kept for the repeats as it was sent, and so is an error of a request
that was charged. An error that cost nothing makes the key free: a repeat runs anew.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from actors.cache_entries import Entry
from actors.cache_flights import Unanswered
from actors.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotAllowed,
    RaygateError,
    SingletonUnavailable,
)
from actors.repeats import Begun, Repeated
from deployments.api.http import EVENTS, Headers, Message, Send, send_bytes
from deployments.api.writing import finish, traceparent
from deployments.request import Reply, Request
from deployments.services import Services

Answer = Callable[[Services, Request, Send], Awaitable[None]]
"""Takes a request through the pipeline and sends what comes of it, errors included."""

_HEADER = b"idempotency-key"
_MAX_KEY = 255
# What a reply says of its content; the rest is about the request that it answered.
_SENT_AGAIN = frozenset(
    {
        b"content-type",
        b"x-raygate-cache",
        b"x-raygate-target",
        b"x-raygate-attempts",
        b"x-raygate-fallback",
    }
)


async def once(
    services: Services,
    request: Request,
    headers: dict[bytes, bytes],
    raw: bytes,
    send: Send,
    answer: Answer,
) -> None:
    """Answer a request, or, where its `idempotency-key` came before, as that one was answered.

    raw: its body, which a repeat has to have too.
    The first request goes on when its client leaves: it may come back for the reply.
    Raises IdempotencyMismatch, Conflict (the reply is not kept any more), InvalidRequest for
    a bad key, DeadlineExceeded or SingletonUnavailable while it waits; nothing is sent then.
    """
    given = headers.get(_HEADER)
    if given is None:
        await answer(services, request, send)
        return
    began = request.trace.elapsed_ns()
    id, key = services.mint(), _key(request, given)
    found = await _begin(services, request, id, key, _digest(request, raw))
    request.trace.step("repeat", began)
    if isinstance(found, Repeated):
        await _send_again(services, request, found.entry, send)
    elif isinstance(found, Begun):
        sent = _Recorder(send, _room(services))
        work = services.spawn(_first(services, request, id, key, sent, answer), "first of a key")
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            sent.client = None
            raise
    elif isinstance(found, Unanswered):
        raise _too_late(services)
    else:
        raise Conflict(
            "The first request with this idempotency-key may have been charged, and its reply is "
            "not kept any more. Take a new key to ask again.",
            param="idempotency-key",
            should_retry=False,
        )


def _key(request: Request, given: bytes) -> str:
    """The key of this tenant at this endpoint, in bounded length. Raises InvalidRequest."""
    if not 1 <= len(given) <= _MAX_KEY:
        raise InvalidRequest(
            f"idempotency-key must have 1 to {_MAX_KEY} characters.", param="idempotency-key"
        )
    name = repr((request.tenant, request.endpoint, given))
    return hashlib.sha256(name.encode()).hexdigest()


def _digest(request: Request, raw: bytes) -> bytes:
    template = request.prompt.template_id if request.prompt is not None else ""
    return hashlib.sha256(repr(template).encode() + b"\0" + raw).digest()


async def _begin(services: Services, request: Request, id: str, key: str, digest: bytes) -> Any:
    """The singleton's word; on a repeat, once the first request has ended."""
    left_s = max(request.deadline - asyncio.get_running_loop().time(), 0.0)
    try:
        async with asyncio.timeout_at(request.deadline):
            return await services.cache.ask("repeat_begin", id, key, digest, round(left_s * 1e9))
    except TimeoutError:
        services.cache.tell("repeat_leave", key, id)
        raise _too_late(services) from None
    except asyncio.CancelledError:
        services.cache.tell("repeat_leave", key, id)
        request.trace.facts["outcome"] = "client_gone"
        services.finish(request.trace)
        raise


def _too_late(services: Services) -> RaygateError:
    if not (services.cache.reachable and services.cache.fresh()):
        return SingletonUnavailable(
            "response_cache, which knows the idempotency keys, did not answer in time; it is "
            "being restarted.",
            retry_after_s=2.0,
        )
    return DeadlineExceeded(
        "The first request with this idempotency-key still runs, and this one's time is over. "
        "Ask again later, or for more time with x-raygate-timeout.",
        should_retry=False,
    )


async def _first(
    services: Services, request: Request, id: str, key: str, sent: "_Recorder", answer: Answer
) -> None:
    """Run it, and tell those who follow what came of it."""
    try:
        await answer(services, request, sent)
    finally:
        charged = _may_be_charged(request)
        if charged or (sent.whole and sent.status < 400):
            services.cache.tell("repeat_finish", key, id, sent.entry(request.model))
        else:
            services.cache.tell("repeat_leave", key, id)


def _may_be_charged(request: Request) -> bool:
    """Whether a provider was paid, or still works on it while its client has its reply."""
    reply = request.reply
    if request.calling or reply is None:
        return request.calling
    return reply.cost_nanos > 0 or reply.live is not None


def _room(services: Services) -> int:
    return services.policy.policy.cache.max_entry_bytes if services.policy is not None else 0


async def _send_again(services: Services, request: Request, entry: Entry, send: Send) -> None:
    status, model = entry.meta["status"], entry.meta["model"]
    if request.key.models and model not in request.key.models:
        raise NotAllowed(f"This key may not use {model}.", param="model")
    request.model = model
    headers: Headers = [(name, value) for name, value in entry.meta["headers"]]
    headers += [
        (b"x-request-id", request.id.encode()),
        traceparent(request),
        (b"idempotency-replayed", b"true"),
    ]
    if status >= 400:
        headers.append((b"x-should-retry", b"false"))
    elif entry.kind == "json":
        headers.append((b"x-raygate-cost-usd", b"0.000000000"))
    finish(services, request, Reply(cache="BYPASS"), status, code="replayed")
    await send_bytes(send, status, headers, entry.body)


class _Recorder:
    """A `send` that keeps what it sends, and goes on when nobody is there to be sent to.

    client: where it goes; None: nobody is there any more. room: bytes that may be kept.
    status, whole: of the reply so far; whole once its last byte came.
    """

    def __init__(self, client: Send, room: int) -> None:
        self.client: Send | None = client
        self.status = 0
        self.whole = False
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._room = room

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self._headers = message["status"], message["headers"]
        else:
            self._keep(message.get("body", b""))
            self.whole = not message.get("more_body", False)
        if self.client is not None:
            try:
                await self.client(message)
            except Exception:
                # Others may wait for this reply, and the client itself may come back for it.
                self.client = None

    def entry(self, model: str) -> Entry | None:
        """The reply for repeats; None where there is no whole one, or it is too large."""
        if not self.whole or self._room < 0:
            return None
        headers = [pair for pair in self._headers if pair[0] in _SENT_AGAIN]
        meta = {"status": self.status, "headers": headers, "model": model}
        return Entry(b"".join(self._parts), "sse" if EVENTS in headers else "json", meta)

    def _keep(self, part: bytes) -> None:
        self._room -= len(part)
        if self._room < 0:
            self._parts.clear()
        else:
            self._parts.append(part)
