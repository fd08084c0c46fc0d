import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.replies import Seen
from tests.stack import Stack

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "hi"}]
GOOD: dict[str, Any] = {"model": "gpt-4o-mini", "messages": MESSAGES}


def check_error(stack: Stack, status: int, text: str, expected: tuple[int, str]) -> Any:
    """An error object of ours: no stack trace, no key, no 500."""
    assert status == expected[0], text
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == expected[1]
    assert error["message"]
    for secret in ("Traceback", 'File "', stack.user, stack.admin, "sk-sim"):
        assert secret not in text
    return error


async def raw(stack: Stack, path: str, body: Any, **headers: str) -> tuple[int, str]:
    """Status and text of a POST with just these bytes."""
    url = stack.url + path
    async with stack.session.post(url, data=body, headers=stack.headers(**headers)) as reply:
        return reply.status, await reply.text()


async def nothing_happened(stack: Stack, seen: Seen, rows: int) -> None:
    """No call, no charge, nothing held."""
    await stack.settled()
    assert not await seen.since(stack)
    assert len(await stack.ledger()) == rows


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"[1, 2]",
        b'"text"',
        b"null",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"max_tokens": NaN}',
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/prompts/business_analysis_v1/execute"]
)
async def test_a_body_that_is_no_json_object(stack: Stack, path: str, body: bytes) -> None:
    """400 that says so."""
    status, text = await raw(stack, path, body)
    check_error(stack, status, text, (400, "invalid_request"))


WRONG: list[tuple[str, Any, str]] = [
    ("model", None, "model"),
    ("model", 4, "model"),
    ("model", "", "model"),
    ("messages", None, "messages"),
    ("messages", [], "messages"),
    ("messages", "hello", "messages"),
    ("messages", ["hello"], "messages.0.role"),
    ("messages", [{}], "messages.0.role"),
    ("messages", [{"role": 3}], "messages.0.role"),
    ("messages", [*MESSAGES, {"role": "user", "content": 7}], "messages.1.content"),
    ("stream", "yes", "stream"),
    ("stream", 1, "stream"),
    ("temperature", "hot", "temperature"),
    ("temperature", True, "temperature"),
    ("top_p", [], "top_p"),
    ("presence_penalty", "x", "presence_penalty"),
    ("frequency_penalty", {}, "frequency_penalty"),
    ("seed", 1.5, "seed"),
    ("user", 5, "user"),
    ("user", "u" * 300, "user"),
    ("tools", {}, "tools"),
    ("stop", 3, "stop"),
    ("response_format", "json", "response_format"),
    ("stream_options", [], "stream_options"),
    ("metadata", [], "metadata"),
    ("logit_bias", [], "logit_bias"),
    ("n", 0, "n"),
    ("n", "2", "n"),
    ("n", 10_000, "n"),
    ("max_tokens", 0, "max_tokens"),
    ("max_tokens", -5, "max_tokens"),
    ("max_tokens", 1.5, "max_tokens"),
    ("max_tokens", "many", "max_tokens"),
    ("max_tokens", True, "max_tokens"),
    ("max_tokens", 10**15, "max_tokens"),
    ("max_completion_tokens", 0, "max_completion_tokens"),
    ("max_completion_tokens", [], "max_completion_tokens"),
]


@pytest.mark.parametrize(("field", "value", "param"), WRONG)
async def test_a_chat_field_of_the_wrong_type(
    stack: Stack, field: str, value: Any, param: str
) -> None:
    """400 whose param is the field; nothing is called, held or charged."""
    seen, rows = await Seen.now(stack), len(await stack.ledger())
    status, body, _ = await stack.call("POST", "/v1/chat/completions", GOOD | {field: value})
    error = check_error(stack, status, json.dumps(body), (400, "invalid_request"))
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    await nothing_happened(stack, seen, rows)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, (400, "invalid_request"), "inputs"),
        ({"inputs": []}, (400, "invalid_request"), "inputs"),
        ({"inputs": None}, (400, "invalid_request"), "inputs"),
        ({"inputs": {"data": "x"}, "user_id": 4}, (400, "invalid_request"), "user_id"),
        ({"inputs": {"data": "x"}, "user_id": "u" * 300}, (400, "invalid_request"), "user_id"),
        ({"inputs": {"data": "x"}, "version": "3"}, (400, "invalid_request"), "version"),
        ({"inputs": {"data": "x"}, "version": 0}, (400, "invalid_request"), "version"),
        ({"inputs": {"data": "x"}, "label": 1}, (400, "invalid_request"), "label"),
        ({"inputs": {"data": "x"}, "stream": "true"}, (400, "invalid_request"), "stream"),
        ({"inputs": {"data": "x"}, "priority": "urgent"}, (400, "invalid_request"), "priority"),
        ({"inputs": {"data": "x"}, "priority": 1}, (400, "invalid_request"), "priority"),
        ({"inputs": {"data": "x"}, "experiment_id": 3}, (400, "invalid_request"), "experiment_id"),
        ({"inputs": {"data": "x"}, "colour": "red"}, (400, "invalid_request"), "colour"),
        ({"inputs": {}}, (422, "prompt_inputs_invalid"), "inputs.data"),
        ({"inputs": {"data": ""}}, (422, "prompt_inputs_invalid"), "inputs.data"),
        ({"inputs": {"data": True}}, (422, "prompt_inputs_invalid"), "inputs.data"),
        ({"inputs": {"data": "x", "focus": 3}}, (422, "prompt_inputs_invalid"), "inputs.focus"),
        ({"inputs": {"data": "x"}, "version": 99}, (404, "prompt_not_found"), "version"),
        ({"inputs": {"data": "x"}, "label": "nope"}, (404, "prompt_not_found"), "label"),
        (
            {"inputs": {"data": "x"}, "experiment_id": "nope"},
            (404, "experiment_not_found"),
            "experiment_id",
        ),
    ],
)
async def test_an_execute_body_that_does_not_fit(
    stack: Stack, body: Any, code: tuple[int, str], param: str
) -> None:
    """The code that the contract names, the field as param, and nothing charged."""
    seen, rows = await Seen.now(stack), len(await stack.ledger())
    path = "/v1/prompts/business_analysis_v1/execute"
    status, found, _ = await stack.call("POST", path, body)
    error = check_error(stack, status, json.dumps(found), code)
    assert error["param"] == param
    await nothing_happened(stack, seen, rows)


