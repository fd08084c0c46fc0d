import asyncio
import time
from typing import Any

import pytest

from tests.replies import Seen
from tests.stack import Stack

pytestmark = pytest.mark.anyio

DOLLAR_PRICE = {"input_per_mtok": 0, "output_per_mtok": 1000}
PRICED = {"gpt-4o-mini": {"targets": ["simulated/gpt-4o-mini"], "price": DOLLAR_PRICE}}


async def test_a_hundred_at_two_cents_on_one_dollar_are_fifty_calls(stack: Stack) -> None:
    """Worst case and cost are 0.02 USD each: exactly 50 calls, and not a cent over."""
    await stack.policy(models=PRICED, budgets=[{"name": "one-dollar", "amount_usd": 1.0}])
    await stack.knobs(fill_max_tokens=True, ttft_s=0.05)
    seen = await Seen.now(stack)
    answers = await asyncio.gather(
        *(stack.chat(f"two cents {number}", max_tokens=20) for number in range(100))
    )
    codes = [body["error"]["code"] for status, body, _ in answers if status != 200]
    assert codes == ["insufficient_quota"] * 50
    assert len(await seen.since(stack)) == 50
    await stack.settled()
    _, budgets, _ = await stack.call("GET", "/admin/v1/budgets", key=stack.admin)
    (mine,) = [each for each in budgets["data"] if each["name"] == "one-dollar"]
    assert (mine["posted_nanos"], mine["pending_nanos"]) == (10**9, 0)


async def test_an_exhausted_budget_says_which_and_until_when(stack: Stack) -> None:
    """429 insufficient_quota, not to be retried, names the budget, its owner and its reset."""
    budgets = [{"name": "team-pot", "scope": "team", "period": "month", "amount_usd": 0.001}]
    await stack.policy(models=PRICED, budgets=budgets)
    status, body, headers = await stack.chat("dear", max_tokens=20)
    error = body["error"]
    assert (status, error["code"], error["type"]) == (429,) + ("insufficient_quota",) * 2
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers
    assert "team-pot" in error["message"]
    assert "team-a" in error["message"]
    assert "resets in" in error["message"]


async def test_every_budget_binds_or_none_is_touched(stack: Stack) -> None:
    """The one that refuses leaves the others as they were."""
    await stack.policy(
        models=PRICED,
        budgets=[
            {"name": "plenty", "amount_usd": 100},
            {"name": "user-pot", "scope": "user", "amount_usd": 0.03},
        ],
    )
    assert (await stack.chat("first", max_tokens=20, user="ann"))[0] == 200
    status, body, _ = await stack.chat("second", max_tokens=20, user="ann")
    assert (status, "user-pot" in body["error"]["message"]) == (429, True)
    assert (await stack.chat("another user", max_tokens=20, user="bob"))[0] == 200
    await stack.settled()
    _, budgets, _ = await stack.call("GET", "/admin/v1/budgets", key=stack.admin)
    left = {(b["name"], b["subject"]): b["pending_nanos"] for b in budgets["data"]}
    assert set(left.values()) == {0}


async def test_a_refused_budget_gives_tokens_and_requests_back(stack: Stack) -> None:
    """All or nothing: what no call was made for is not counted either."""
    await stack.policy(
        models=PRICED,
        limits=[
            {"name": "back-requests", "rate": 1, "per": "hour", "burst": 9},
            {"name": "back-tokens", "unit": "tokens", "rate": 1, "per": "hour", "burst": 900},
        ],
        budgets=[{"name": "empty", "amount_usd": 0}],
    )
    assert (await stack.chat("all or nothing"))[0] == 429
    await stack.settled()
    _, limits, _ = await stack.call("GET", "/admin/v1/limits", key=stack.admin)
    assert {each["name"]: each["remaining"] for each in limits["limits"]} == {
        "back-requests": 9,
        "back-tokens": 900,
    }


async def test_a_refused_limit_says_which_and_when(stack: Stack) -> None:
    """429 with Retry-After and the state of the limits, for whoever comes too early."""
    limit = {"name": "two-an-hour", "scope": "key", "rate": 2, "per": "hour", "burst": 2}
    await stack.policy(limits=[limit])
    for number in range(2):
        assert (await stack.chat(f"allowed {number}"))[0] == 200
    status, body, headers = await stack.chat("one too many")
    error = body["error"]
    assert (status, error["code"], error["type"]) == (
        429,
        "rate_limit_exceeded",
        "rate_limit_error",
    )
    assert "two-an-hour" in error["message"]
    assert 1700 < int(headers["retry-after"]) <= 1800
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "0"


async def test_more_than_the_burst_is_refused_for_ever(stack: Stack) -> None:
    """No Retry-After, no retry, and the message says why."""
    limit = {"name": "small", "unit": "tokens", "rate": 1000, "burst": 10}
    await stack.policy(limits=[limit])
    status, body, headers = await stack.chat("too big for it", max_tokens=50)
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers
    assert "never has more than 10" in body["error"]["message"]


async def test_who_is_early_waits_for_his_turn(stack: Stack) -> None:
    """Within max-wait a request queues instead of being refused, and is then served."""
    await stack.policy(limits=[{"name": "five-a-second", "rate": 5, "burst": 1}])
    began = time.monotonic()
    answers = await asyncio.gather(*(stack.chat(f"in line {number}") for number in range(4)))
    assert {status for status, _, _ in answers} == {200}
    assert time.monotonic() - began > 0.55
    status, _, headers = await stack.chat("in no mood", x_raygate_max_wait="0")
    assert status == 429
    assert headers["retry-after"] == "1"


