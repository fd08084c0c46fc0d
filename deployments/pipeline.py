"""The nine steps of a request, in order, top to bottom.

1 trace · 2 prompt · 3 circuit breakers · 4 request limits · 5 cache · 6 admission ·
7 provider call · 8 settle · 9 answer or fallback
"""

import asyncio
import logging

from actors.cache_flights import Hit
from actors.charges import Usage
from actors.errors import (
    DeadlineExceeded,
    InsufficientQuota,
    Overloaded,
    ProviderError,
    ProviderUnavailable,
    RateLimitExceeded,
    RaygateError,
    SingletonUnavailable,
    StorageFull,
)
from deployments.admission import RequestLimits
from deployments.attempts import call_targets
from deployments.caching import CacheStep, fill_in
from deployments.policy import Target
from deployments.prompting import prepare
from deployments.request import Reply, Request
from deployments.services import Services
from deployments.settlement import note_interaction

# What a stale answer or a fallback text may stand in for; everything else is told as it is.
_REASONS: tuple[tuple[type[RaygateError], str], ...] = (
    (RateLimitExceeded, "rate_limited"),
    (InsufficientQuota, "budget_exhausted"),
    (ProviderUnavailable, "circuit_breaker_open"),
    (ProviderError, "provider_error"),
    (DeadlineExceeded, "provider_error"),
)
_OURS = (SingletonUnavailable, StorageFull)

log = logging.getLogger(__name__)


async def run(services: Services, request: Request) -> Reply:
    """Take one request through the steps; step 1, its trace, has begun when it was read.

    Raises RaygateError: what the client is told. A fallback is a Reply with a `reason`.
    """
    request.reply = reply = Reply()
    request.trace.step("trace", 0)
    cache: CacheStep | None = None
    services.running += 1
    try:
        async with asyncio.timeout_at(request.deadline):
            await step_prompt(services, request)
            cache, limits = CacheStep(services, request), RequestLimits(services, request)
            targets = step_breakers(services, request)
            hit = await step_limits_and_cache(services, request, limits, cache, reply)
            if hit is None:
                await step_call(services, request, targets, limits, cache, reply)
    except TimeoutError:
        return await step_fallback(services, request, cache, reply, _too_late(services, request))
    except RaygateError as error:
        return await step_fallback(services, request, cache, reply, error)
    except Exception:
        log.exception("request %s broke", request.id)
        broken = RaygateError("Something broke within the gateway; it has been logged.")
        return await step_fallback(services, request, cache, reply, broken)
    finally:
        services.running -= 1
    return step_answer(request, cache, reply)


async def step_prompt(services: Services, request: Request) -> None:
    """2: render the template, if one is asked for; know the model and whom it counts for."""
    began = request.trace.elapsed_ns()
    if services.policy is None:
        raise Overloaded("This gateway has no valid policy yet; ask its operator, or wait.")
    await prepare(services, request)
    request.trace.step("prompt", began)


def step_breakers(services: Services, request: Request) -> list[Target]:
    """3: which targets may be tried, by this replica's view of the breakers.

    Raises ProviderUnavailable where none may. With an old view all may: each attempt asks.
    """
    assert request.route is not None
    began = request.trace.elapsed_ns()
    breaker = services.breaker
    targets: list[Target] = []
    soonest_ns: int | None = None
    for target in request.route.targets:
        view = breaker.view.get(target.name) if breaker.fresh() else None
        left_ns = 0 if view is None else view.retry_after_ns - breaker.since_ns(target.name)
        if left_ns > 0:
            soonest_ns = left_ns if soonest_ns is None else min(soonest_ns, left_ns)
        else:
            targets.append(target)
    request.trace.step("breakers", began)
    if not targets:
        after_s = (soonest_ns or 0) / 1e9
        raise ProviderUnavailable(
            f"Every target of {request.model} is resting after failures; try again in "
            f"{after_s:.3g} s.",
            retry_after_s=after_s,
        )
    return targets


async def step_limits_and_cache(
    services: Services, request: Request, limits: RequestLimits, cache: CacheStep, reply: Reply
) -> Hit | None:
    """4 and 5, which don't depend on each other: request limits, and the cache's answer.

    None: this request fetches the answer. Raises RateLimitExceeded and DeadlineExceeded.
    """
    trace = request.trace
    began = trace.elapsed_ns()
    try:
        # While this request stands in a queue, nobody is to wait for it as for a leader.
        limits.ask(on_wait=cache.leave)
        cache.ask()
        stamp_ns, states = await limits.admitted()
        reply.limits = states
        trace.facts["stamp_ns"] = stamp_ns
        trace.step("limits", began)
        if limits.waited:
            cache.ask_again()
        hit = await cache.found()
        trace.step("cache", began)
    except BaseException:
        limits.give_back()
        cache.leave()
        raise
    if hit is None:
        return None
    if not fill_in(reply, hit, request):
        cache.word = "BYPASS"
        return None
    if hit.lead is not None:
        services.spawn(_refresh(services, request, cache), "refresh")
    limits.keep()
    return hit


