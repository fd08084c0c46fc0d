"""Steps 6 to 8, for each attempt on each target: admit, call, settle."""

import asyncio
import time
from collections.abc import Callable

import orjson

from actors.breaker_messages import Permit
from actors.charges import Usage
from actors.errors import (
    InvalidRequest,
    Overloaded,
    ProviderUnavailable,
    RaygateError,
)
from deployments.admission import Admission, admit, give_back
from deployments.permits import pass_breaker
from deployments.places import must_have_room, take_place
from deployments.policy import Target
from deployments.prompting import count_input
from deployments.providers.base import Call, ProviderFailure, StreamAnswer
from deployments.providers.sse import MAX_EVENT_BYTES, StreamTail, has_event, opening_error
from deployments.request import Reply, Request
from deployments.retries import backoff_s
from deployments.services import Services
from deployments.settlement import Settlement, estimated_usage, usage_of
from deployments.stream import LiveStream
from deployments.verdict import (
    AttemptFailed,
    are_choices,
    bad_answer,
    failed,
    must_be_events,
    no_completion,
    quote,
)

Keep = Callable[[bytes | None, Usage, str], None]
"""Told once what there is to be cached: (body or None, usage, "json" or "sse")."""


async def call_targets(
    services: Services, request: Request, targets: list[Target], reply: Reply, keep: Keep
) -> None:
    """Try the targets in order until one answers; `reply` is filled in as things are known.

    Raises what the last attempt failed of, or what step 6 refused with.
    """
    assert services.policy is not None
    retries = services.policy.policy.retries
    loop = asyncio.get_running_loop()
    error: RaygateError | None = None
    for target in targets:
        after_s: float | None = None
        for nth in range(retries.attempts):
            if nth > 0:
                pause_s = backoff_s(nth, retries.base_s, retries.cap_s, after_s)
                if request.gone or loop.time() + pause_s >= request.deadline:
                    break
                if not services.retry_budget(target.name).may_retry():
                    break
                await asyncio.sleep(pause_s)
            else:
                services.retry_budget(target.name).called()
            try:
                await _attempt(services, request, target, reply, keep)
                return
            except Overloaded as full:
                error = full
                break
            except AttemptFailed as failure:
                error, after_s = failure.error, failure.after_s
                if not failure.retryable or request.gone:
                    break
        if isinstance(error, InvalidRequest) or request.gone:
            break
    assert error is not None
    raise error


async def _attempt(
    services: Services, request: Request, target: Target, reply: Reply, keep: Keep
) -> None:
    trace = request.trace
    began = trace.elapsed_ns()
    must_have_room(services, request, target)
    await count_input(request)
    body = _body(request, target)
    admission = await admit(services, request, target, again=reply.attempts > 0)
    began = trace.step("admission", began)
    reply.limits += admission.limits
    charge_id = admission.charge_id
    place = None
    try:
        place = take_place(services, request, target)
        services.calls.started(charge_id, admission.facts, admission.worst_nanos, admission.held)
        permit = await _permit(services, request, target, charge_id)
    except BaseException:
        if place is not None:
            place.leave()
        services.calls.never_was(charge_id)
        give_back(services, admission)
        raise
    settlement = Settlement(services, request, target, admission, permit, place)
    call = _call(request, target, admission, permit.probe, body)
    reply.attempts += 1
    reply.target = target.name
    request.calling = True
    try:
        if request.stream:
            await _stream(services, request, target, call, settlement, reply, keep)
        else:
            await _plain(services, request, target, call, settlement, reply, keep)
    except (AttemptFailed, RaygateError):
        raise
    except BaseException:
        settlement.abandoned()
        raise
    finally:
        trace.provider_ns += trace.elapsed_ns() - began
        began = trace.step("provider", began)
        request.calling = False
        reply.cost_nanos += settlement.cost_nanos
        trace.step("settle", began)


