"""More than there is room for: who is refused, how, and what it costs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deployments.overload import TICK_S, Front
from tests.stack import Stack, running

pytestmark = pytest.mark.anyio

HIGH, NORMAL, LOW = 0, 1, 2
LIMITS = [
    {"name": "all-requests", "rate": 1, "per": "day", "burst": 1_000},
    {"name": "all-slots", "unit": "concurrent", "burst": 1_000},
]


@pytest.mark.parametrize(
    ("requests", "refused"),
    [(79, ()), (80, (LOW,)), (89, (LOW,)), (90, (NORMAL, LOW)), (100, (HIGH, NORMAL, LOW))],
)
async def test_a_full_replica_refuses_low_priority_first(
    requests: int, refused: tuple[int, ...]
) -> None:
    """Of a hundred places low may use eighty, normal ninety, high all."""
    front = Front(100, 0.25, 1_000, lambda: 0.5)
    front.requests = requests
    assert tuple(rank for rank in (HIGH, NORMAL, LOW) if front.refuses(rank)) == refused
    assert front.calm == (not refused)


@pytest.mark.parametrize(
    ("late_s", "refused"),
    [
        (0.09, ()),
        (0.16, (LOW,)),
        (0.24, (LOW,)),
        (0.40, (NORMAL, LOW)),
        (0.70, (NORMAL, LOW)),
        (0.80, (HIGH, NORMAL, LOW)),
    ],
)
async def test_a_late_loop_refuses_low_priority_first(
    late_s: float, refused: tuple[int, ...]
) -> None:
    """Half of those of a priority at one and a half times the lag that it may meet."""
    front = Front(100, 0.25, 1_000, lambda: 0.49)
    for number in range(1, 10):
        front.tick(number * (TICK_S + late_s))
    assert tuple(rank for rank in (HIGH, NORMAL, LOW) if front.refuses(rank)) == refused
    assert front.late_s == pytest.approx(late_s)


async def test_one_slow_step_of_the_loop_is_no_lag() -> None:
    """Only what stays late for a quarter of a second counts, and it is over with one good tick."""
    front = Front(100, 0.25, 1_000, lambda: 0.0)
    now = 0.0
    for late_s in (0.0, 2.0, 0.0, 3.0, 1.0, 1.0, 1.0):
        now += TICK_S + late_s
        front.tick(now)
        assert front.calm
    front.tick(now + TICK_S + 1.0)
    assert not front.calm
    front.tick(now + 1.0 + 2 * TICK_S)
    assert front.calm


@pytest.fixture(scope="module")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A gateway that gives its provider at most twenty calls at a time, over ten connections."""
    folder = tmp_path_factory.mktemp("small")
    async with running(folder, max_connections=10) as stack:
        yield stack


async def busy(stack: Stack, calls: int) -> list[asyncio.Task[Any]]:
    """So many calls that are under way, each for some seconds."""
    gate = stack.services.gate(stack.services.policy.routes["gpt-4o-mini"].targets[0])  # type: ignore[union-attr]
    before = gate.in_flight
    tasks = [
        asyncio.create_task(stack.chat(f"busy {number}", x_raygate_cache="no-cache, no-store"))
        for number in range(calls)
    ]
    async with asyncio.timeout(5):
        while gate.in_flight < before + calls:  # noqa: ASYNC110 - a gate has no event for it
            await asyncio.sleep(0.01)
    return tasks


async def test_where_a_target_is_full_low_priority_goes_first_and_nothing_is_kept(
    small: Stack,
) -> None:
    """503 with an honest Retry-After; no limit, no slot, no breaker, no place is touched by it."""
    await small.policy(limits=LIMITS)
    await small.knobs(ttft_s=1.5)
    high = await small.key(name="may be high", role="user", may_be_high=True)
    calls = await busy(small, 15)
    before = await small.services.limiter.ask("status")
    status, body, headers = await small.chat("low", x_raygate_priority="low")
    assert (status, body["error"]["code"]) == (503, "overloaded")
    assert body["error"]["type"] == "overloaded_error"
    assert 1 <= int(headers["retry-after"]) <= 38
    assert headers["x-raygate-attempts"] == "0"
    calls += await busy(small, 3)
    assert (await small.chat("normal"))[0] == 503
    calls += [
        asyncio.create_task(small.chat(f"high {n}", key=high, x_raygate_priority="high"))
        for n in range(2)
    ]
    await asyncio.sleep(0.1)
    assert (await small.chat("high", key=high, x_raygate_priority="high"))[0] == 503
    ended = await asyncio.gather(*calls)
    assert [status for status, _, _ in ended] == [200] * 20
    await small.settled()
    after = await small.services.limiter.ask("status")
    left = [
        {one["name"]: one["remaining"] for one in told["limits"] if one["subject"] == ""}
        for told in (before, after)
    ]
    assert left[1]["all-slots"] == 1_000
    assert 1_000 - left[1]["all-requests"] == 20
    assert (await small.services.breaker.ask("status"))["targets"].get(
        "simulated/gpt-4o-mini", {"failure_count": 0}
    )["failure_count"] == 0
    assert not small.services._gates["simulated/gpt-4o-mini"].in_flight


