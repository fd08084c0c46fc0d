from typing import Any

import pytest

from tests.replies import Seen, events, eventually
from tests.stack import Stack

pytestmark = pytest.mark.anyio

FIELDS = {
    "id",
    "status",
    "response",
    "reason",
    "prompt_template_id",
    "prompt_version",
    "variant_id",
    "model",
    "cached",
    "cost",
    "token_usage",
    "duration",
    "attempt",
    "trace_id",
}
SPEC: dict[str, Any] = {
    "type": "greeting",
    "template": "Greet {{ name }}.",
    "inputs_schema": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}},
    },
}


async def make(stack: Stack, id: str, **changes: Any) -> int:
    """A new version of a template; its number."""
    status, made, _ = await stack.call(
        "POST", f"/admin/v1/prompts/{id}", SPEC | changes, stack.admin
    )
    assert status == 200, made
    version: int = made["version"]
    return version


async def test_execute_answers_with_all_promised_fields(stack: Stack) -> None:
    """The object of the outside contract, its cost and tokens those of the ledger."""
    rows = len(await stack.ledger())
    status, body, headers = await stack.execute("sales fell", user_id="u1")
    assert status == 200
    assert set(body) == FIELDS
    (row,) = (await stack.ledger())[rows:]
    assert body["status"] == "success"
    assert body["reason"] is None
    assert body["response"]
    assert body["prompt_template_id"] == "business_analysis_v1"
    assert (body["prompt_version"], body["variant_id"]) == (1, None)
    assert (body["model"], body["cached"], body["attempt"]) == ("gpt-4o-mini", False, 1)
    assert body["cost"] == pytest.approx(row["amount_nanos"] / 1e9)
    assert body["token_usage"] == {"input": row["input"], "output": row["output"]}
    assert 0 < body["duration"] < 10
    assert body["trace_id"] == headers["traceparent"].split("-")[1]
    assert headers["x-request-id"] == body["id"]


async def test_executed_again_it_comes_from_the_cache_at_no_cost(stack: Stack) -> None:
    """The field `cached` is true, cost 0, and the provider hears nothing."""
    _, first, _ = await stack.execute("the same data")
    seen = await Seen.now(stack)
    _, again, headers = await stack.execute("the same data")
    assert again["cached"] is True
    assert (again["cost"], again["attempt"]) == (0.0, 0)
    assert again["response"] == first["response"]
    assert headers["x-raygate-cache"] == "HIT"
    assert not await seen.since(stack)


@pytest.mark.parametrize("cached", [False, True])
async def test_execute_as_a_stream(stack: Stack, cached: bool) -> None:
    """Deltas whose texts make up the response of one result at the end, no [DONE]."""
    if cached:
        await stack.execute("streamed later")
    text = "streamed later" if cached else "streamed now"
    status, body, headers = await stack.execute(text, stream=True)
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    found = events(body)
    assert {name for name, _ in found[:-1]} == {"delta"}
    name, result = found[-1]
    assert name == "result"
    assert set(result) == FIELDS
    assert result["response"] == "".join(data["text"] for _, data in found[:-1])
    assert result["cached"] is cached
    assert (result["cost"] > 0) is not cached
    assert result["token_usage"]["output"] > 0


async def test_a_stream_that_breaks_ends_in_an_error_event(stack: Stack) -> None:
    """`event: error` with the error object instead of a result."""
    await stack.knobs(reset_rate=1.0, reset_at="middle", seed=3)
    _, body, _ = await stack.execute("broken stream", stream=True)
    found = events(body)
    name, data = found[-1]
    assert name == "error"
    assert data["error"]["code"] == "provider_error"
    assert "result" not in {name for name, _ in found}


async def test_versions_and_labels_choose_what_is_asked(stack: Stack) -> None:
    """A named version, a label, production, else the newest; labels move and go."""
    first = await make(stack, "greet")
    second = await make(stack, "greet", template="Hail {{ name }}!")
    assert await make(stack, "greet") == first

    async def version(**which: Any) -> Any:
        body = {"inputs": {"name": "Ada"}, **which}
        status, found, _ = await stack.call("POST", "/v1/prompts/greet/execute", body)
        return found["prompt_version"] if status == 200 else found["error"]["code"]

    assert await version() == second
    assert await version(version=first) == first
    label = "/admin/v1/prompts/greet/labels/production"
    status, moved, _ = await stack.call("PUT", label, {"version": first}, stack.admin)
    assert (status, moved["before"]) == (200, None)
    assert await version() == first
    assert await version(label="production") == first
    assert (await stack.call("DELETE", label, key=stack.admin))[0] == 200
    assert await version() == second
    assert await version(label="production") == "prompt_not_found"
    assert (await stack.call("DELETE", label, key=stack.admin))[0] == 404


