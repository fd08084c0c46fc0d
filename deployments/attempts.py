"""Steps 6 to 8, for each attempt on each target: admit, call, settle."""

import asyncio
import time
from collections.abc import Callable

import orjson

from actors.breaker_messages import IGNORED, Barred, Permit
from actors.charges import Usage
from actors.errors import (
    InvalidRequest,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RaygateError,
)
from deployments.admission import Admission, admit, give_back
from deployments.places import must_have_room, take_place
from deployments.policy import Target
from deployments.prompting import count_input
from deployments.providers.base import Call, ProviderFailure, outcome_of, retry_after_s
from deployments.providers.sse import StreamTail
from deployments.request import Reply, Request
from deployments.retries import backoff_s
from deployments.services import Services
from deployments.settlement import Settlement, estimated_usage, usage_of
from deployments.stream import LiveStream

Keep = Callable[[bytes | None, Usage, str], None]
"""Told once what there is to be cached: (body or None, usage, "json" or "sse")."""

# What a client did wrong is told to it as such; the rest (our key is refused, the target's
# model is gone, ...) is ours, and another target may do better.
_CLIENTS_FAULT = (400, 413, 415, 422)
_RETRYABLE = frozenset({408, 429, 529})
# The breaker hears of a Retry-After a batch later than we do, and lets nobody by before.
_REST_MARGIN_S = 0.1


class _Failed(Exception):
    """One attempt brought no answer. retryable: the same target may be tried again."""

    def __init__(self, error: RaygateError, retryable: bool, after_s: float | None = None) -> None:
        super().__init__(error, retryable, after_s)
        self.error = error
        self.retryable = retryable
        self.after_s = after_s


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
            except _Failed as failed:
                error, after_s = failed.error, failed.after_s
                if not failed.retryable or request.gone:
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
        permit = await _pass_breaker(services, request, target, admission)
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
    except BaseException as error:
        settlement.abandoned()
        # Where no connection was free there was no call.
        reply.attempts -= isinstance(error, Overloaded)
        raise
    finally:
        trace.provider_ns += trace.elapsed_ns() - began
        began = trace.step("provider", began)
        request.calling = False
        reply.cost_nanos += settlement.cost_nanos
        trace.step("settle", began)


async def _pass_breaker(
    services: Services, request: Request, target: Target, admission: Admission
) -> Permit:
    """The last thing before a call. Closed, by a fresh view: no question asked."""
    breaker = services.breaker
    view = breaker.view.get(target.name)
    if breaker.fresh():
        if view is None:
            return Permit(0, False)
        if view.retry_after_ns == 0 and view.state in ("closed", "forced_closed"):
            return Permit(view.generation, False)
    permit_id = admission.charge_id
    try:
        found = await breaker.ask("permit", permit_id, target.name)
    except BaseException:
        breaker.tell("report", target.name, 0, IGNORED, 0, permit_id, None)
        raise
    if isinstance(found, Barred):
        after_s = found.retry_after_ns / 1e9
        error = ProviderUnavailable(
            f"{target.name} is {found.state.replace('_', ' ')} after failures; "
            f"try again in {after_s:.3g} s.",
            retry_after_s=after_s,
        )
        raise _Failed(error, retryable=False)
    permit: Permit = found
    return permit


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
        raise _failed(failure) from None
    if answer.status != 200:
        raise _bad_answer(answer.status, answer.headers, answer.body, target, settlement)
    try:
        content = orjson.loads(answer.body)
        told = usage_of(content.get("usage"))
        sound = all(isinstance(choice, dict) for choice in content["choices"])
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        sound = False
    if not sound:
        settlement.lost("reset")
        message = f"provider {target.provider} answered with something else than a completion"
        raise _failed(ProviderFailure("reset", message))
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
    """Up to the first byte: until then an attempt may still fail and be followed by another."""
    assert services.policy is not None
    began_ns = time.monotonic_ns()
    source = None
    try:
        async with asyncio.timeout(target.timeout_s):
            source = await services.providers[target.provider].stream(call)
            first = await source.read() if source.status == 200 else b""
        if source.status == 200 and not first:
            raise ProviderFailure("reset", f"provider {target.provider} sent an empty stream")
    except BaseException as error:
        if source is not None:
            await source.aclose()
        if isinstance(error, TimeoutError):
            text = f"provider {target.provider} did not begin to answer"
            error = ProviderFailure("timeout", text)
        if not isinstance(error, ProviderFailure):
            raise
        settlement.lost(error.kind)
        raise _failed(error) from None
    if source.status != 200:
        raise _bad_answer(source.status, source.headers, source.body, target, settlement)
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


def _failed(failure: ProviderFailure) -> _Failed | Overloaded:
    if failure.kind == "full":
        return Overloaded(f"This replica has too much under way: {failure.message}.")
    kind = ProviderTimeout if failure.kind == "timeout" else ProviderError
    charged = failure.kind != "connect"
    error = kind(f"The provider failed: {failure.message}.", should_retry=not charged)
    return _Failed(error, retryable=True)


def _bad_answer(
    status: int, headers: dict[str, str], body: bytes, target: Target, settlement: Settlement
) -> _Failed:
    """An answer that is an error: quoted, classified, settled at no cost."""
    after_s = retry_after_s(headers, time.time_ns())
    settlement.answered_badly(status, after_s)
    # Who refuses our key may repeat it.
    quoted = "it refuses our credentials" if status in (401, 403) else _quote(body)
    if status in _CLIENTS_FAULT:
        return _Failed(InvalidRequest(f"The provider refuses this request: {quoted}"), False)
    if outcome_of(status) == "throttled":
        error = ProviderError(
            f"{target.name} is at its provider's own limit: it answered {status}: {quoted}",
            retry_after_s=after_s or 1.0,
        )
        return _Failed(error, True, (after_s or 0.0) + _REST_MARGIN_S)
    error = ProviderError(f"{target.name} answered {status}: {quoted}")
    return _Failed(error, status in _RETRYABLE or status >= 500, after_s)


def _quote(body: bytes) -> str:
    """The message within an error's body, cut to what a person reads."""
    try:
        message = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = body.decode("utf-8", "replace")
    return str(message)[:500] or "no reason given"
