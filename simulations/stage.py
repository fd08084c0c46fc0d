"""What a scenario stands on: keys, budgets and knobs that are given back, and a watcher."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from simulations.client import ApiKey, Gateway, GatewayError, SimulationError
from simulations.driver import Clock, drive
from simulations.records import BudgetState, Progress, Record, Sample
from simulations.workload import Intent

OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Takes no notice of progress."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A gateway to play on, and how large to play.

    gateway: with an admin's key
    scale: multiplies the load (1.0 suits a laptop)
    duration_s: length of the run; None takes the scenario's own
    seed: of everything that is drawn
    on_progress: told how far the run is
    """

    gateway: Gateway
    scale: float = 1.0
    duration_s: float | None = None
    seed: int = 7
    on_progress: OnProgress = silent

    @contextlib.asynccontextmanager
    async def key(self, may_be_high: bool = True) -> AsyncIterator[ApiKey]:
        """A key in a team of its own, so that runs share no cache and no budget; revoked after."""
        name = f"simulation-{secrets.token_hex(4)}"
        key = await self.gateway.create_key(name, team=name, may_be_high=may_be_high)
        try:
            yield key
        finally:
            await insist(lambda: self.gateway.revoke_key(key), f"revoke the key {key.id}")

    @contextlib.asynccontextmanager
    async def knobs(self, **turned: Any) -> AsyncIterator[None]:
        """The simulated provider with some knobs turned; turned back after."""
        before = await self.gateway.knobs()
        unknown = set(turned) - set(before)
        if unknown:
            raise SimulationError(f"the simulated provider has no knob {sorted(unknown)[0]!r}")
        try:
            await self.gateway.set_knobs({**before, **turned})
            yield
        finally:
            await insist(
                lambda: self.gateway.set_knobs(before),
                f"turn the provider's knobs back to {before}",
            )

    @contextlib.asynccontextmanager
    async def budget(self, team: str, nanos: int) -> AsyncIterator[str]:
        """A budget in nano-dollars on a team; yields its name; deleted after."""
        name = f"{team}-budget"
        try:
            await self.gateway.set_budget(name, "team", team, nanos)
            yield name
        finally:
            await insist(
                lambda: self.gateway.delete_budget(name), f"delete the budget {name}", missing=True
            )

    async def perform(
        self,
        gateway: Gateway,
        intents: Iterable[Intent],
        clock: Clock,
        phase: str,
        max_in_flight: int = 500,
    ) -> list[Record]:
        """Drives intents through a gateway with the run's key, telling the progress."""
        planned = list(intents)
        done = 0

        def count(record: Record) -> None:
            nonlocal done
            done += 1
            self.on_progress(Progress(phase, done, len(planned)))

        self.on_progress(Progress(phase, 0, len(planned)))
        return await drive(gateway, planned, clock, max_in_flight, on_record=count)

    @contextlib.asynccontextmanager
    async def watched(
        self, clock: Clock, every_s: float = 0.25, budget: str | None = None
    ) -> AsyncIterator[list[Sample]]:
        """The gateway's health, sampled while the block runs; the list grows meanwhile."""
        samples: list[Sample] = []
        watcher = asyncio.create_task(self._watch(samples, clock, every_s, budget))
        try:
            yield samples
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        samples.append(await self.sample(clock, budget))

    async def _watch(
        self, samples: list[Sample], clock: Clock, every_s: float, budget: str | None
    ) -> None:
        due_s = 0.0
        while True:
            await clock.until(due_s)
            # A poll that fails leaves a gap; the load's own records tell what was wrong.
            with contextlib.suppress(GatewayError):
                samples.append(await self.sample(clock, budget))
            due_s = max(due_s + every_s, clock.now_s())

    async def sample(self, clock: Clock, budget: str | None = None) -> Sample:
        """One look at the gateway's health, and at a budget by its name."""
        health = await self.gateway.health()
        state = await self._budget_state(budget) if budget else None
        # A singleton that restarts leaves its part of the health empty for a moment.
        limiter, cache, costs = health["rate_limiter"], health["cache"], health["costs"]
        return Sample(
            at_s=clock.now_s(),
            status=health["status"],
            breakers={
                target: view["state"]
                for target, view in health["circuit_breaker"]["targets"].items()
            },
            limiter_used=limiter.get("utilization", 0.0),
            cache_used=cache.get("utilization", 0.0),
            cache_hit_rate=cache.get("hit_rate", 0.0),
            cost_today_usd=costs.get("today_cost", 0.0),
            budget_used=costs.get("budget_used_percentage", 0.0) / 100,
            budget=state,
        )

    async def _budget_state(self, name: str) -> BudgetState | None:
        for row in await self.gateway.budgets():
            if row["name"] == name:
                return BudgetState(row["amount_nanos"], row["posted_nanos"], row["pending_nanos"])
        return None


async def insist(
    action: Callable[[], Awaitable[None]], what: str, missing: bool = False, attempts: int = 5
) -> None:
    """Carries out an action that must not be left out, for all that a cancel is under way.

    what: what it does, for the message when it fails for good
    missing: whether a 404 is as good as done
    Raises SimulationError after that many attempts, a second apart.
    """

    async def repeat() -> None:
        for attempt in range(1, attempts + 1):
            try:
                await action()
                return
            except GatewayError as error:
                if missing and error.status == 404:
                    return
                if attempt == attempts:
                    raise SimulationError(f"could not {what}; do it by hand: {error}") from error
                await asyncio.sleep(1.0)

    # A cancel that arrives in the middle must not stop what is being put right.
    work = asyncio.create_task(repeat())
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await work
        raise
