"""The scenarios by name, and how to run one."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from simulations import budget_runs_out, demo, provider_outage, steady_day
from simulations.client import Gateway
from simulations.report import Report
from simulations.stage import OnProgress, Stage, silent


class Scenario(NamedTuple):
    """A scenario: one line for a menu, and the function that plays it on a stage."""

    summary: str
    play: Callable[[Stage], Awaitable[Report]]


SCENARIOS: dict[str, Scenario] = {
    "demo": Scenario(demo.SUMMARY, demo.play),
    "steady-day": Scenario(steady_day.SUMMARY, steady_day.play),
    "provider-outage": Scenario(provider_outage.SUMMARY, provider_outage.play),
    "budget-runs-out": Scenario(budget_runs_out.SUMMARY, budget_runs_out.play),
}


async def simulate(
    name: str,
    base_url: str,
    api_key: str,
    scale: float = 1.0,
    on_progress: OnProgress = silent,
    duration_s: float | None = None,
    seed: int = 7,
) -> Report:
    """Plays a scenario against a running gateway.

    name: one of SCENARIOS; KeyError otherwise
    base_url: such as http://127.0.0.1:8000
    api_key: an admin's, since scenarios make keys, set budgets and turn the provider's knobs
    scale: multiplies the load; above 0
    on_progress: called with a Progress after every request
    duration_s: length of the run; None takes the scenario's own
    Raises SimulationError where the gateway cannot be used as the scenario needs it. Whatever
    it changed is as before when it returns, raises or is cancelled.
    """
    scenario = SCENARIOS[name]
    async with Gateway(base_url, api_key) as gateway:
        return await scenario.play(Stage(gateway, scale, duration_s, seed, on_progress))


def run(
    name: str,
    base_url: str,
    api_key: str,
    scale: float = 1.0,
    on_progress: OnProgress = silent,
    duration_s: float | None = None,
    seed: int = 7,
) -> Report:
    """`simulate` for callers without an event loop. Ctrl-C and SIGTERM put everything back."""

    async def main() -> Report:
        with _ended_by_sigterm():
            return await simulate(name, base_url, api_key, scale, on_progress, duration_s, seed)

    return asyncio.run(main())


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    # By default SIGTERM ends a process on the spot, with the provider's outage left on.
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    except (NotImplementedError, RuntimeError, ValueError):
        # Another thread than the main one, or a platform without: Ctrl-C works all the same.
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
