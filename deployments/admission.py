"""Steps 4 and 6: request limits, and what one attempt on one target may take.

What is at hand (slices that this replica was lent) is spent without asking; else the
singletons are asked. Everything here is all or nothing, and is given back by id: also when
the client leaves while the answer is on its way.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from actors.charges import Exhausted, Facts, Reserved
from actors.errors import InsufficientQuota, StorageFull
from actors.limits import Admitted, LimitState, Refused, Take
from actors.wallet import Held
from deployments.absence import Away, heard, note, without
from deployments.policy import Target
from deployments.price_rates import Prices
from deployments.refusals import exhausted, refusal
from deployments.request import Request
from deployments.services import Services


class Taken(Protocol):
    """What was taken of limits. Exactly one of its methods is to be called, once."""

    def settle(self, tokens: int | None) -> None:
        """It was used: slots come back, tokens are corrected unless it is None."""

    def undo(self) -> None:
        """It was for nothing: what nobody can have used again comes back."""


class Asked:
    """Taken at the limiter itself, under an id."""

    __slots__ = ("_id", "_services")

    def __init__(self, services: Services, id: str) -> None:
        self._services = services
        self._id = id

    def settle(self, tokens: int | None) -> None:
        """See `Taken`."""
        self._services.limiter.tell("settle", self._id, tokens)

    def undo(self) -> None:
        """See `Taken`."""
        self._services.limiter.tell("undo", self._id)


class Admission(NamedTuple):
    """What an attempt holds.

    charge_id: of the call. taken: tokens and slots, None for none. held: the money, where it
    came from what was at hand; None: the ledger holds it under the charge's id.
    worst_nanos: what is held, at these prices. stamp_ns: of the limiter's admission.
    """

    charge_id: str
    taken: Taken | None
    held: Held | None
    facts: Facts
    prices: Prices
    worst_nanos: int
    stamp_ns: int
    limits: tuple[LimitState, ...]


class RequestLimits:
    """Step 4: one unit of every request limit."""

    def __init__(self, services: Services, request: Request) -> None:
        assert services.policy is not None
        assert request.who is not None
        self._services = services
        self._request = request
        self._takes = services.policy.request_takes(request.who)
        self._taken: Taken | None = None
        self._asked: asyncio.Future[Admitted | Refused] | None = None
        self._found: tuple[int, tuple[LimitState, ...]] = (0, ())
        self._on_wait: Callable[[], None] | None = None
        self.waited = False

    def ask(self, on_wait: Callable[[], None]) -> None:
        """Take what is at hand, or put the question into the next batch.

        on_wait: called if there is a queue.
        """
        if not self._takes:
            return
        services, request = self._services, self._request
        leased = services.slices.take(self._takes)
        if leased is not None:
            self._taken, self._found = leased, (leased.at_ns, leased.states)
            return
        if without(services, request, "rate_limiter"):
            return
        self._on_wait = on_wait
        self._asked = services.limiter.submit(
            "acquire",
            request.id,
            self._takes,
            request.priority,
            request.max_wait_ns,
            on_pending=self._wait,
        )
        self._taken = Asked(services, request.id)

    def _wait(self) -> None:
        self.waited = True
        if self._on_wait is not None:
            self._on_wait()

    async def admitted(self) -> tuple[int, tuple[LimitState, ...]]:
        """Admission stamp and states. Raises RateLimitExceeded."""
        if self._asked is None:
            return self._found
        try:
            reply = await heard(self._services, "rate_limiter", self._asked, self._request.deadline)
        except StorageFull:
            # Nothing was taken: there is nothing to give back.
            self._taken = None
            raise
        except Away as away:
            note(self._services, self._request, str(away))
            self.give_back()
            return self._found
        if isinstance(reply, Refused):
            self._taken = None
            if self._request.reply is not None:
                self._request.reply.limits = reply.states
            raise refusal(reply, self._services)
        return reply.at_ns, reply.states

    def keep(self) -> None:
        """The request was served: what it took stays taken."""
        if self._taken is not None:
            self._taken.settle(None)
            self._taken = None

    def give_back(self) -> None:
        """The request was refused elsewhere, or its client left before anything ran."""
        if self._taken is not None:
            self._taken.undo()
            self._taken = None


class _Money:
    """The worst case of one attempt: from what is at hand, or held by the ledger."""

    def __init__(self, services: Services, request: Request, facts: Facts, worst: int) -> None:
        self._services = services
        self._request = request
        self._facts = facts
        self._worst = worst
        self._asked: asyncio.Future[Reserved | Exhausted] | None = None
        self.charge_id = ""
        self.held: Held | None = None

    def ask(self) -> None:
        """Hold it, or put the question into the next batch."""
        services, request = self._services, self._request
        assert services.policy is not None
        assert request.who is not None
        self.charge_id = services.mint()
        self.held = services.wallet.reserve(self._facts, self._worst)
        if self.held is None:
            without(services, request, "cost_tracker")
            subjects = services.policy.budget_subjects(request.who)
            self._asked = services.costs.submit(
                "reserve",
                self.charge_id,
                subjects,
                self._worst,
                request.max_wait_ns,
                self._facts,
            )

    def drop(self) -> None:
        """Hold it no longer."""
        if self.held is not None:
            self._services.wallet.release(self.held, 0)
            self.held = None
        elif self._asked is not None:
            self._asked.cancel()
            self._services.costs.tell("void", self.charge_id)
            self._asked = None

    @property
    def asked(self) -> bool:
        """Whether the ledger holds it, or is being asked to."""
        return self._asked is not None

    async def granted(self) -> None:
        """Wait for the ledger's word. Raises InsufficientQuota."""
        if self._asked is None:
            return
        try:
            found = await heard(self._services, "cost_tracker", self._asked, self._request.deadline)
            if isinstance(found, Exhausted):
                raise exhausted(found)
        except (InsufficientQuota, StorageFull):
            self._asked = None
            raise
        self._services.wallet.learn(self._facts, found)


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
    facts = Facts(who.key, who.team, who.user, who.model, target.name, prices.version, request.tags)
    money = _Money(services, request, facts, worst)
    taken: Taken | None = None
    stamp = 0
    states: tuple[LimitState, ...] = ()
    try:
        money.ask()
        if takes:
            leased = services.slices.take(takes)
            if leased is not None:
                taken, stamp, states = leased, leased.at_ns, leased.states
            elif not without(services, request, "rate_limiter"):
                take_id = services.mint()
                taken = Asked(services, take_id)
                try:
                    admitted = await _acquire(services, request, take_id, takes, money.drop)
                    stamp, states = admitted.at_ns, admitted.states
                except Away as away:
                    note(services, request, str(away))
                    taken.undo()
                    taken = None
                if money.held is None and not money.asked:
                    # Money was not held while the request stood in a queue.
                    money.ask()
        await money.granted()
    except BaseException:
        money.drop()
        if taken is not None:
            taken.undo()
        raise
    return Admission(money.charge_id, taken, money.held, facts, prices, worst, stamp, states)


def give_back(services: Services, admission: Admission) -> None:
    """Nothing was called: everything returns."""
    if admission.held is not None:
        services.wallet.release(admission.held, 0)
    else:
        services.costs.tell("void", admission.charge_id)
    if admission.taken is not None:
        admission.taken.undo()


async def _acquire(
    services: Services,
    request: Request,
    take_id: str,
    takes: tuple[Take, ...],
    on_wait: Callable[[], None],
) -> Admitted:
    asked = services.limiter.submit(
        "acquire", take_id, takes, request.priority, request.max_wait_ns, on_pending=on_wait
    )
    reply: Admitted | Refused = await heard(services, "rate_limiter", asked, request.deadline)
    if isinstance(reply, Refused):
        raise refusal(reply, services)
    return reply
