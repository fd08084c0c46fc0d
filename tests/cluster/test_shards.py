"""A rate limiter of three hosts on Ray."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors import registry
from actors.consultant import Consultant
from actors.limits import Admitted, Refused, Take
from actors.ray_transport import RayTransport
from actors.registry import Home
from actors.rendezvous import limit_key, shard_of
from actors.sharded import as_one, shard_names
from tests.cluster.conftest import eventually, kill_process, lives

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]

LIMITER = "rate_limiter"
SHARDS = 3
DEADLINE_S = 20.0
DAY_NS = 86_400 * 1_000_000_000
KEYS = [f"key-{number}" for number in range(9)]
MOST, EACH = 400, 60
POLICY = {
    "limits": [
        {"name": name, "scope": scope, "unit": "requests", "rate": 1, "period_ns": DAY_NS, **more}
        for name, scope, more in (
            ("all", "cluster", {"burst": MOST}),
            ("each", "key", {"burst": EACH}),
        )
    ]
}


@pytest.fixture(autouse=True)
def limiter_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only singleton of these gateways is the limiter."""
    factory = registry.SINGLETONS[LIMITER]
    monkeypatch.setattr(registry, "SINGLETONS", {LIMITER: factory})


@asynccontextmanager
async def limiter(name: str, place: Home) -> AsyncIterator[Consultant]:
    """One process's consultants of all shards, as one."""
    lines = {host: RayTransport(name, host, place) for host in place.names(LIMITER)}
    found = as_one(LIMITER, [Consultant(host, line) for host, line in lines.items()])
    found.start()
    try:
        yield found
    finally:
        await found.close(2.0)
        for line in lines.values():
            line.close()


async def pid_of(name: str, host: str) -> int | None:
    """The process of a host, None while it does not answer."""
    told = await asyncio.to_thread(registry.describe, name)
    pid: int | None = told[host].get("pid")
    return pid


async def test_a_shard_is_killed_under_load_and_limits_stay_exact(
    name: str, tmp_path: Path
) -> None:
    """I1, I7, I8, I9, I12: of each limit exactly its burst is admitted, and nobody fails."""
    assert len({shard_of(limit_key("each", key), SHARDS) for key in KEYS}) == SHARDS
    victim = shard_names(LIMITER, SHARDS)[shard_of(limit_key("all", ""), SHARDS)]
    place = await asyncio.to_thread(registry.claim_home, name, str(tmp_path), {LIMITER: SHARDS})
    ends: Counter[str] = Counter()
    admitted: Counter[str] = Counter()
    async with limiter(name, place) as asked:

        async def client(number: int) -> None:
            for turn in range(30):
                key = KEYS[(number + turn) % len(KEYS)]
                id = f"{number}-{turn}"
                takes = (Take("all", "", 1), Take("each", key, 1))
                async with asyncio.timeout(DEADLINE_S):
                    reply = await asked.ask("acquire", id, takes, 1, 0)
                ends[type(reply).__name__] += 1
                if isinstance(reply, Admitted):
                    admitted[key] += 1
                    asked.tell("settle", id, None)
                elif number % 2 == 0 and turn % 3 == 0:
                    # As a client that leaves while it is asked for.
                    gone = asked.submit("acquire", f"gone {id}", takes, 1, 0)
                    await asyncio.sleep(0)
                    gone.cancel()
                    asked.tell("undo", f"gone {id}")

        async with asyncio.timeout(60):
            await asked.ask("configure", "1", POLICY)
            before = await pid_of(name, victim)
            assert before is not None
            clients = [asyncio.create_task(client(number)) for number in range(30)]
            while sum(admitted.values()) < 50:  # noqa: ASYNC110 (they are under way)
                await asyncio.sleep(0.001)
            kill_process(before)
            await asyncio.gather(*clients)
            status = await asked.ask("status")
    assert ends == {Admitted.__name__: MOST, Refused.__name__: 30 * 30 - MOST}
    assert max(admitted.values()) <= EACH
    left = {(one["name"], one["subject"]): one["remaining"] for one in status["limits"]}
    assert left["all", ""] == 0
    assert {key: EACH - left["each", key] for key in KEYS} == dict(admitted)
    assert (status["holds"], status["waiting"], status["slices"]) == (0, 0, 0)
    after = await pid_of(name, victim)
    assert after not in (None, before)


async def test_shards_are_named_described_kept_and_ended(name: str, tmp_path: Path) -> None:
    """The number that was claimed stays until all are ended; then another can be claimed."""
    claim, describe = registry.claim_home, registry.describe
    place = await asyncio.to_thread(claim, name, str(tmp_path), {LIMITER: SHARDS})
    hosts = ["rate_limiter", "rate_limiter-1", "rate_limiter-2"]
    assert place.names(LIMITER) == hosts
    assert await asyncio.to_thread(claim, name, str(tmp_path), {LIMITER: 2}) == place
    assert await asyncio.to_thread(claim, name, str(tmp_path)) == place
    async with limiter(name, place) as asked:
        await asked.ask("configure", "1", POLICY)
        for key in KEYS:
            await asked.ask("acquire", key, (Take("all", "", 1), Take("each", key, 7)), 1, 0)
    told: dict[str, Any] = await asyncio.to_thread(describe, name)
    assert {host: one["reachable"] for host, one in told.items()} == dict.fromkeys(hosts, True)
    pids = {one["pid"] for one in told.values()}
    assert len(pids) == SHARDS
    assert sorted(await asyncio.to_thread(registry.teardown, name)) == hosts
    eventually(lambda: not any(lives(pid) for pid in pids))
    assert await asyncio.to_thread(registry.teardown, name) == []

    anew = await asyncio.to_thread(claim, name, str(tmp_path), {LIMITER: 2})
    assert anew.names(LIMITER) == hosts[:2]
    async with limiter(name, anew) as asked:
        looked = await asked.ask("look", tuple(Take("each", key, 0) for key in KEYS))
        assert [one.remaining for one in looked] == [EACH - 7] * len(KEYS)
        assert (await asked.ask("look", (Take("all", "", 0),)))[0].remaining == MOST - len(KEYS)
    assert sorted(await asyncio.to_thread(describe, name)) == hosts[:2]
