"""Everything that a request needs, in one place: what `create_app` is given."""

import asyncio
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any

import msgspec

from actors.consultant import Consultant
from actors.errors import RaygateError, StorageFull
from actors.limit_slices import LimitSlices
from actors.outbox import Outbox
from actors.tallies import Interaction
from actors.wallet import Wallet
from deployments.autoscaling import Queue
from deployments.calls import Calls
from deployments.config import parse_policy
from deployments.first_level import FirstLevel
from deployments.overload import TICK_S, Front
from deployments.policy import PolicyInForce, Target
from deployments.prompts import load_fallbacks
from deployments.providers.base import Provider
from deployments.retries import RetryBudget
from deployments.structure import GatewayArgs
from deployments.target_gate import Gate
from deployments.telemetry.metrics import Metrics
from deployments.telemetry.trace import Trace

_SHIP_S = 0.25
_HAND_BACK_S = 3.0
_BREAK_OFF_S = 1.0
CLOSING_S = 15.0
"""What `Services.close` takes at most beyond `drain_s`, also where nobody answers."""

_MAX_TRACES_WAITING = 5_000
_MAX_INTERACTIONS_WAITING = 10_000

log = logging.getLogger(__name__)
_pack = msgspec.msgpack.Encoder().encode


class Services:
    """The singletons' consultants, the providers, the policy in force, the telemetry.

    consultants: one per name in `actors.registry.SINGLETONS`.
    providers: by their names in the configuration.
    outbox: where this process writes down the calls that it makes.
    """

    def __init__(
        self,
        args: GatewayArgs,
        consultants: dict[str, Consultant],
        providers: dict[str, Provider],
        outbox: Outbox,
    ) -> None:
        self.args = args
        self.consultants = consultants
        self.providers = providers
        self.limiter = consultants["rate_limiter"]
        self.breaker = consultants["circuit_breaker"]
        self.cache = consultants["response_cache"]
        self.costs = consultants["cost_tracker"]
        self.keys = consultants["key_store"]
        self.prompts = consultants["prompt_registry"]
        self.experiments = consultants["experiment_manager"]
        self.traces = consultants["trace_collector"]
        self.outbox = outbox
        self.slices = LimitSlices(self.limiter)
        self.wallet = Wallet(self.costs)
        self.calls = Calls(self.costs, self.wallet, outbox)
        self.first_level = FirstLevel(self.cache)
        self._waited_for = (self.limiter, self.cache, self.costs)
        self.metrics = Metrics()
        self.policy: PolicyInForce | None = None
        self.policy_problem: str | None = None
        self.fallbacks = load_fallbacks()
        self.retry_budgets: dict[str, RetryBudget] = {}
        self.front = Front(args.max_requests, args.max_lag_s, args.max_bodies_bytes)
        self._gates: dict[str, Gate] = {}
        self._most_calls = {one.name: 2 * one.max_connections for one in args.providers}
        self.running = 0
        self.queue = Queue()
        self.health_asked: tuple[float, asyncio.Task[dict[str, Any]]] | None = None
        self.health_seen = "degraded"
        for consultant in consultants.values():
            consultant.crowd = self.crowd
        self._process = os.urandom(8).hex()
        self._minted = 0
        self._finished: list[dict[str, Any]] = []
        self._interactions: list[Interaction] = []
        self._background: set[asyncio.Task[Any]] = set()
        self._shipping: asyncio.Task[None] | None = None
        self._ticking: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to consult, watch and ship telemetry (on the event loop)."""
        for consultant in self.consultants.values():
            consultant.start()
        self.slices.start()
        self.wallet.start()
        self._tick(asyncio.get_running_loop())
        self._shipping = asyncio.create_task(self._ship_for_ever(), name="ship telemetry")

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.front.tick(loop.time())
        self._ticking = loop.call_later(TICK_S, self._tick, loop)

    async def close(self) -> None:
        """Hand back what is lent, finish what runs, deliver what was told, stop.

        A call that takes longer than `drain_s` is broken off, and settled as an estimate.
        """
        if self._ticking is not None:
            self._ticking.cancel()
        # At once: should this process be ended before it is done here, others need not wait.
        await self._hand_back()
        await self._finish_background()
        if self._shipping is not None:
            self._shipping.cancel()
        self._ship_traces()
        self._ship_interactions()
        await self._hand_back()
        await asyncio.gather(*(consultant.close() for consultant in self.consultants.values()))
        self.outbox.close()
        for provider in self.providers.values():
            await provider.close()

    async def _finish_background(self) -> None:
        for patience_s in (self.args.drain_s, _BREAK_OFF_S):
            if self._background:
                _, late = await asyncio.wait(self._background, timeout=patience_s)
                for task in late:
                    task.cancel()

    async def _hand_back(self) -> None:
        """Return what is lent to us; who is away gets it when it finds us gone."""
        try:
            async with asyncio.timeout(_HAND_BACK_S):
                await asyncio.gather(self.slices.close(), self.wallet.close())
        except (TimeoutError, RaygateError) as error:
            log.warning("slices could not be given back: %s", error)

    def crowd(self) -> int:
        """How many requests this replica is working on."""
        return self.running

    @property
    def waiting(self) -> int:
        """How many requests here wait for a limit, for money or for another's answer."""
        return self.queue.length + sum(one.pending for one in self._waited_for)

    def mint(self) -> str:
        """An id that nobody else has: of a request, a charge, a hold."""
        self._minted += 1
        return f"{self._process}{self._minted:016x}"

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something that outlives its request."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def finish(self, trace: Trace) -> None:
        """Hand a trace over to be kept; only the first end of a request counts."""
        if trace.finished:
            return
        trace.finished = True
        if len(self._finished) < _MAX_TRACES_WAITING:
            self._finished.append(trace.record())

    def interacted(self, interaction: Interaction) -> None:
        """Note what became of a request in an experiment."""
        if len(self._interactions) < _MAX_INTERACTIONS_WAITING:
            self._interactions.append(interaction)

    async def apply_policy(self, raw: Any) -> None:
        """Put a policy in force, here and at the singletons; a bad one changes nothing.

        Never raises: what is wrong is kept in `policy_problem`, for health.
        """
        try:
            policy = PolicyInForce(
                parse_policy(raw, tuple(self.providers)),
                {each.name: each.prices for each in self.args.providers},
            )
        except Exception as error:
            self.policy_problem = str(error)
            log.error("this policy is refused, the last good one stays in force: %s", error)
            return
        self.policy, self.policy_problem = policy, None
        self.wallet.forget()
        self.retry_budgets = {}
        named = {one.name for route in policy.routes.values() for one in route.targets}
        self._gates = {name: gate for name, gate in self._gates.items() if name in named}
        configured = {
            self.limiter: policy.for_rate_limiter(),
            self.costs: policy.for_cost_tracker(),
            self.breaker: policy.for_circuit_breaker(),
            self.cache: policy.for_response_cache(),
            self.traces: policy.for_trace_collector(),
        }
        told = [
            self.spawn(self._configure(singleton, policy, part), "configure")
            for singleton, part in configured.items()
        ]
        # Who is silent for long gets it all the same, when it answers again.
        _, silent = await asyncio.wait(told, timeout=30)
        for future in told:
            refused = None if future in silent else future.exception()
            if refused is not None:
                self._not_everywhere(policy, str(refused))
        if silent:
            self._not_everywhere(policy, "a singleton is silent")
            self.spawn(self._complete(policy, silent), "configure")

    async def _configure(self, singleton: Consultant, policy: PolicyInForce, part: Any) -> None:
        while self.policy is policy:
            try:
                await singleton.ask("configure", policy.revision, part)
                return
            except StorageFull as full:
                await asyncio.sleep(full.retry_after_s or _SHIP_S)

    def _not_everywhere(self, policy: PolicyInForce, why: str) -> None:
        self.policy_problem = f"not in force everywhere: {why}"
        log.error("policy %s: %s", policy.revision, self.policy_problem)

    async def _complete(self, policy: PolicyInForce, silent: set[asyncio.Task[Any]]) -> None:
        await asyncio.gather(*silent)
        if self.policy is policy:
            self.policy_problem = None

    def gate(self, target: Target) -> Gate:
        """How many calls this replica gives to a target at a time."""
        gate = self._gates.get(target.name)
        if gate is None:
            # One at work on each connection, and as many again that wait for it.
            most = self._most_calls.get(target.provider, 2_000)
            gate = Gate(most, time.time() - time.monotonic())
            self._gates[target.name] = gate
        return gate

    def retry_budget(self, target: str) -> RetryBudget:
        """The retry budget of one target in this replica."""
        budget = self.retry_budgets.get(target)
        if budget is None:
            assert self.policy is not None
            retries = self.policy.policy.retries
            budget = RetryBudget(retries.budget_share, retries.budget_floor)
            self.retry_budgets[target] = budget
        return budget

    async def _ship_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_SHIP_S)
            self.first_level.report()
            # What can't be delivered waits here, where it is bounded.
            if _takes(self.traces):
                self._ship_traces()
            if _takes(self.experiments):
                self._ship_interactions()

    def _ship_interactions(self) -> None:
        if self._interactions:
            batch, self._interactions = tuple(self._interactions), []
            self.experiments.tell("record", batch)

    def _ship_traces(self) -> None:
        counters = self.metrics.take()
        if not self._finished and not counters:
            return
        finished, self._finished = self._finished, []
        self.traces.tell("add", len(finished), _pack(finished), counters)


def _takes(one: Consultant) -> bool:
    """Whether what is told there now is likely to be delivered soon."""
    return one.reachable and one.fresh() and not one.put_off
