"""More than there is room for: who is refused, how, and what it costs."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from deployments.overload import TICK_S, Front
from deployments.target_gate import Gate
from tests.replies import eventually
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
    front = Front(1_000, 0.25, 1_000, lambda: 0.49)
    front.requests = 100
    for number in range(1, 10):
        front.tick(number * (TICK_S + late_s))
    assert tuple(rank for rank in (HIGH, NORMAL, LOW) if front.refuses(rank)) == refused
    assert front.late_s == pytest.approx(late_s)
    front.requests = 99
    assert front.calm


async def test_one_slow_step_of_the_loop_is_no_lag() -> None:
    """Two steps that take long, or a quarter of a second of shorter ones; one good tick ends it."""
    front = Front(1_000, 0.25, 1_000, lambda: 0.0)
    front.requests = 100
    now = 0.0
    for late_s in (0.0, 2.0, 0.0, 3.0, 0.0, 0.01, 0.02, 2.0):
        now += TICK_S + late_s
        front.tick(now)
        assert front.calm
    front.tick(now + TICK_S + 1.0)
    assert front.late_s == pytest.approx(1.0)
    assert not front.calm
    front.tick(now + 1.0 + 2 * TICK_S)
    assert front.calm


@pytest.fixture(scope="module")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A gateway that gives its provider at most twenty calls at a time, over ten connections."""
    folder = tmp_path_factory.mktemp("small")
    async with running(folder, max_connections=10) as stack:
        yield stack


def gate_of(stack: Stack) -> Gate:
    """The gate of the first target."""
    assert stack.services.policy is not None
    return stack.services.gate(stack.services.policy.routes["gpt-4o-mini"].targets[0])


@contextmanager
def busy(stack: Stack, calls: int) -> Iterator[None]:
    """So many calls are under way at the first target."""
    gate = gate_of(stack)
    for _ in range(calls):
        gate.enter()
    try:
        yield
    finally:
        for _ in range(calls):
            gate.leave(time.monotonic())


@pytest.mark.parametrize(
    ("calls", "answered"),
    [(14, {"low", "normal", "high"}), (15, {"normal", "high"}), (18, {"high"}), (20, set())],
)
async def test_where_a_target_is_full_low_priority_goes_first_and_nothing_is_kept(
    small: Stack, calls: int, answered: set[str]
) -> None:
    """503 with an honest Retry-After; no limit, no slot, no breaker, no place is touched by it."""
    await small.policy(limits=LIMITS)
    key = await small.key(name="may be high", role="user", may_be_high=True)
    await small.settled()
    before = {one["name"]: one["remaining"] for one in await limits_of(small)}
    with busy(small, calls):
        replies = {
            word: await small.chat(f"{word} {calls}", key=key, x_raygate_priority=word)
            for word in ("low", "normal", "high")
        }
    for word, (status, body, headers) in replies.items():
        if word in answered:
            assert status == 200, (word, body)
            continue
        assert (status, body["error"]["code"]) == (503, "overloaded")
        assert body["error"]["type"] == "overloaded_error"
        assert 1 <= int(headers["retry-after"]) <= 38
        assert headers["x-raygate-attempts"] == "0"
    await small.settled()
    after = {one["name"]: one["remaining"] for one in await limits_of(small)}
    assert before["all-requests"] - after["all-requests"] == len(answered)
    assert after["all-slots"] == 1_000
    breakers = (await small.services.breaker.ask("status"))["targets"]
    assert all(one["failure_count"] == 0 for one in breakers.values())
    assert gate_of(small).in_flight == 0


async def limits_of(stack: Stack) -> list[dict[str, Any]]:
    """The limits of everybody together."""
    told = await stack.services.limiter.ask("status")
    return [one for one in told["limits"] if one["subject"] == ""]


async def test_the_next_target_takes_what_the_first_has_no_room_for(small: Stack) -> None:
    """A full target is passed over as one that rests is."""
    await small.policy(
        models={
            "gpt-4o-mini": {"targets": ["simulated/gpt-4o-mini"]},
            "either": {"targets": ["simulated/gpt-4o-mini", "simulated/gpt-4o"]},
        }
    )
    with busy(small, 18):
        status, _, headers = await small.chat("overflows", model="either")
    assert (status, headers["x-raygate-target"]) == (200, "simulated/gpt-4o")


async def test_what_is_cached_is_answered_while_its_target_is_full(small: Stack) -> None:
    """A hit asks nothing of the target."""
    await small.policy()
    assert (await small.chat("cached before"))[0] == 200
    await small.settled()
    with busy(small, 18):
        status, _, headers = await small.chat("cached before", x_raygate_priority="low")
        assert (status, headers["x-raygate-cache"]) == (200, "HIT")
        assert (await small.chat("not cached", x_raygate_priority="low"))[0] == 503


async def test_a_prompt_is_told_of_overload_as_it_is(small: Stack) -> None:
    """`overloaded` is no reason for a fallback text, by the outside contract."""
    await small.policy()
    with busy(small, 20):
        status, body, _ = await small.execute("too many")
    assert (status, body["error"]["code"]) == (503, "overloaded")


async def test_no_free_connection_is_overload_and_no_failure(
    small: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ten are in use: who finds none free in time gets 503, and the breaker hears nothing."""
    await small.policy()
    await small.knobs(ttft_s=3.0)
    provider = small.services.providers["simulated"]
    monkeypatch.setattr(provider, "_connect_timeout_s", 0.2)
    calls = [asyncio.create_task(small.chat(f"has a connection {n}")) for n in range(10)]
    await eventually(lambda: asyncio.sleep(0, gate_of(small).in_flight == 10))
    status, body, headers = await small.chat("has none")
    assert (status, body["error"]["code"]) == (503, "overloaded")
    assert "retry-after" in headers
    assert [status for status, _, _ in await asyncio.gather(*calls)] == [200] * 10
    await small.knobs(ttft_s=0.0)
    await small.settled()
    breakers = (await small.services.breaker.ask("status"))["targets"]
    assert all(one["failure_count"] == 0 for one in breakers.values())


async def test_those_who_wait_for_a_limit_take_no_place(small: Stack) -> None:
    """Ten requests stand in line for a slot while one call is under way: one place is taken."""
    await small.policy(limits=[{"name": "one-slot", "unit": "concurrent", "burst": 1}])
    await small.knobs(ttft_s=0.5)
    calls = [
        asyncio.create_task(small.chat(f"in line {n}", x_raygate_max_wait="0.2")) for n in range(10)
    ]
    seen = 0
    while not all(call.done() for call in calls):
        seen = max(seen, gate_of(small).in_flight)
        await asyncio.sleep(0.01)
    assert seen == 1
    assert {call.result()[0] for call in calls} == {200, 429}
    await small.knobs(ttft_s=0.0)


async def test_a_stream_has_its_place_until_its_end(small: Stack) -> None:
    """Also when its client leaves: then until it is read to its end."""
    await small.policy()
    await small.knobs(ttft_s=0.0, tokens_per_s=40, output_tokens=64)
    gate = gate_of(small)
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
