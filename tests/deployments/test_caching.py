import asyncio
from typing import Any

import pytest

from tests.replies import Seen, events, text_of, words
from tests.stack import Stack

pytestmark = pytest.mark.anyio

ZERO = "0.000000000"


async def cache_word(stack: Stack, text: str, **more: Any) -> str:
    """What `x-raygate-cache` says to this question."""
    status, body, headers = await stack.chat(text, **more)
    assert status == 200, body
    return headers["x-raygate-cache"]


async def test_the_same_question_is_answered_from_the_cache(stack: Stack) -> None:
    """HIT, the same body, no cost, no attempt."""
    _, first, _ = await stack.chat("cached")
    seen = await Seen.now(stack)
    _, second, headers = await stack.chat("cached")
    assert second == first
    assert (headers["x-raygate-cache"], headers["x-raygate-cost-usd"]) == ("HIT", ZERO)
    assert headers["x-raygate-attempts"] == "0"
    assert "x-raygate-target" not in headers
    assert not await seen.since(stack)


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0.2},
        {"max_tokens": 5},
        {"seed": 7},
        {"top_p": 0.5},
        {"response_format": {"type": "json_object"}},
        {"stop": ["x"]},
        {"n": 2},
        {"model": "gpt-4o"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"logit_bias": {"50256": -100}},
        {"something_new": True},
    ],
)
async def test_every_parameter_that_shapes_an_answer_counts(
    stack: Stack, more: dict[str, Any]
) -> None:
    """Another value is another question."""
    await stack.chat("shaped")
    assert await cache_word(stack, "shaped", **more) == "MISS"


async def test_who_asks_and_how_does_not_count(stack: Stack) -> None:
    """The user's name, tags and priority do not shape an answer."""
    await stack.chat("whoever asks")
    assert await cache_word(stack, "whoever asks", user="u9") == "HIT"
    assert await cache_word(stack, "whoever asks", x_raygate_priority="low") == "HIT"


async def test_tenants_never_share(stack: Stack) -> None:
    """A team sees its own answers; a key without a team is a tenant of its own."""
    await stack.chat("private")
    other = await stack.key(team="team-b")
    loners = [await stack.key(), await stack.key()]
    colleague = await stack.key(team="team-a")
    assert await cache_word(stack, "private", key=other) == "MISS"
    for key in loners:
        assert await cache_word(stack, "private", key=key) == "MISS"
    assert await cache_word(stack, "private", key=colleague) == "HIT"


async def test_a_shared_cache_is_opted_into(stack: Stack) -> None:
    """With shared: true one tenant's answer serves another."""
    await stack.policy(cache={"shared": True})
    await stack.chat("public")
    assert await cache_word(stack, "public", key=await stack.key(team="team-b")) == "HIT"


async def test_no_cache_asks_anew_and_keeps_the_answer(stack: Stack) -> None:
    """The lookup is skipped; the new answer replaces the old one."""
    await stack.chat("fresh please", x_raygate_cache="no-store")
    assert await cache_word(stack, "fresh please") == "MISS"
    assert await cache_word(stack, "fresh please", x_raygate_cache="no-cache") == "MISS"
    assert await cache_word(stack, "fresh please") == "HIT"


async def test_no_store_keeps_nothing_but_may_look(stack: Stack) -> None:
    """What was asked with no-store is not there for the next one."""
    assert await cache_word(stack, "secret", x_raygate_cache="no-store") == "MISS"
    assert await cache_word(stack, "secret") == "MISS"
    assert await cache_word(stack, "secret", x_raygate_cache="no-store") == "HIT"


async def test_both_bypass_the_cache(stack: Stack) -> None:
    """Neither looked up nor kept, and a model without cache is always so."""
    wishes = "no-cache, no-store"
    assert await cache_word(stack, "around", x_raygate_cache=wishes) == "BYPASS"
    assert await cache_word(stack, "around") == "MISS"
    await stack.policy(
        models={"gpt-4o-mini": {"targets": ["simulated/gpt-4o-mini"], "cache": False}}
    )
    assert await cache_word(stack, "around") == "BYPASS"


