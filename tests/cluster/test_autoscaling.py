"""What makes Serve start replicas: work, and not the waiting for something else."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import aiohttp
import pytest

from benchmarks.client import Answered, Client
from benchmarks.on_ray import Gateway, Setting, running

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]

MOST = 3
MANY = 60
SCALING = {
    "min_replicas": 1,
    "max_replicas": MOST,
    "target_ongoing_requests": 10,
    "metrics_interval_s": 0.5,
    "look_back_period_s": 2,
    "upscale_delay_s": 1,
    "downscale_delay_s": 600,
    "policy": {"policy_function": "deployments.autoscaling:by_work"},
}
POLICY: dict[str, Any] = {
    "models": {"slow": {"targets": ["simulated/slow"], "price": {"free": True}}},
    "limits": [
        {"name": "one", "scope": "team", "subjects": ["queuing"], "unit": "concurrent", "burst": 1}
    ],
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of one replica, to begin with."""
    setting = Setting(replicas=1, models=("slow",), scaling=SCALING)
    with running(tmp_path_factory.mktemp("gateway"), POLICY, setting) as found:
        yield found


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Client]:
    """As many connections as a test has clients."""
    connections = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connections) as session:
        yield Client(gateway.url, gateway.admin, session)


async def wanted(gateway: Gateway) -> int:
    """How many replicas Serve means to have by now, whether they run yet or not."""
    found: int = await asyncio.to_thread(gateway.do, "wanted")
    return found


async def most_wanted(gateway: Gateway, requests: list[Awaitable[Answered]]) -> Any:
    """The most replicas wanted before all of these were answered; how often with what status."""
    most, together = 0, asyncio.gather(*requests)
    while not together.done():
        most = max(most, await wanted(gateway))
        await asyncio.sleep(0.25)
    return most, Counter(status for status, _, _ in await together)


async def test_requests_that_wait_start_no_replicas_and_those_that_work_do(
    gateway: Gateway, client: Client
) -> None:
    """60 wait ten seconds for a slot, 60 six seconds for one answer; then 60 are worked on."""
    queuing, other = await client.key(team="queuing"), await client.key(team="other")

    await client.knobs(ttft_s=11.0)
    for_a_slot = [client.chat(f"slot {n}", "slow", queuing) for n in range(MANY)]
    assert await most_wanted(gateway, for_a_slot) == (1, {200: 1, 429: MANY - 1})

    await client.knobs(ttft_s=6.0)
    for_an_answer = [client.chat("the same", "slow", other) for _ in range(MANY)]
    assert await most_wanted(gateway, for_an_answer) == (1, {200: MANY})
    assert len(gateway.calls("slow")) == 2

    await client.knobs(ttft_s=12.0)
    working = [asyncio.create_task(client.chat(f"{n}", "slow", other)) for n in range(MANY)]
    give_up = asyncio.get_running_loop().time() + 20.0
    while await wanted(gateway) < MOST:
        assert asyncio.get_running_loop().time() < give_up
        await asyncio.sleep(0.25)
    for request in working:
        request.cancel()
    await asyncio.wait(working)