async def test_inputs_are_data_not_templates(stack: Stack) -> None:
    """What looks like a template in an input is left as it is."""
    status, body, _ = await stack.execute("{{ 7 * 7 }} {% raw %}")
    assert (status, body["status"]) == (200, "success")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"template": "{{ unknown }}"}, "template"),
        ({"template": "{% if %}"}, "template"),
        ({"template": 4}, "template"),
        ({"inputs_schema": {"type": "object", "properties": {"x": {"pattern": "a"}}}}, None),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 9}, "temperature"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_template_that_cannot_work_is_refused(
    stack: Stack, changes: Any, param: str | None
) -> None:
    """400 that names the field, when it is made and not when it is used."""
    status, body, _ = await stack.call("POST", "/admin/v1/prompts/bad", SPEC | changes, stack.admin)
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    if param is not None:
        assert body["error"]["param"] == param


async def test_an_experiments_variants_stick_and_their_interactions_are_counted(
    stack: Stack,
) -> None:
    """A user always gets the same variant; the results count what came of each request."""
    old = await make(stack, "tone_prompt")
    new = await make(stack, "tone_prompt", template="Warmly greet {{ name }}.")
    variants = [
        {"id": "plain", "weight": 1, "version": old},
        {"id": "warm", "weight": 1, "version": new, "model": "gpt-4o"},
    ]
    spec = {"prompt": "tone_prompt", "variants": variants}
    path = "/admin/v1/experiments/tone"
    assert (await stack.call("POST", path, spec, stack.admin))[0] == 200
    assert (await stack.call("POST", f"{path}/start", {}, stack.admin))[0] == 200

    async def ask(user: str, name: str = "Ada", **headers: str) -> tuple[int, Any]:
        body = {"inputs": {"name": name}, "user_id": user, "experiment_id": "tone"}
        status, found, _ = await stack.call(
            "POST", "/v1/prompts/tone_prompt/execute", body, **headers
        )
        return status, found

    chosen: dict[str, set[str]] = {}
    for user in ("a", "b", "c", "d", "e", "f", "g", "h"):
        for _ in range(2):
            _, found = await ask(user)
            chosen.setdefault(user, set()).add(found["variant_id"])
            expected = (new, "gpt-4o") if found["variant_id"] == "warm" else (old, "gpt-4o-mini")
            assert (found["prompt_version"], found["model"]) == expected
    assert all(len(one) == 1 for one in chosen.values())
    assert {one for each in chosen.values() for one in each} == {"plain", "warm"}
    await stack.knobs(outage=True)
    _, fallback = await ask("a", name="Grace")
    assert fallback["status"] == "fallback"
    status, _ = await ask("a", name="Grace", x_raygate_fallback="off")
    assert status in (502, 503)
    await stack.knobs(outage=False)

    async def counted() -> Any:
        _, results, _ = await stack.call("GET", f"{path}/results", key=stack.admin)
        return results["variants"] if sum(v["calls"] for v in results["variants"]) == 18 else None

    found = await eventually(counted)
    assert sum(variant["success"] for variant in found) == 16
    assert sum(variant["cached"] for variant in found) == 14
    assert sum(variant["fallback"] for variant in found) == 1
    assert sum(variant["error"] for variant in found) == 1
    assert all(variant["tokens_out"] > 0 for variant in found)

    status, body, _ = await stack.call("DELETE", path, key=stack.admin)
    assert (status, body["error"]["code"]) == (409, "conflict")
    assert (await stack.call("POST", f"{path}/stop", {}, stack.admin))[0] == 200
    _, stopped = await ask("a")
    assert stopped["variant_id"] is None
    assert (await stack.call("DELETE", path, key=stack.admin))[0] == 200
    assert (await ask("a"))[0] == 404


async def test_an_experiment_about_another_template_is_a_mistake(stack: Stack) -> None:
    """400 that names the field."""
    spec = {"prompt": "customer_support_v1", "variants": [{"id": "a", "weight": 1}]}
    await stack.call("POST", "/admin/v1/experiments/other", spec, stack.admin)
    await stack.call("POST", "/admin/v1/experiments/other/start", {}, stack.admin)
    status, body, _ = await stack.execute(experiment_id="other")
    assert (status, body["error"]["param"]) == (400, "experiment_id")