async def step_call(
    services: Services,
    request: Request,
    targets: list[Target],
    limits: RequestLimits,
    cache: CacheStep,
    reply: Reply,
) -> None:
    """6, 7 and 8 for each attempt (see `attempts.py`), in a task of its own.

    A client that leaves while a provider works does not stop it: the call is paid for, so
    its usage must be known, and others may be waiting for its answer.
    """
    work = services.spawn(_fetch(services, request, targets, limits, cache, reply), "call")
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        # By its client, or because its time is over: nobody waits for it here any more.
        request.gone = True
        loop = asyncio.get_running_loop()
        request.late = loop.time() >= request.deadline
        if request.calling:
            loop.call_later(services.args.drain_s, work.cancel)
        elif reply.live is not None:
            # It began to stream in the very moment in which its client left.
            services.spawn(reply.live.drain(services.args.drain_s), "drain")
        else:
            work.cancel()
        raise


async def _fetch(
    services: Services,
    request: Request,
    targets: list[Target],
    limits: RequestLimits,
    cache: CacheStep,
    reply: Reply,
) -> None:
    try:
        await call_targets(services, request, targets, reply, cache.keep)
    except BaseException as error:
        cache.leave()
        # All or nothing: what no call was made for is not counted either.
        if reply.attempts:
            limits.keep()
        else:
            limits.give_back()
        if request.gone:
            _note_gone(services, request, reply, cache)
            if isinstance(error, RaygateError):
                return
        raise
    limits.keep()
    if request.gone:
        _note_gone(services, request, reply, cache)


async def _refresh(services: Services, request: Request, cache: CacheStep) -> None:
    """Fetch anew what was answered stale, for those who come after."""
    reply = Reply()
    try:
        targets = step_breakers(services, request)
        await call_targets(services, request, targets, reply, cache.keep)
        if reply.live is not None:
            await reply.live.drain(services.args.drain_s)
    except RaygateError as error:
        log.info("a stale answer could not be refreshed: %s", error)
    finally:
        cache.leave()


def step_answer(request: Request, cache: CacheStep, reply: Reply) -> Reply:
    """9, the good end."""
    reply.cache = cache.word
    return reply


async def step_fallback(
    services: Services,
    request: Request,
    cache: CacheStep | None,
    reply: Reply,
    error: RaygateError,
) -> Reply:
    """9, the other end: a stale answer, the template's fallback text, or the error.

    Raises `error` where it must be told as it is.
    """
    reason = next((word for kind, word in _REASONS if isinstance(error, kind)), None)
    if reason is None and (isinstance(error, _OURS) or error.status == 500):
        reason = "unexpected_error"
    if reason is None or cache is None or not request.fallback_allowed:
        raise error
    if reason != "rate_limited":
        hit = await _in_time(cache)
        if hit is not None and fill_in(reply, hit, request):
            reply.cache, reply.reason = "STALE", reason
            return reply
    if request.prompted is None:
        raise error
    reply.text, reply.reason, reply.cache = request.prompted.fallback, reason, cache.word
    reply.body, reply.live, reply.usage = b"", None, Usage()
    log.info("request %s falls back (%s): %s", request.id, reason, error)
    request.trace.facts["fallback_of"] = str(error)
    return reply


async def _in_time(cache: CacheStep) -> Hit | None:
    """A stale answer, if the cache gives one soon: the request's own time may be over."""
    try:
        async with asyncio.timeout(1.0):
            return await cache.stale()
    except TimeoutError:
        return None


def _too_late(services: Services, request: Request) -> RaygateError:
    """Whose fault it is that the deadline passed."""
    silent = [
        name for name, one in services.consultants.items() if not (one.reachable and one.fresh())
    ]
    if silent and not request.calling:
        return SingletonUnavailable(
            f"{', '.join(silent)} did not answer in time; it is being restarted.",
            retry_after_s=2.0,
        )
    return DeadlineExceeded(
        "The request's time is over. Ask for more with x-raygate-timeout.", should_retry=False
    )


def _note_gone(services: Services, request: Request, reply: Reply, cache: CacheStep) -> None:
    """Close the trace of a request whose client has left in the middle of a call."""
    if request.late:
        # Its time was over, its client is still there, and is told.
        return
    facts = request.trace.facts
    facts |= {"outcome": "client_gone", "cost_nanos": reply.cost_nanos, "cache": cache.word}
    facts |= {"model": request.model, "target": reply.target, "attempts": reply.attempts}
    if not request.trace.finished:
        answered = bool(reply.body) or reply.live is not None
        note_interaction(services, request, reply, failed=not answered)
    services.finish(request.trace)
