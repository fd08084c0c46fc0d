"""Steps 4 and 6: request limits, and what one attempt on one target may take.

Everything here is all or nothing, and is given back by id: also when the client leaves
while the answer is on its way.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from actors.charges import Exhausted, Facts
from actors.errors import InsufficientQuota, RateLimitExceeded
from actors.limits import Admitted, LimitState, Refused, Take
from deployments.policy import Target
from deployments.price_rates import Prices
from deployments.request import Request
from deployments.services import Services

MARGIN_NS = 60_000_000_000
"""How much longer than its request a hold lives, at the least."""


class Admission(NamedTuple):
    """What an attempt holds.

    charge_id: of the reservation, and of the call. take_id: of tokens and slots, "" for
    none. worst_nanos: what is reserved, at these prices. stamp_ns: of the limiter's admission.
    """

    charge_id: str
    take_id: str
    prices: Prices
    worst_nanos: int
    stamp_ns: int
    limits: tuple[LimitState, ...]


def lifetime_ns(services: Services, request: Request) -> int:
    """How long a hold of this request may be needed."""
    left_s = request.deadline - asyncio.get_running_loop().time() + services.args.drain_s
    return round(max(left_s, 0.0) * 1e9) + MARGIN_NS


class RequestLimits:
    """Step 4: one unit of every request limit, taken by the request's id."""

    def __init__(self, services: Services, request: Request) -> None:
        assert services.policy is not None
        assert request.who is not None
        self._services = services
        self._request = request
        self._takes = services.policy.request_takes(request.who)
        self._asked: asyncio.Future[Admitted | Refused] | None = None
        self._on_wait: Callable[[], None] | None = None
        self.waited = False

    def ask(self, on_wait: Callable[[], None]) -> None:
        """Put the question into the next batch. on_wait: called if there is a queue."""
        if self._takes:
            self._on_wait = on_wait
            request = self._request
            self._asked = self._services.limiter.submit(
                "acquire",
                request.id,
                self._takes,
                request.priority,
                request.max_wait_ns,
                lifetime_ns(self._services, request),
                on_pending=self._wait,
            )

    def _wait(self) -> None:
        self.waited = True
        if self._on_wait is not None:
            self._on_wait()

    async def admitted(self) -> tuple[int, tuple[LimitState, ...]]:
        """Admission stamp and states. Raises RateLimitExceeded."""
        if self._asked is None:
            return 0, ()
        reply = await self._asked
        if isinstance(reply, Refused):
            if self._request.reply is not None:
                self._request.reply.limits = reply.states
            raise refusal(reply, self._services)
        return reply.at_ns, reply.states

    def keep(self) -> None:
        """The request was served: what it took stays taken."""
        if self._takes:
            self._services.limiter.tell("settle", self._request.id, None)

    def give_back(self) -> None:
        """The request was refused elsewhere, or its client left before anything ran."""
        if self._asked is not None:
            self._services.limiter.tell("undo", self._request.id)


async def admit(services: Services, request: Request, target: Target, again: bool) -> Admission:
    """Step 6: tokens, slots and every budget for the worst case of one attempt.

    again: a further attempt also takes a unit of every request limit.
    Raises RateLimitExceeded or InsufficientQuota; nothing is held then.
    """
    policy, who = services.policy, request.who
    assert policy is not None
    assert who is not None
    takes = policy.admission_takes(who, request.input_tokens + request.max_output_tokens)
    if again:
        takes += policy.request_takes(who)
    prices = target.prices()
    worst = prices.worst_case(request.input_tokens, request.max_output_tokens)
    take_id = services.mint() if takes else ""
    charge_id = services.mint()
    try:
        reserved = _reserve(services, request, target, charge_id, prices, worst)
        stamp, waited = 0, False
        states: tuple[LimitState, ...] = ()
        if takes:
            admitted, waited = await _acquire(services, request, take_id, takes, charge_id)
            stamp, states = admitted.at_ns, admitted.states
        if waited:
            # Money was not held while the request stood in a queue.
            charge_id = services.mint()
            reserved = _reserve(services, request, target, charge_id, prices, worst)
        found = await reserved
        if isinstance(found, Exhausted):
            raise exhausted(found)
    except BaseException:
        services.costs.tell("void", charge_id)
        if takes:
            services.limiter.tell("undo", take_id)
        raise
    return Admission(charge_id, take_id, prices, worst, stamp, states)


def give_back(services: Services, admission: Admission) -> None:
    """Nothing was called: everything returns."""
    services.costs.tell("void", admission.charge_id)
    if admission.take_id:
        services.limiter.tell("undo", admission.take_id)


def _reserve(
    services: Services,
    request: Request,
    target: Target,
    charge_id: str,
    prices: Prices,
    worst: int,
) -> "asyncio.Future[object]":
    who = request.who
    assert services.policy is not None
    assert who is not None
    facts = Facts(who.key, who.team, who.user, who.model, target.name, prices.version, request.tags)
    subjects = services.policy.budget_subjects(who)
    life = lifetime_ns(services, request)
    return services.costs.submit("reserve", charge_id, subjects, worst, life, facts)


async def _acquire(
    services: Services, request: Request, take_id: str, takes: tuple[Take, ...], charge_id: str
) -> tuple[Admitted, bool]:
    """The admission, and whether it had to be waited for (the reservation is void then)."""
    waited = False

    def wait() -> None:
        nonlocal waited
        waited = True
        services.costs.tell("void", charge_id)

    reply = await services.limiter.submit(
        "acquire",
        take_id,
        takes,
        request.priority,
        request.max_wait_ns,
        lifetime_ns(services, request),
        on_pending=wait,
    )
    if isinstance(reply, Refused):
        raise refusal(reply, services)
    return reply, waited


def refusal(refused: Refused, services: Services) -> RateLimitExceeded:
    """The error for a limiter's no: which limit, whose, and when to come back."""
    whose = f"{refused.subject}'s" if refused.subject else "the cluster's"
    policy = services.policy
    limits = policy.policy.limits if policy is not None else ()
    rate = next((f"{x.rate} {x.unit} per {x.per}" for x in limits if x.name == refused.limit), "")
    if refused.retry_after_ns is None and refused.quantity > refused.burst:
        return RateLimitExceeded(
            f"This request needs {refused.quantity} {refused.unit} of {whose} limit "
            f"{refused.limit}, which never has more than {refused.burst} at once. "
            "Make the request smaller.",
            should_retry=False,
        )
    allowed = f"{refused.burst} at once" if refused.unit == "concurrent" else rate
    after_s = max((refused.retry_after_ns or 1_000_000_000) / 1e9, 0.001)
    return RateLimitExceeded(
        f"Rate limit {refused.limit} reached: {whose} {allowed} are used up. "
        f"Try again in {after_s:.3g} s.",
        retry_after_s=after_s,
    )


def exhausted(found: Exhausted) -> InsufficientQuota:
    """The error for the ledger's no: which budget, whose, and when it resets."""
    whose = f"{found.subject}'s" if found.subject else "the cluster's"
    resets = found.resets_in_ns
    when = f"It resets in {resets / 3.6e12:.1f} h." if resets is not None else "It does not reset."
    return InsufficientQuota(
        f"Budget {found.budget} reached: of {whose} {found.amount_nanos / 1e9:.6g} USD "
        f"{max(found.available_nanos, 0) / 1e9:.6g} USD are left, less than this request may "
        f"cost. {when} Raise the budget, or lower max_tokens.",
        should_retry=False,
    )
