"""What a request does while a singleton is away, by the policy's `unreachable`."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actors.errors import InvalidRequest
from deployments.absence import silent_s
from deployments.config import parse_policy
from tests.replies import Seen
from tests.stack import Stack, policy

pytestmark = pytest.mark.anyio

# A view is good for two seconds, so this is as soon as a silence can be told.
SOON_S = 2.1
LIMITS: dict[str, Any] = {"limits": [{"name": "few", "rate": 1000, "burst": 1000}]}


@asynccontextmanager
async def away(stack: Stack, name: str, for_s: float = 0.0) -> AsyncIterator[None]:
    """A singleton that nothing is heard of, for so long already."""
    one = stack.services.consultants[name]
    stack.lines[name].silence()
    try:
        async with asyncio.timeout(20):
            while for_s and (silent_s(one) < for_s or one.fresh()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        yield
    finally:
        stack.lines[name].restore()
        async with asyncio.timeout(10):
            while not (one.fresh() and one.reachable):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def timed(work: Awaitable[tuple[int, Any, dict[str, str]]]) -> tuple[float, int, Any, Any]:
    """Seconds, status, body and headers of a request."""
    began = time.monotonic()
    status, body, headers = await work
    return time.monotonic() - began, status, body, headers


async def went_on(stack: Stack, name: str) -> int:
    """What the metrics say of requests that went on without this singleton."""
    await asyncio.sleep(0.4)
    _, text, _ = await stack.call("GET", "/metrics", key=stack.admin)
    wanted = f'raygate_went_on_without_total{{singleton="{name}"}} '
    return sum(int(line.removeprefix(wanted)) for line in text.splitlines() if wanted in line)


async def test_without_the_cache_requests_go_on(stack: Stack) -> None:
    """After the patience by themselves, then at once; when it is back it serves again."""
    await stack.policy(unreachable={"response_cache": {"then": "go_on", "after_s": SOON_S}})
    before = await went_on(stack, "response_cache")
    async with away(stack, "response_cache"):
        took_s, status, _, headers = await timed(stack.chat("without a cache"))
        assert (status, headers["x-raygate-cache"]) == (200, "BYPASS")
        assert took_s < 2 * SOON_S
        took_s, status, _, headers = await timed(stack.chat("without a cache"))
        assert (status, headers["x-raygate-cache"]) == (200, "BYPASS")
        assert took_s < 1
    assert await went_on(stack, "response_cache") == before + 2
    for word in ("MISS", "HIT"):
        assert (await stack.chat("without a cache"))[2]["x-raygate-cache"] == word
    await stack.settled()


async def test_a_restart_of_the_cache_is_waited_for(stack: Stack) -> None:
    """I5: by default nobody goes on without it for as long as a restart takes."""
    async with away(stack, "response_cache"):
        asked = [asyncio.create_task(stack.chat("restarting")) for _ in range(5)]
        await asyncio.sleep(1.8)
        seen = await Seen.now(stack)
        assert not any(one.done() for one in asked)
    words = sorted([headers["x-raygate-cache"] for _, _, headers in await asyncio.gather(*asked)])
    assert words == ["MISS", *["WAIT"] * 4]
    assert len(await seen.since(stack)) == 1


async def test_half_of_a_requests_time_is_the_most_that_it_waits(stack: Stack) -> None:
    """A patience longer than the request itself does not fail it."""
    await stack.policy(unreachable={"response_cache": {"then": "go_on", "after_s": 600}})
    async with away(stack, "response_cache"):
        took_s, status, _, _ = await timed(stack.chat("half", x_raygate_timeout="5"))
    assert status == 200
    assert 2 < took_s < 4


async def test_without_the_breaker_targets_count_as_last_heard_of(stack: Stack) -> None:
    """A closed one is called, and hears of it later; one that was open is not."""
    await stack.policy(unreachable={"circuit_breaker": {"then": "go_on", "after_s": SOON_S}})
    target = "simulated/gpt-4o-mini"
    assert (await stack.chat("to be known"))[0] == 200
    async with away(stack, "circuit_breaker", SOON_S):
        took_s, status, _, _ = await timed(stack.chat("without a breaker"))
        assert (status, took_s < 1) == (200, True)
    status = (await stack.services.breaker.ask("status"))["targets"][target]
    assert status["success_count"] >= 2
    await stack.services.breaker.ask("force", target, "open")
    await stack.services.breaker.ask("everywhere", "known")
    async with away(stack, "circuit_breaker", SOON_S):
        seen = await Seen.now(stack)
        _, status, body, _ = await timed(stack.chat("open", x_raygate_timeout="1"))
        assert (status, body["error"]["code"]) == (503, "singleton_unavailable")
        assert not await seen.since(stack)


async def test_what_a_breaker_would_hear_too_late_is_not_kept(stack: Stack) -> None:
    """Its window is over: while it is away for longer, outcomes don't pile up."""
    await stack.policy(
        unreachable={"circuit_breaker": {"then": "go_on", "after_s": SOON_S}},
        breakers={"default": {"window_s": 3.0}},
    )
    breaker = stack.services.breaker
    async with away(stack, "circuit_breaker", 3.1):
        before = len(breaker._queue)
        for number in range(5):
            assert (await stack.chat(f"too late {number}"))[0] == 200
        assert len(breaker._queue) == before


