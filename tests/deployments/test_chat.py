from typing import Any

import pytest

from tests.replies import Seen, text_of
from tests.stack import Stack

pytestmark = pytest.mark.anyio

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

TWO_PROVIDERS = {
    "both": {
        "targets": ["simulated/no-such-model", "simulated/gpt-4o-mini"],
        "price": {"input_per_mtok": 1, "output_per_mtok": 1},
    }
}


async def test_an_answer_bears_the_promised_headers(stack: Stack) -> None:
    """Request id, cache word, cost, target, attempts, overhead, trace and both limits."""
    await stack.policy(
        limits=[
            {"name": "wide", "rate": 100, "burst": 100},
            {"name": "tight", "scope": "team", "rate": 1, "burst": 10},
            {"name": "tokens", "unit": "tokens", "rate": 1000, "burst": 5000},
        ]
    )
    status, body, headers = await stack.chat("all headers", max_tokens=10)
    assert status == 200
    assert text_of(body)
    assert headers["x-raygate-cache"] == "MISS"
    assert headers["x-raygate-target"] == "simulated/gpt-4o-mini"
    assert headers["x-raygate-attempts"] == "1"
    assert len(headers["x-request-id"]) >= 16
    assert float(headers["x-raygate-cost-usd"]) > 0
    assert 0 < float(headers["x-raygate-overhead-ms"]) < 10_000
    assert headers["traceparent"].startswith("00-")
    assert headers["x-ratelimit-limit-requests"] == "10"
    assert headers["x-ratelimit-remaining-requests"] == "9"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert headers["x-ratelimit-limit-tokens"] == "5000"
    assert int(headers["x-ratelimit-remaining-tokens"]) < 5000
    assert "x-raygate-fallback" not in headers


async def test_a_callers_trace_is_continued(stack: Stack) -> None:
    """The W3C trace id that came is the one that goes back and is kept."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace_id}-b7ad6b7169203331-01"
    _, _, headers = await stack.call(
        "POST",
        "/v1/chat/completions",
        {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "trace me"}]},
        traceparent=parent,
    )
    assert headers["traceparent"].split("-")[1] == trace_id
    assert (await stack.trace(trace_id))["parent"] == "b7ad6b7169203331"


async def test_cost_header_and_ledger_agree(stack: Stack) -> None:
    """What the header says is what the ledger has, for the caller's own tags."""
    before = len(await stack.ledger())
    _, body, headers = await stack.chat("costs", x_raygate_tags="app=web,stage=test", user="u7")
    (row,) = (await stack.ledger())[before:]
    assert row["amount_nanos"] == round(float(headers["x-raygate-cost-usd"]) * 1e9)
    assert (row["input"], row["output"]) == (
        body["usage"]["prompt_tokens"],
        body["usage"]["completion_tokens"],
    )
    assert row["tags"] == {"app": "web", "stage": "test"}
    assert (row["user"], row["team"], row["model"]) == ("u7", "team-a", "gpt-4o-mini")
    assert row["state"] == "actual"


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [WEATHER], "tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
        {"n": 3},
        {"temperature": 0.1, "seed": 4, "stop": ["x"], "metadata": {"a": "b"}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}]},
    ],
)
async def test_what_openai_takes_reaches_the_provider(stack: Stack, more: dict[str, Any]) -> None:
    """Tools, JSON mode, several choices, parts: passed on, answered, charged."""
    status, body, _ = await stack.chat("pass it on", **more)
    assert status == 200, body
    assert len(body["choices"]) == more.get("n", 1)
    if "tools" in more:
        call = body["choices"][0]["message"]["tool_calls"][0]
        assert call["function"]["name"] == "weather"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_callers_maximum_bounds_the_output(stack: Stack, field: str) -> None:
    """Either name of the maximum is honoured."""
    _, body, _ = await stack.chat(f"bounded by {field}", **{field: 5})
    assert body["usage"]["completion_tokens"] == 5


async def test_without_a_maximum_the_policys_is_sent(stack: Stack) -> None:
    """The reservation is the worst case, so the provider is told the same bound."""
    await stack.knobs(output_tokens=5000)
    _, body, _ = await stack.chat("talk on and on")
    assert body["usage"]["completion_tokens"] == 64


async def test_a_models_second_name_for_the_maximum(stack: Stack) -> None:
    """max_tokens_field says what this provider calls it."""
    model = {
        "targets": ["simulated/gpt-4o-mini"],
        "max_output_tokens": 7,
        "max_tokens_field": "max_completion_tokens",
    }
    await stack.policy(models={"gpt-4o-mini": model})
    _, body, _ = await stack.chat("renamed maximum")
    assert body["usage"]["completion_tokens"] == 7


async def test_the_requests_own_timeout_ends_it(stack: Stack) -> None:
    """408, not to be retried, soon after the time asked for; the call is charged."""
    await stack.knobs(ttft_s=1.0)
    seen = await Seen.now(stack)
    status, body, headers = await stack.chat("too slow", x_raygate_timeout="0.5")
    assert (status, body["error"]["code"]) == (408, "deadline_exceeded")
    assert headers["x-should-retry"] == "false"
    await stack.settled()
    (call,) = await seen.since(stack)
    assert call.outcome == "ok"
    rows = [row for row in await stack.ledger() if row["charge_id"] == call.charge_id]
    assert [(row["state"], row["output"]) for row in rows] == [("actual", call.output_tokens)]


async def test_models_are_those_that_the_key_may_use(stack: Stack) -> None:
    """`GET /v1/models` in OpenAI's shape."""
    _, every, _ = await stack.call("GET", "/v1/models")
    assert {model["id"] for model in every["data"]} == {"gpt-4o", "gpt-4o-mini"}
    key = await stack.key(models=["gpt-4o"])
    _, mine, _ = await stack.call("GET", "/v1/models", key=key)
    assert mine == {
        "object": "list",
        "data": [{"id": "gpt-4o", "object": "model", "created": 0, "owned_by": "raygate"}],
    }


async def test_next_target_answers_when_the_first_may_not(stack: Stack) -> None:
    """Targets are tried in order; the reply says which one answered."""
    await stack.services.breaker.ask("force", "simulated/gpt-4o", "open")
    status, _, headers = await stack.chat("second target", model="gpt-4o")
    assert status == 200
    assert headers["x-raygate-target"] == "simulated/gpt-4o-mini"
    assert headers["x-raygate-attempts"] == "1"


async def test_next_target_answers_when_the_first_fails(stack: Stack) -> None:
    """A target that keeps failing is tried as often as retries say, then the next one is."""
    await stack.policy(retries={"attempts": 2, "base_s": 0.0}, models=TWO_PROVIDERS)
    status, _, headers = await stack.chat("fails first", model="both")
    assert status == 200
    assert headers["x-raygate-target"] == "simulated/gpt-4o-mini"
    assert headers["x-raygate-attempts"] == "2"