@pytest.mark.parametrize("template", ["no_such_template", "../../etc/passwd", "%00", "x" * 3000])
async def test_an_unknown_template(stack: Stack, template: str) -> None:
    """404, whatever the name looks like."""
    body = json.dumps({"inputs": {}})
    status, text = await raw(stack, f"/v1/prompts/{template.replace('/', '%2F')}/execute", body)
    code = "not_found" if "/" in template else "prompt_not_found"
    check_error(stack, status, text, (404, code))


async def test_an_unknown_model(stack: Stack) -> None:
    """404 model_not_found, on a plain request and on a stream."""
    for stream in (False, True):
        status, body, _ = await stack.chat("?", model="gpt-99", stream=stream)
        error = check_error(stack, status, json.dumps(body), (404, "model_not_found"))
        assert error["param"] == "model"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x_raygate_priority", "urgent"),
        ("x_raygate_timeout", "soon"),
        ("x_raygate_timeout", "-1"),
        ("x_raygate_timeout", "0"),
        ("x_raygate_timeout", "nan"),
        ("x_raygate_timeout", "inf"),
        ("x_raygate_timeout", "99999"),
        ("x_raygate_max_wait", "never"),
        ("x_raygate_max_wait", "-3"),
        ("x_raygate_cache", "please"),
        ("x_raygate_cache", "max-age=-1"),
        ("x_raygate_cache", "max-age=" + "9" * 30),
        ("x_raygate_tags", "novalue"),
        ("x_raygate_tags", ",".join(f"a{i}=1" for i in range(30))),
        ("x_raygate_tags", "a=" + "b" * 1000),
    ],
)
async def test_a_header_that_makes_no_sense(stack: Stack, header: str, value: str) -> None:
    """400 that names the header."""
    status, body, _ = await stack.chat("header", **{header: value})
    error = check_error(stack, status, json.dumps(body), (400, "invalid_request"))
    assert error["param"] in (header.replace("_", "-"), "priority")


async def test_a_body_over_the_limit_by_its_length(stack: Stack) -> None:
    """413 at once for 20 MiB with a content length."""
    body = json.dumps(GOOD | {"user": "x" * (20 << 20)})
    status, text = await raw(stack, "/v1/chat/completions", io.BytesIO(body.encode()))
    check_error(stack, status, text, (413, "request_too_large"))


async def test_a_body_over_the_limit_in_chunks(stack: Stack) -> None:
    """413 for 20 MiB whose length nobody told."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"user": "'
        for _ in range(320):
            yield b"x" * 65536
        yield b'"}'

    try:
        status, text = await raw(stack, "/v1/chat/completions", chunks())
    except aiohttp.ClientOSError:
        pytest.fail("cut off before the client could read why")
    check_error(stack, status, text, (413, "request_too_large"))


@pytest.mark.parametrize("wishes", ["no-cache", "no-cache, no-store"])
async def test_nesting_that_no_provider_takes(stack: Stack, wishes: str) -> None:
    """400, with the cache on or off: never a 500, never a charge."""
    seen, rows = await Seen.now(stack), len(await stack.ledger())
    deep: Any = "x"
    for _ in range(400):
        deep = [deep]
    body = GOOD | {"messages": [{"role": "user", "content": deep}]}
    status, text = await raw(
        stack, "/v1/chat/completions", json.dumps(body), x_raygate_cache=wishes
    )
    check_error(stack, status, text, (400, "invalid_request"))
    await nothing_happened(stack, seen, rows)


async def test_what_the_provider_refuses_is_the_clients_400(stack: Stack) -> None:
    """A provider's 400 comes back as 400 with its words, costs nothing, is not tried again."""
    seen, rows = await Seen.now(stack), len(await stack.ledger())
    status, body, _ = await stack.chat("refused", tools=[])
    error = check_error(stack, status, json.dumps(body), (400, "invalid_request"))
    assert "tools must be a list" in error["message"]
    (call,) = await seen.since(stack)
    (row,) = (await stack.ledger())[rows:]
    assert (row["charge_id"], row["amount_nanos"]) == (call.charge_id, 0)


@pytest.mark.parametrize("bad", [[], {"models": {}}, {"models": 3}, None, {"modles": {}}])
async def test_a_policy_that_is_none_leaves_the_last_good_one(stack: Stack, bad: Any) -> None:
    """Requests go on under the policy that was; health says what is wrong."""
    await stack.services.apply_policy(bad)
    assert (await stack.chat("still here"))[0] == 200
    _, health, _ = await stack.call("GET", "/health", key=stack.admin)
    assert "user_config" in health["policy"]["problem"]
    assert health["status"] == "degraded"