async def _permit(services: Services, request: Request, target: Target, charge_id: str) -> Permit:
    try:
        return await pass_breaker(services, request, target, charge_id)
    except ProviderUnavailable as barred:
        raise AttemptFailed(barred, retryable=False) from None


def _body(request: Request, target: Target) -> bytes:
    """What goes out, made before anything is held for it."""
    request.body["model"] = target.model
    try:
        return orjson.dumps(request.body)
    except TypeError as error:
        raise InvalidRequest(f"The request can't be passed on: {error}.") from None


def _call(request: Request, target: Target, admission: Admission, probe: bool, body: bytes) -> Call:
    headers = {
        "x-raygate-charge-id": admission.charge_id,
        "x-raygate-admitted-ns": str(admission.stamp_ns or request.trace.facts.get("stamp_ns", 0)),
        "x-request-id": request.id,
    }
    if probe:
        headers["x-raygate-probe"] = "1"
    return Call("/chat/completions", body, headers, target.timeout_s)


async def _plain(
    services: Services,
    request: Request,
    target: Target,
    call: Call,
    settlement: Settlement,
    reply: Reply,
    keep: Keep,
) -> None:
    try:
        answer = await services.providers[target.provider].send(call)
    except ProviderFailure as failure:
        settlement.lost(failure.kind)
        raise failed(failure) from None
    if answer.status != 200:
        raise bad_answer(answer.status, answer.headers, answer.body, target, settlement)
    try:
        content = orjson.loads(answer.body)
        told = usage_of(content.get("usage"))
        sound = are_choices(content.get("choices"))
    except (orjson.JSONDecodeError, AttributeError):
        sound = False
    if not sound:
        raise no_completion(target, "something else than a completion", settlement)
    usage = settlement.succeeded(told, estimated_usage(request, answer), answer.first_byte_ns)
    reply.body, reply.kind, reply.usage = answer.body, "json", usage
    keep(answer.body, usage, "json")


async def _stream(
    services: Services,
    request: Request,
    target: Target,
    call: Call,
    settlement: Settlement,
    reply: Reply,
    keep: Keep,
) -> None:
    """Up to the first event: until then an attempt may still fail and be followed by another."""
    assert services.policy is not None
    began_ns = time.monotonic_ns()
    source = None
    try:
        async with asyncio.timeout(target.timeout_s):
            source = await services.providers[target.provider].stream(call)
            first = await _first_events(source, target) if source.status == 200 else b""
    except BaseException as error:
        if source is not None:
            await source.aclose()
        if isinstance(error, TimeoutError):
            text = f"provider {target.provider} did not begin to answer"
            error = ProviderFailure("timeout", text)
        if not isinstance(error, ProviderFailure):
            raise
        settlement.lost(error.kind)
        raise failed(error) from None
    if source.status != 200:
        raise bad_answer(source.status, source.headers, source.body, target, settlement)
    live = LiveStream(
        source,
        first,
        time.monotonic_ns() - began_ns,
        StreamTail(keep_usage=request.include_usage),
        settlement,
        request.deadline,
        request.input_tokens,
        usage_of,
        services.policy.policy.cache.max_entry_bytes,
        lambda body, usage: keep(body, usage, "sse"),
    )
    reply.live, reply.kind = live, "sse"
    if request.gone:
        await live.drain(services.args.drain_s)


async def _first_events(source: StreamAnswer, target: Target) -> bytes:
    """What there is when the first event is whole, or known to be a very long one."""
    must_be_events(source.headers, target)
    found = await source.read()
    while not has_event(found) and len(found) < MAX_EVENT_BYTES:
        more = await source.read()
        if not more:
            raise ProviderFailure("reset", f"provider {target.provider} sent no event")
        found += more
    if b'"error"' in found and (error := opening_error(found)):
        raise ProviderFailure("reset", f"provider {target.provider} failed: {quote(error)}")
    return found