async def test_max_age_refuses_what_is_older(stack: Stack) -> None:
    """An entry of that age or above is a miss."""
    await stack.chat("aged")
    assert await cache_word(stack, "aged", x_raygate_cache="max-age=60") == "HIT"
    await asyncio.sleep(1.05)
    assert await cache_word(stack, "aged", x_raygate_cache="max-age=1") == "MISS"
    assert await cache_word(stack, "aged", x_raygate_cache="max-age=1") == "HIT"


@pytest.mark.parametrize("cache", [True, False])
async def test_only_if_cached_never_calls(stack: Stack, cache: bool) -> None:
    """504 where there is nothing (also for a model without cache), else the answer."""
    model = {"targets": ["simulated/gpt-4o-mini"], "cache": cache}
    await stack.policy(models={"gpt-4o-mini": model})
    seen = await Seen.now(stack)
    text = f"only if cached {cache}"
    status, body, headers = await stack.chat(text, x_raygate_cache="only-if-cached")
    assert (status, body["error"]["code"]) == (504, "not_cached")
    assert headers["x-should-retry"] == "false"
    assert not await seen.since(stack)
    if cache:
        await stack.chat(text)
        assert await cache_word(stack, text, x_raygate_cache="only-if-cached") == "HIT"


async def test_a_hundred_at_once_are_one_call(stack: Stack) -> None:
    """One leader; the others wait for its answer and cost nothing."""
    await stack.knobs(ttft_s=0.2)
    seen, rows = await Seen.now(stack), len(await stack.ledger())
    answers = await asyncio.gather(*(stack.chat("all at once") for _ in range(100)))
    assert {status for status, _, _ in answers} == {200}
    assert len({text_of(body) for _, body, _ in answers}) == 1
    told = [headers["x-raygate-cache"] for _, _, headers in answers]
    assert told.count("MISS") == 1
    assert set(told) <= {"MISS", "WAIT", "HIT"}
    assert sum(h["x-raygate-cost-usd"] != ZERO for _, _, h in answers) == 1
    assert len(await seen.since(stack)) == 1
    assert len(await stack.ledger()) == rows + 1


async def test_streams_and_plain_ones_at_once_are_one_call(stack: Stack) -> None:
    """Whoever leads, each gets the answer in the shape that it asked for."""
    await stack.knobs(ttft_s=0.1)
    seen = await Seen.now(stack)
    answers = await asyncio.gather(
        *(stack.chat("in both shapes", stream=number % 2 == 0) for number in range(20))
    )
    said = {
        words(events(body)) if isinstance(body, str) else text_of(body) for _, body, _ in answers
    }
    assert len(said) == 1
    assert len(await seen.since(stack)) == 1


async def test_the_next_waiter_leads_when_the_leader_fails(stack: Stack) -> None:
    """A leader that fails fails alone: who waits asks for itself, one after another."""
    await stack.policy(retries={"attempts": 1}, breakers={"default": {"failure_threshold": 0}})
    await stack.knobs(error_rate=0.5, seed=1, error_after_s=0.02, ttft_s=0.02)
    seen = await Seen.now(stack)
    answers = await asyncio.gather(*(stack.chat("leaders fail") for _ in range(20)))
    made = await seen.since(stack)
    assert max(call.in_flight for call in made) == 1
    failed = sum(status == 502 for status, _, _ in answers)
    assert [call.outcome for call in made] == ["error"] * failed + ["ok"]
    assert sum(status == 200 for status, _, _ in answers) == 20 - failed


async def test_a_waiters_deadline_is_its_own(stack: Stack) -> None:
    """It is over at its own time; the leader goes on and is not disturbed."""
    await stack.knobs(ttft_s=0.5)
    leader = asyncio.create_task(stack.chat("slow leader"))
    await asyncio.sleep(0.1)
    status, body, _ = await stack.chat("slow leader", x_raygate_timeout="0.1")
    assert (status, body["error"]["code"]) == (408, "deadline_exceeded")
    assert (await leader)[0] == 200