async def test_a_client_that_leaves_the_queue_takes_nothing(stack: Stack) -> None:
    """Its ticket goes; those behind it move up."""
    await stack.policy(limits=[{"name": "left-queue", "rate": 2, "burst": 1}])
    seen = await Seen.now(stack)
    await stack.chat("first of the queue")
    leaver = asyncio.create_task(stack.chat("leaves the queue"))
    await asyncio.sleep(0.1)
    behind = asyncio.create_task(stack.chat("behind it"))
    await asyncio.sleep(0.1)
    leaver.cancel()
    began = time.monotonic()
    assert (await behind)[0] == 200
    assert time.monotonic() - began < 0.7
    await stack.settled()
    assert len(await seen.since(stack)) == 2


async def test_high_priority_goes_into_debt_that_the_others_pay(stack: Stack) -> None:
    """High requests don't wait; down to the debt, and the long-run rate still holds."""
    limit = {"name": "debt", "rate": 1, "per": "minute", "burst": 2, "debt": 2}
    await stack.policy(limits=[limit])
    high = await stack.key(may_be_high=True, team="team-h")
    codes = [
        (await stack.chat(f"high {n}", key=high, x_raygate_priority="high"))[0] for n in range(5)
    ]
    assert codes == [200] * 4 + [429]
    assert (await stack.chat("normal"))[0] == 429


async def test_slots_bound_what_is_in_flight(stack: Stack) -> None:
    """Concurrent calls never exceed the slots; the others wait, and all are served."""
    await stack.policy(limits=[{"name": "three-slots", "unit": "concurrent", "burst": 3}])
    await stack.knobs(ttft_s=0.05)
    seen = await Seen.now(stack)
    answers = await asyncio.gather(*(stack.chat(f"slot {n}", stream=n % 2 == 0) for n in range(15)))
    assert {status for status, _, _ in answers} == {200}
    assert max(call.in_flight for call in await seen.since(stack)) == 3
    await stack.settled()


async def test_tokens_are_estimated_then_corrected(stack: Stack) -> None:
    """The estimate is the worst case; what the call did not use comes back."""
    limit = {"name": "corrected", "unit": "tokens", "rate": 1, "per": "hour", "burst": 5000}
    await stack.policy(limits=[limit])
    await stack.knobs(output_tokens=10)
    _, body, headers = await stack.chat("estimated high", max_tokens=4000)
    assert int(headers["x-ratelimit-remaining-tokens"]) < 1000
    await stack.settled()
    _, limits, _ = await stack.call("GET", "/admin/v1/limits", key=stack.admin)
    assert limits["limits"][0]["remaining"] == 5000 - body["usage"]["total_tokens"]


@pytest.mark.parametrize("scope", ["cluster", "team", "key", "model", "key_model", "user"])
async def test_each_scope_counts_by_its_own(stack: Stack, scope: str) -> None:
    """A limit of one, and whether a second request of somebody else falls under it."""
    limit = {"name": f"by-{scope}", "scope": scope, "rate": 1, "per": "hour", "burst": 1}
    await stack.policy(limits=[limit])
    other = await stack.key(team="elsewhere")
    colleague = await stack.key(team="team-a")
    assert (await stack.chat("one", user="ann"))[0] == 200
    shares = {
        "same": (await stack.chat("two", user="ann"))[0] == 429,
        "user": (await stack.chat("three", user="bob"))[0] == 429,
        "model": (await stack.chat("four", user="ann", model="gpt-4o"))[0] == 429,
        "colleague": (await stack.chat("five", user="ann", key=colleague))[0] == 429,
        "other": (await stack.chat("six", user="ann", key=other))[0] == 429,
    }
    expected = {
        "cluster": {"same", "user", "model", "colleague", "other"},
        "team": {"same", "user", "model", "colleague"},
        "key": {"same", "user", "model"},
        "model": {"same", "user", "colleague", "other"},
        "key_model": {"same", "user"},
        "user": {"same", "model", "colleague"},
    }
    assert {who for who, bound in shares.items() if bound} == expected[scope]


@pytest.mark.parametrize("subjects", [["team-a"], ["elsewhere"]])
async def test_a_limit_may_bind_some_only(stack: Stack, subjects: list[str]) -> None:
    """`subjects` names those whom it binds."""
    limit: dict[str, Any] = {"name": f"some-{subjects[0]}", "scope": "team", "subjects": subjects}
    await stack.policy(limits=[limit | {"rate": 1, "per": "hour", "burst": 1}])
    codes = {(await stack.chat(f"bound {subjects[0]} {n}"))[0] for n in range(3)}
    assert codes == ({200, 429} if subjects == ["team-a"] else {200})


async def test_a_limit_is_exact_by_admission_stamps(stack: Stack) -> None:
    """Over every window at most burst + rate · W calls, by the stamps in the provider's log."""
    await stack.policy(limits=[{"name": "exact", "rate": 40, "burst": 10, "debt": 0}])
    seen = await Seen.now(stack)
    await asyncio.gather(*(stack.chat(f"exactly {n}") for n in range(60)))
    stamps = sorted(call.admitted_ns or 0 for call in await seen.since(stack))
    assert len(stamps) == 60
    for first in range(60):
        for last in range(first, 60):
            window_s = (stamps[last] - stamps[first]) / 1e9
            assert last - first + 1 <= 10 + 40 * window_s + 1e-6
    assert (stamps[-1] - stamps[0]) / 1e9 < 1.5 * 50 / 40
