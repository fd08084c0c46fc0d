"""A replica that goes away: its streams end whole, and nothing of it is left behind."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.client import Client
from benchmarks.on_ray import Gateway, Setting, running

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]

STREAMS = 24
TOKENS = 60
POLICY: dict[str, Any] = {
    "models": {
        "slow": {
            "targets": ["simulated/slow"],
            "price": {"input_per_mtok": 1.0, "output_per_mtok": 4.0},
            "cache": False,
        }
    },
    "limits": [
        {"name": "slots", "unit": "concurrent", "burst": 1_000},
        {"name": "requests", "rate": 10_000, "burst": 10_000},
    ],
    "budgets": [{"name": "day", "amount_usd": 1_000}],
    "breakers": {"default": {"failure_threshold": 0, "min_calls": 100_000, "timeout_s": 60}},
}
# Serve stays reachable for so long after it has begun to drain; 30 s where nobody says.
VARIABLES = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of two replicas."""
    setting = Setting(2, ("slow",))
    with running(tmp_path_factory.mktemp("gateway"), POLICY, setting, VARIABLES) as found:
        yield found


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Client]:
    """As many connections as a test has clients."""
    patience = aiohttp.ClientTimeout(total=120)
    connections = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connections, timeout=patience) as session:
        found = Client(gateway.url, gateway.admin, session)
        yield found
        await found.knobs()


async def stream(client: Client, key: str, number: int) -> bytes:
    """All that a long stream brings."""
    body = {
        "model": "slow",
        "messages": [{"role": "user", "content": f"stream {number}"}],
        "max_tokens": TOKENS,
        "stream": True,
    }
    headers = {"authorization": f"Bearer {key}"}
    path = f"{client.url}/v1/chat/completions"
    async with client.session.post(path, json=body, headers=headers) as reply:
        content = await reply.read()
        assert reply.status == 200, content
        return content


def outboxes(gateway: Gateway) -> set[str]:
    """The files of replicas that live, or died without an end."""
    folder = gateway.storage / gateway.setting.name / "outbox"
    return {path.name for path in Path(folder).iterdir()}


async def until(true: Any, within_s: float = 60.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_replica_that_is_scaled_away_ends_its_streams_and_hands_everything_back(
    gateway: Gateway, client: Client
) -> None:
    """I3, I8, I12: every stream is whole and charged once, nothing is held, nobody is silent."""
    key = await client.key(team="leaving")
    await client.knobs(ttft_s=0.2, tokens_per_s=10, fill_max_tokens=True)
    before, files = gateway.replicas(), outboxes(gateway)
    assert (len(before), len(files)) == (2, 4)
    streams = [asyncio.create_task(stream(client, key, number)) for number in range(STREAMS)]
    await until(lambda: len(gateway.calls("slow")) >= STREAMS)
    # Each replica's charge ids begin with a word of its own: both have streams under way.
    assert len({str(call.charge_id)[:16] for call in gateway.calls("slow")}) == 2
    scaling = asyncio.create_task(asyncio.to_thread(gateway.do, "scale", 1))
    late = []
    while not all(one.done() for one in streams):
        # Whoever comes meanwhile is served too, by whichever is left.
        late.append(asyncio.create_task(stream(client, key, 1_000 + len(late))))
        await asyncio.sleep(0.5)
    contents = await asyncio.gather(*streams, *late)
    assert all(content.endswith(b"data: [DONE]\n\n") for content in contents)
    assert not any(b'"error"' in content for content in contents)
    await scaling
    await until(lambda: len(gateway.replicas()) == 1)
    assert gateway.replicas() < before
    await until(lambda: len(outboxes(gateway)) == 2)
    assert outboxes(gateway) < files
    await client.settled()
    made = gateway.calls("slow")
    assert len(made) == STREAMS + len(late)
    rows = await client.ledger("leaving")
    assert sorted(row["charge_id"] for row in rows) == sorted(str(one.charge_id) for one in made)
    assert {row["state"] for row in rows} == {"actual"}
    told = await asyncio.to_thread(gateway.do, "describe")
    assert {one["silent"] for one in told.values()} == {0}, json.dumps(told)
    # The one that went has said goodbye: the other one, and the stage, are known.
    assert all(one["owners"] <= 1 for one in told.values()), json.dumps(told)


async def test_a_replica_whose_process_is_told_to_end_leaves_no_debts(
    gateway: Gateway, client: Client
) -> None:
    """I3, I8, I12: Ray ends it at once; each of its calls is charged all the same, and once."""
    key = await client.key(team="ended")
    await client.knobs(ttft_s=0.2, tokens_per_s=10, fill_max_tokens=True)
    before, files, made = gateway.replicas(), outboxes(gateway), len(gateway.calls("slow"))
    streams = [asyncio.create_task(stream(client, key, number)) for number in range(STREAMS)]
    await until(lambda: len(gateway.calls("slow")) >= made + STREAMS)
    for pid in before:
        os.kill(pid, signal.SIGTERM)
    await asyncio.gather(*streams, return_exceptions=True)
    await until(lambda: gateway.replicas() and not gateway.replicas() & before)
    await until(lambda: not outboxes(gateway) & files)

    async def answers() -> bool:
        try:
            return (await client.call("GET", "/health/ready"))[0] == 200
        except aiohttp.ClientError:
            return False

    async with asyncio.timeout(60):
        while not await answers():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    await client.settled()
    rows = await client.ledger("ended")
    charged = sorted({row["charge_id"] for row in rows})
    assert charged == sorted(str(call.charge_id) for call in gateway.calls("slow")[made:])