async def test_stale_while_revalidate_refreshes_once(stack: Stack) -> None:
    """A stale answer at once for everybody, and one call that renews it."""
    await stack.policy(cache={"ttl_s": 0.1, "stale_while_revalidate_s": 60})
    await stack.chat("renewed")
    await stack.settled()
    await asyncio.sleep(0.15)
    await stack.knobs(ttft_s=0.1)
    seen = await Seen.now(stack)
    answers = await asyncio.gather(*(stack.chat("renewed") for _ in range(10)))
    assert {headers["x-raygate-cache"] for _, _, headers in answers} == {"STALE"}
    await stack.settled()
    assert len(await seen.since(stack)) == 1


async def test_purges_by_everything_model_and_tenant(stack: Stack) -> None:
    """When a purge returns, nobody gets what was there before."""
    for query in ("", "?model=gpt-4o-mini", "?tenant=team:team-a"):
        await stack.chat("to be purged")
        assert await cache_word(stack, "to be purged") == "HIT"
        status, body, _ = await stack.call("DELETE", f"/admin/v1/cache{query}", key=stack.admin)
        assert (status, body["purged"]) == (200, 1)
        assert await cache_word(stack, "to be purged") == "MISS"
        await stack.call("DELETE", "/admin/v1/cache", key=stack.admin)
    await stack.chat("stays")
    await stack.call("DELETE", "/admin/v1/cache?tenant=team:other", key=stack.admin)
    assert await cache_word(stack, "stays") == "HIT"


async def test_errors_are_never_stored(stack: Stack) -> None:
    """The next request asks again."""
    await stack.policy(retries={"attempts": 1})
    await stack.knobs(error_rate=1.0)
    assert (await stack.chat("error first"))[0] == 502
    await stack.knobs(error_rate=0.0)
    assert await cache_word(stack, "error first") == "MISS"


async def test_one_that_queues_for_its_limit_holds_nobody_up(stack: Stack) -> None:
    """A request in a queue leads no other: one that is admitted fetches the answer itself."""
    limits = [{"name": "slow-lane", "scope": "user", "rate": 1, "per": "second", "burst": 1}]
    await stack.policy(limits=limits)
    await stack.chat("takes the lane", user="slow")
    queued = asyncio.create_task(stack.chat("shared question", user="slow"))
    await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    assert await cache_word(stack, "shared question", user="quick") == "MISS"
    assert asyncio.get_running_loop().time() - began < 0.8
    status, _, headers = await queued
    assert (status, headers["x-raygate-cache"]) == (200, "HIT")


async def test_a_hit_consumes_requests_but_no_tokens_slots_or_money(stack: Stack) -> None:
    """Request limits protect the gateway; the others protect the provider and the money."""
    await stack.policy(
        limits=[
            {"name": "hit-requests", "rate": 1, "per": "hour", "burst": 100},
            {"name": "hit-tokens", "unit": "tokens", "rate": 1, "per": "hour", "burst": 10000},
            {"name": "hit-slots", "unit": "concurrent", "burst": 5},
        ],
        budgets=[{"name": "hit-budget", "amount_usd": 1}],
    )

    async def left() -> dict[str, int]:
        await stack.settled()
        _, limits, _ = await stack.call("GET", "/admin/v1/limits", key=stack.admin)
        _, budgets, _ = await stack.call("GET", "/admin/v1/budgets", key=stack.admin)
        found = {each["name"]: each["remaining"] for each in limits["limits"]}
        return found | {each["name"]: each["available_nanos"] for each in budgets["data"]}

    await stack.chat("a hit is free")
    before = await left()
    assert before["hit-tokens"] < 10000
    assert before["hit-budget"] < 10**9
    for _ in range(3):
        assert await cache_word(stack, "a hit is free") == "HIT"
    after = await left()
    assert after.pop("hit-requests") == before.pop("hit-requests") - 3
    assert after == before
