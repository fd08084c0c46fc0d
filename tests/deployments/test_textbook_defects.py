"""One test for each defect of the one-process walk-through that gateways are taught by."""

import asyncio
import inspect
import random
from typing import Any

import pytest

from actors.circuit_breaker import FAILURE, Barred, CircuitBreaker, Permit
from actors.cost_tracker import CostTracker, Exhausted, Facts, Reserved, Usage
from actors.errors import InvalidRequest
from actors.limits import Admitted, Refused, Take
from actors.rate_limiter import RateLimiter
from deployments.cache_key import cache_key
from deployments.prices import PriceTable
from tests.replies import Seen, eventually
from tests.stack import Stack

pytestmark = pytest.mark.anyio

SECOND = 10**9
DAY = 24 * 3600 * SECOND
NOON = 1_763_899_200 * SECOND  # 2025-11-23 12:00 UTC
FACTS = Facts("k", "t", "u", "m", "p/m", "v", {})
TARGET = "simulated/gpt-4o-mini"


def limiter(rate: int, burst: int) -> RateLimiter:
    """A rate limiter with one limit, r."""
    made = RateLimiter()
    limit = {"name": "r", "scope": "cluster", "unit": "requests"}
    numbers = {"rate": rate, "period_ns": SECOND, "burst": burst, "debt": 0}
    made.configure(0, "c", "1", {"limits": [limit | numbers]})
    return made


def acquire(on: RateLimiter, now: int, id: str, quantity: int = 1, wait_s: int = 0) -> Any:
    """Take that much of r."""
    takes = (Take("r", "", quantity),)
    return on.acquire(now, "c", id, takes, 1, wait_s * SECOND)


def test_who_waited_takes_what_he_waited_for() -> None:
    """Defect: sleeps for a token, then goes on without taking it. Ten in line take ten."""
    on = limiter(rate=1, burst=1)
    acquire(on, 0, "first")
    for number in range(10):
        acquire(on, 0, f"t{number}", wait_s=60)
    admitted = []
    for second in range(1, 11):
        on.advance(second * SECOND)
        admitted.append(len([r for r in on.take_changes().results if isinstance(r[2], Admitted)]))
    assert admitted == [1] * 10
    assert isinstance(acquire(on, 10 * SECOND, "next"), Refused)


def test_half_open_lets_a_counted_few_through() -> None:
    """Defect: half-open lets everybody through. Of a hundred, three get a permit."""
    made = CircuitBreaker(random.Random(1))
    made.configure(0, "c", "1", {"default": {"failure_threshold": 1, "success_threshold": 3}})
    made.report(0, "c", TARGET, 0, FAILURE, 0)
    later = 61 * SECOND
    made.advance(later)
    found = [made.permit(later, "c", f"p{n}", TARGET) for n in range(100)]
    assert sum(isinstance(one, Permit) for one in found) == 3
    assert sum(isinstance(one, Barred) for one in found) == 97


def test_the_day_rolls_over_by_the_clock() -> None:
    """Defect: the daily cost never rolls over. Spent today, whole tomorrow, no restart."""
    costs = CostTracker()
    daily = {"name": "d", "scope": "cluster", "period": "day", "amount_nanos": 100}
    costs.configure(NOON, "c", "1", {"budgets": [daily | {"timezone": "UTC"}]})

    def reserve(id: str, now: int) -> Any:
        return costs.reserve(now, "c", id, (("d", ""),), 100, 0, FACTS)

    assert isinstance(reserve("a", NOON), Reserved)
    costs.post(NOON, "c", "a", 100, Usage())
    assert isinstance(reserve("b", NOON + 11 * 3600 * SECOND), Exhausted)
    assert isinstance(reserve("c", NOON + 13 * 3600 * SECOND), Reserved)
    assert costs.summary(NOON + 13 * 3600 * SECOND, "c")["today_cost"] == 0


async def test_checking_and_spending_are_one_step(stack: Stack) -> None:
    """Defect: concurrent requests overspend. Twenty at once on money for ten are ten calls."""
    price = {"input_per_mtok": 0, "output_per_mtok": 1000}
    await stack.policy(
        models={"gpt-4o-mini": {"targets": [TARGET], "price": price}},
        budgets=[{"name": "for-ten", "amount_usd": 0.2}],
    )
    await stack.knobs(fill_max_tokens=True, ttft_s=0.1)
    seen = await Seen.now(stack)
    await asyncio.gather(*(stack.chat(f"one step {n}", max_tokens=20) for n in range(20)))
    assert len(await seen.since(stack)) == 10


