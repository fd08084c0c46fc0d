import asyncio
from typing import Any

import pytest

from tests.replies import eventually
from tests.stack import Stack

pytestmark = pytest.mark.anyio

STEPS = [
    "trace",
    "prompt",
    "breakers",
    "limits",
    "cache",
    "admission",
    "provider",
    "settle",
    "answer",
]


async def search(stack: Stack, query: str) -> list[Any]:
    """Traces that fit."""
    status, page, _ = await stack.call("GET", f"/admin/v1/traces?{query}", key=stack.admin)
    assert status == 200, page
    found: list[Any] = page["data"]
    return found


@pytest.mark.parametrize("kind", ["chat", "stream", "prompt"])
async def test_a_trace_shows_the_nine_steps_with_their_times(stack: Stack, kind: str) -> None:
    """In order, each with a start and a duration, within the whole request's time."""
    await stack.policy(limits=[{"name": "traced", "rate": 1000, "burst": 1000}])
    await stack.knobs(ttft_s=0.05)
    if kind == "prompt":
        _, _, headers = await stack.execute("nine steps")
    else:
        _, _, headers = await stack.chat(f"nine steps {kind}", stream=kind == "stream")
    trace = await stack.trace(headers["x-request-id"])
    names = [step["name"] for step in trace["steps"]]
    assert [name for name in names if name != "stream"] == STEPS
    for step in trace["steps"]:
        assert step["start_ns"] >= 0
        assert step["duration_ns"] >= 0
        assert step["start_ns"] + step["duration_ns"] <= trace["duration_ns"]
    (provider,) = [step for step in trace["steps"] if step["name"] == "provider"]
    assert provider["duration_ns"] > 50_000_000
    assert trace["provider_ns"] >= 50_000_000
    assert trace["outcome"] == "success"
    assert trace["cost_nanos"] > 0
    assert trace["tokens"][2] > 0


async def test_a_hit_and_a_refusal_show_how_far_they_came(stack: Stack) -> None:
    """A hit ends after the cache; a request with an error has its code and its message."""
    await stack.chat("short trace")
    _, _, headers = await stack.chat("short trace")
    trace = await stack.trace(headers["x-request-id"])
    assert [step["name"] for step in trace["steps"]] == [*STEPS[:5], "answer"]
    assert (trace["cache"], trace["cost_nanos"]) == ("HIT", 0)
    _, _, headers = await stack.chat("no such", model="gpt-99")
    trace = await stack.trace(headers["x-request-id"])
    assert (trace["status"], trace["outcome"]) == (404, "model_not_found")
    assert "gpt-99" in trace["error"]


async def test_traces_are_found_by_each_of_their_fields(stack: Stack) -> None:
    """Every filter finds the one request that was made so, and excludes the others."""
    key = await stack.key(team="searched", may_be_high=True)
    high: dict[str, Any] = {"key": key, "x_raygate_priority": "high", "x_raygate_tags": "a=b,c=d"}
    _, _, headers = await stack.chat("find me", model="gpt-4o", user="ann", stream=True, **high)
    _, _, other = await stack.chat("not me")
    trace = await stack.trace(headers["x-request-id"])
    await stack.trace(other["x-request-id"])
    for query in (
        f"request_id={trace['request_id']}",
        f"trace_id={trace['trace_id']}",
        f"key={trace['key']}",
        "team=searched",
        "team=searched&user=ann",
        "team=searched&model=gpt-4o",
        "team=searched&target=simulated/gpt-4o",
        "team=searched&outcome=success&status=200&endpoint=chat&cache=MISS&attempts=1",
        "team=searched&priority=high&stream=true",
        "team=searched&tags=c%3Dd",
        f"team=searched&since_ns={trace['started_ns']}&until_ns={trace['started_ns'] + 1}",
        "team=searched&min_duration_ns=1000&min_cost_nanos=1",
    ):
        assert [each["trace_id"] for each in await search(stack, query)] == [trace["trace_id"]]
    for query in (
        "team=searched&user=bob",
        "team=searched&stream=false",
        "team=searched&tags=c%3Dx",
        "team=searched&status=500",
        "team=searched&min_cost_nanos=99999999999",
    ):
        assert not await search(stack, query)


async def test_prompt_traces_name_their_template(stack: Stack) -> None:
    """Its id and its version are fields like any other."""
    _, body, _ = await stack.execute("traced prompt")
    await stack.trace(body["trace_id"])
    found = await search(stack, "endpoint=prompt&prompt=business_analysis_v1&version=1")
    assert body["trace_id"] in {each["trace_id"] for each in found}


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "limit=%C2%B2",
        "status=ok",
        "cursor=x",
        "tags=a",
        "stream=1",
        "priority=urgent",
        "colour=red",
        "since_ns=-1",
        "since_ns=999999999999999999999999999999",
    ],
)
async def test_a_search_that_makes_no_sense(stack: Stack, query: str) -> None:
    """400 that names the filter."""
    status, body, _ = await stack.call("GET", f"/admin/v1/traces?{query}", key=stack.admin)
    assert (status, body["error"]["code"]) == (400, "invalid_request")


async def test_pages_of_traces_follow_each_other(stack: Stack) -> None:
    """Each trace comes once, newest first."""
    key = await stack.key(team="paged")
    await asyncio.gather(*(stack.chat(f"page {n}", key=key) for n in range(7)))

    async def all_there() -> bool:
        return len(await search(stack, "team=paged")) == 7

    await eventually(all_there)
    ids: list[str] = []
    cursor = ""
    while True:
        path = f"/admin/v1/traces?team=paged&limit=3{cursor}"
        _, page, _ = await stack.call("GET", path, key=stack.admin)
        ids += [each["trace_id"] for each in page["data"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert len(ids) == len(set(ids)) == 7


async def test_an_unknown_trace(stack: Stack) -> None:
    """404."""
    status, body, _ = await stack.call("GET", "/admin/v1/traces/nope", key=stack.admin)
    assert (status, body["error"]["code"]) == (404, "not_found")