async def test_the_next_target_takes_what_the_first_has_no_room_for(small: Stack) -> None:
    """A full target is passed over as one that rests is."""
    await small.policy(
        models={
            "gpt-4o-mini": {"targets": ["simulated/gpt-4o-mini"]},
            "either": {"targets": ["simulated/gpt-4o-mini", "simulated/gpt-4o"]},
        }
    )
    await small.knobs(ttft_s=1.0)
    calls = await busy(small, 18)
    status, _, headers = await small.chat("overflows", model="either")
    assert (status, headers["x-raygate-target"]) == (200, "simulated/gpt-4o")
    await asyncio.gather(*calls)


async def test_what_is_cached_is_answered_while_its_target_is_full(small: Stack) -> None:
    """A hit asks nothing of the target."""
    await small.policy()
    await small.knobs(ttft_s=0.0)
    assert (await small.chat("cached before"))[0] == 200
    await small.settled()
    await small.knobs(ttft_s=1.0)
    calls = await busy(small, 18)
    status, _, headers = await small.chat("cached before", x_raygate_priority="low")
    assert (status, headers["x-raygate-cache"]) == (200, "HIT")
    assert (await small.chat("not cached", x_raygate_priority="low"))[0] == 503
    await asyncio.gather(*calls)


async def test_a_stream_has_its_place_until_its_end(small: Stack) -> None:
    """Also when its client leaves: then until it is read to its end."""
    await small.policy()
    await small.knobs(ttft_s=0.0, tokens_per_s=40, output_tokens=64)
    gate = small.services.gate(small.services.policy.routes["gpt-4o-mini"].targets[0])  # type: ignore[union-attr]
    body = {
        "model": "gpt-4o-mini",
        "stream": True,
        "messages": [{"role": "user", "content": "a long stream"}],
    }
    async with small.session.post(
        small.url + "/v1/chat/completions", json=body, headers=small.headers()
    ) as reply:
        await reply.content.readany()
        assert gate.in_flight == 1
        reply.close()
    await asyncio.sleep(0.2)
    assert gate.in_flight == 1
    await small.settled()
    assert gate.in_flight == 0


async def test_health_is_told_while_a_replica_refuses_everything(small: Stack) -> None:
    """Health needs no place, and 503 comes without the body having been read."""
    front = small.services.front
    front.requests += 10_000
    try:
        status, body, headers = await small.chat("no place")
        assert (status, body["error"]["code"]) == (503, "overloaded")
        assert headers["x-request-id"]
        assert (await small.call("GET", "/admin/v1/keys", key=small.admin))[0] == 503
        for path in ("/health", "/health/live", "/health/ready"):
            async with small.session.get(small.url + path) as reply:
                assert reply.status == 200
    finally:
        front.requests -= 10_000
    assert front.requests == 0
    assert (await small.call("GET", "/admin/v1/keys", key=small.admin))[0] == 200


async def test_anybodys_health_waits_for_no_singleton(small: Stack) -> None:
    """One falls silent: the word comes within a tenth of a second, and soon says degraded."""
    loop = asyncio.get_running_loop()
    line = small.lines["cost_tracker"]
    line.silence()
    try:
        words = set()
        until = loop.time() + 4.0
        while loop.time() < until and "degraded" not in words:
            began = loop.time()
            async with small.session.get(small.url + "/health") as reply:
                words.add((await reply.json())["status"])
            assert loop.time() - began < 0.1
            await asyncio.sleep(0.1)
        assert "degraded" in words
    finally:
        line.restore()