@pytest.mark.parametrize("then", ["wait", "go_on", "refuse"])
async def test_without_the_limiter_it_is_as_the_policy_says(stack: Stack, then: str) -> None:
    """By default a request waits for its whole time; it goes on, or is refused, if so chosen."""
    rule = {} if then == "wait" else {"rate_limiter": {"then": then, "after_s": SOON_S}}
    tokens = {"name": "tokens", "unit": "tokens", "rate": 10**6, "burst": 10**6}
    await stack.policy(limits=[*LIMITS["limits"], tokens], unreachable=rule)
    before = await went_on(stack, "rate_limiter")
    async with away(stack, "rate_limiter"):
        first = await timed(stack.chat("unlimited?", x_raygate_timeout="8"))
        second = await timed(stack.chat("and now?", x_raygate_timeout="1.5"))
    if then == "go_on":
        assert (first[1], second[1]) == (200, 200)
        assert second[0] < 1
        assert await went_on(stack, "rate_limiter") >= before + 2
    else:
        for took_s, status, body, _ in (first, second):
            assert (status, body["error"]["code"]) == (503, "singleton_unavailable")
            assert took_s < 9
        assert (second[0] < 1) == (then == "refuse")
    await stack.settled()


@pytest.mark.parametrize("then", ["wait", "refuse"])
async def test_money_is_never_spent_unasked(stack: Stack, then: str) -> None:
    """I2: no call without the ledger, whatever the policy says; nothing is held afterwards."""
    await stack.policy(unreachable={"cost_tracker": {"then": then, "after_s": SOON_S}})
    seen = await Seen.now(stack)
    async with away(stack, "cost_tracker", SOON_S):
        took_s, status, body, _ = await timed(stack.chat("for free?", x_raygate_timeout="1.5"))
        assert (status, body["error"]["code"]) == (503, "singleton_unavailable")
        assert (took_s < 1) == (then == "refuse")
    assert not await seen.since(stack)
    await stack.settled()


@pytest.mark.parametrize(
    "name", ["cost_tracker", "key_store", "prompt_registry", "experiment_manager"]
)
def test_what_can_not_be_done_without_is_not_offered(name: str) -> None:
    """Money, keys and prompts: going on without them is no valid policy."""
    with pytest.raises(InvalidRequest, match=f"unreachable.{name}.then"):
        parse_policy(policy(unreachable={name: {"then": "go_on"}}))


async def test_a_key_that_nobody_can_look_up_is_never_let_in(stack: Stack) -> None:
    """Known or not: what is in an old view may have been revoked since."""
    await stack.policy(unreachable={"key_store": {"then": "refuse", "after_s": SOON_S}})
    assert (await stack.chat("known"))[0] == 200
    async with away(stack, "key_store", SOON_S):
        for key in (stack.user, "rg-" + "y" * 43):
            took_s, status, body, _ = await timed(stack.chat("who?", key=key))
            assert (status, body["error"]["code"]) == (503, "singleton_unavailable")
            assert took_s < 1


async def test_a_prompt_that_nobody_can_look_up_is_refused_in_time(stack: Stack) -> None:
    """Its registry is away: 503 after the patience of the policy, not after a whole deadline."""
    await stack.policy(unreachable={"prompt_registry": {"then": "refuse", "after_s": SOON_S}})
    async with away(stack, "prompt_registry", SOON_S):
        took_s, status, body, _ = await timed(stack.execute("which one?"))
    assert (status, body["error"]["code"]) == (503, "singleton_unavailable")
    assert took_s < 1