async def test_an_unknown_model_costs_nothing_because_it_is_refused(stack: Stack) -> None:
    """Defect: an unknown model costs 0. It has no price, so no policy can name it."""
    with pytest.raises(InvalidRequest):
        PriceTable().resolve("openai", "gpt-imaginary")
    await stack.services.apply_policy({"models": {"x": {"targets": ["simulated/gpt-imaginary"]}}})
    assert "no known price" in (stack.services.policy_problem or "")
    assert (await stack.chat("?", model="gpt-imaginary"))[0] == 404


@pytest.mark.parametrize("changed", ["max_tokens", "top_p", "tools", "seed", "stop", "messages"])
def test_every_parameter_is_in_the_cache_key_in_full_width(changed: str) -> None:
    """Defect: the key knows temperature only, and 64 bits. Any parameter makes another key."""
    body = {"messages": [{"role": "user", "content": "x"}], "temperature": 0.5}
    key = cache_key("t", "m", "chat", body)
    assert len(key) == 64
    assert cache_key("t", "m", "chat", body | {changed: 1}) != key


async def test_each_target_has_a_breaker_of_its_own(stack: Stack) -> None:
    """Defect: one breaker for all providers. gpt-4o down, gpt-4o-mini answers."""
    await stack.policy(
        models={
            "down": {"targets": ["simulated/missing"], "price": {"free": True}},
            "up": {"targets": [TARGET]},
        }
    )
    await stack.services.breaker.ask("force", "simulated/missing", "open")
    assert (await stack.chat("down", model="down"))[0] == 503
    assert (await stack.chat("up", model="up"))[0] == 200


async def test_a_cache_hit_burns_no_provider_quota(stack: Stack) -> None:
    """Defect: a hit takes a token. Room for one call answers the same question for ever."""
    limit = {"name": "one-call", "unit": "tokens", "rate": 1, "per": "day", "burst": 90}
    await stack.policy(limits=[limit])
    codes = [(await stack.chat("asked often", max_tokens=60))[0] for _ in range(10)]
    assert codes == [200] * 10
    assert (await stack.chat("another question", max_tokens=60))[0] == 429


def test_the_wait_that_is_told_counts_what_has_refilled() -> None:
    """Defect: wait_time does not refill first. Empty at 0, asked at 3 s for 4: 1 s to wait."""
    on = limiter(rate=1, burst=5)
    acquire(on, 0, "all", 5)
    refused = acquire(on, 3 * SECOND, "four", 4)
    assert isinstance(refused, Refused)
    assert refused.retry_after_ns == SECOND


async def test_our_bugs_are_not_the_providers_failures(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect: any exception counts as a failure. Ours leave the breaker as it was."""
    await stack.policy(breakers={"default": {"failure_threshold": 1}})

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("deployments.attempts.usage_of", broken)
    for number in range(3):
        assert (await stack.chat(f"bug {number}"))[0] == 500
    monkeypatch.undo()
    await stack.settled()
    assert (await stack.chat("still closed"))[0] == 200


@pytest.mark.parametrize("template", ["business_analysis_v1", "urgent_analysis_v1"])
async def test_the_fallback_is_that_of_the_type(stack: Stack, template: str) -> None:
    """Defect: looked up by the id's first word, so everybody gets the default."""
    await stack.services.breaker.ask("force", TARGET, "open")
    _, body, _ = await stack.execute(template=template)
    fallbacks = stack.services.fallbacks
    assert body["response"] == fallbacks[template.removesuffix("_v1")] != fallbacks["default"]


async def test_nobody_makes_himself_important(stack: Stack) -> None:
    """Defect: anybody may call himself high priority. It takes a key with that right."""
    assert (await stack.chat("vip", x_raygate_priority="high"))[0] == 403
    assert (await stack.execute("vip", priority="high"))[0] == 403


async def test_a_retry_storm_counts_every_attempt(stack: Stack) -> None:
    """Defect: one failure per request, however many attempts. Two requests of three open it."""
    await stack.policy(
        retries={"attempts": 3, "base_s": 0.1, "cap_s": 0.1},
        breakers={"default": {"failure_threshold": 4, "min_calls": 1000}},
    )
    await stack.knobs(outage=True)
    for number in range(2):
        await stack.chat(f"stormy {number}")

    async def is_open() -> bool:
        targets = (await stack.services.breaker.ask("status"))["targets"]
        return bool(targets[TARGET]["state"] == "open")

    assert await eventually(is_open)


def test_there_is_a_test_for_each_of_the_thirteen() -> None:
    """The list of defects is as long as the list of their tests."""
    named = [
        name
        for name, one in globals().items()
        if name.startswith("test_") and "Defect:" in (inspect.getdoc(one) or "")
    ]
    assert len(named) == 13
