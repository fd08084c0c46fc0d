import asyncio
import time
from typing import Any

import aiohttp
import pytest

from tests.replies import Seen, events, leave_stream, ledger_of, text_of, words
from tests.stack import Stack

pytestmark = pytest.mark.anyio


def body_of(text: str, **more: Any) -> dict[str, Any]:
    """A streamed chat request."""
    message = {"role": "user", "content": text}
    return {"model": "gpt-4o-mini", "messages": [message], "stream": True, **more}


async def test_a_stream_is_relayed_to_its_end(stack: Stack) -> None:
    """Chunks in OpenAI's shape, one [DONE], no usage for whom did not ask."""
    status, text, headers = await stack.chat("stream me", stream=True)
    found = events(text)
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    assert found[-1][1] == "[DONE]"
    assert words(found)
    assert all(not data.get("usage") for _, data in found[:-1])
    assert all(data["choices"] for _, data in found[:-1])
    assert headers["x-raygate-cache"] == "MISS"
    assert "x-raygate-cost-usd" not in headers
    assert "x-raygate-overhead-ms" not in headers


async def test_usage_comes_last_when_asked_for(stack: Stack) -> None:
    """include_usage adds one chunk with empty choices; the others carry a null usage."""
    _, text, _ = await stack.chat(
        "with usage", stream=True, stream_options={"include_usage": True}, max_tokens=9
    )
    found = [data for _, data in events(text)]
    assert found[-1] == "[DONE]"
    assert found[-2]["choices"] == []
    assert found[-2]["usage"]["completion_tokens"] == 9
    assert all(chunk["usage"] is None for chunk in found[:-2])


@pytest.mark.parametrize("asks", [False, True])
async def test_a_stream_is_charged_by_its_usage(stack: Stack, asks: bool) -> None:
    """The tokens in the ledger are the provider's own, whether the client asked or not."""
    seen = await Seen.now(stack)
    more = {"stream_options": {"include_usage": True}} if asks else {}
    await stack.chat(f"charged {asks}", stream=True, **more)
    await stack.settled()
    (call,) = await seen.since(stack)
    (row,) = await ledger_of(stack, call)
    assert (row["state"], row["input"], row["output"]) == (
        "actual",
        call.input_tokens,
        call.output_tokens,
    )


async def test_stream_options_without_a_stream_are_the_clients_mistake(stack: Stack) -> None:
    """The provider's 400 comes back as it is."""
    status, body, _ = await stack.chat("no stream", stream_options={"include_usage": True})
    assert (status, body["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("first", ["plain", "stream"])
@pytest.mark.parametrize("asks", [False, True])
async def test_a_cached_answer_in_the_other_shape(stack: Stack, first: str, asks: bool) -> None:
    """A stored plain answer is replayed as a stream, and a stored stream as a plain one."""
    text = f"replayed {first} {asks}"
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if asks else {}
    if first == "plain":
        _, plain, _ = await stack.chat(text)
        _, stream, headers = await stack.chat(text, stream=True, **more)
    else:
        _, stream, _ = await stack.chat(text, stream=True, **more)
        _, plain, headers = await stack.chat(text)
    found = events(stream)
    assert headers["x-raygate-cache"] == "HIT"
    assert headers["x-raygate-cost-usd"] == "0.000000000"
    assert words(found) == text_of(plain)
    assert found[-1][1] == "[DONE]"
    bills = [data["usage"] for _, data in found[:-1] if data.get("usage")]
    assert bills == ([plain["usage"]] if asks else [])


async def test_a_cached_stream_is_replayed_as_a_stream(stack: Stack) -> None:
    """For one who asks for usage and one who does not, from the same entry."""
    await stack.chat("twice a stream", stream=True)
    for asks in (True, False):
        more: dict[str, Any] = {"stream_options": {"include_usage": True}} if asks else {}
        _, text, headers = await stack.chat("twice a stream", stream=True, **more)
        assert headers["x-raygate-cache"] == "HIT"
        assert any(data.get("usage") for _, data in events(text)[:-1]) is asks


async def test_a_stream_that_breaks_off_tells_so(stack: Stack) -> None:
    """An error object as a `data:` event, no [DONE]; not cached, and charged as an estimate."""
    await stack.knobs(reset_rate=1.0, reset_at="middle", seed=3)
    seen = await Seen.now(stack)
    status, text, _ = await stack.chat("breaks off", stream=True)
    found = events(text)
    assert status == 200
    assert set(found[-1][1]) == {"error"}
    assert found[-1][1]["error"]["code"] == "provider_error"
    assert words(found[:-1])
    await stack.knobs(reset_rate=0.0)
    _, again, headers = await stack.chat("breaks off", stream=True)
    assert headers["x-raygate-cache"] == "MISS"
    assert events(again)[-1][1] == "[DONE]"
    await stack.settled()
    broken, whole = await seen.since(stack)
    assert [(r["state"]) for r in await ledger_of(stack, broken)] == ["estimated"]
    assert [(r["state"]) for r in await ledger_of(stack, whole)] == ["actual"]


async def test_no_second_attempt_after_the_first_byte(stack: Stack) -> None:
    """What has begun to arrive is not begun again."""
    await stack.policy(retries={"attempts": 5, "base_s": 0.0})
    await stack.knobs(reset_rate=1.0, reset_at="middle")
    seen = await Seen.now(stack)
    await stack.chat("once only", stream=True)
    assert len(await seen.since(stack)) == 1


async def test_before_the_first_byte_a_stream_is_tried_again(stack: Stack) -> None:
    """A stream that never began is an attempt like any other."""
    await stack.policy(retries={"attempts": 3, "base_s": 0.0})
    await stack.knobs(reset_rate=0.5, reset_at="before", seed=2)
    seen = await Seen.now(stack)
    for number in range(6):
        status, text, headers = await stack.chat(f"until it begins {number}", stream=True)
        if status == 200 and int(headers["x-raygate-attempts"]) > 1:
            break
    assert events(text)[-1][1] == "[DONE]"
    assert len(await seen.since(stack)) > 1


async def test_a_stream_that_cannot_begin_is_a_plain_error(stack: Stack) -> None:
    """502 with an error object, not a stream with one."""
    await stack.policy(retries={"attempts": 1})
    await stack.knobs(outage=True)
    status, body, headers = await stack.chat("never begins", stream=True)
    assert (status, body["error"]["code"]) == (502, "provider_error")
    assert headers["content-type"] == "application/json"


async def test_a_client_that_leaves_is_drained_to_its_usage(stack: Stack) -> None:
    """The call goes on without it, is charged by the provider's usage, and is cached."""
    await stack.knobs(output_tokens=40, tokens_per_s=100.0)
    seen = await Seen.now(stack)
    id = await leave_stream(stack, body_of("left alone"))
    await stack.settled()
    (call,) = await seen.since(stack)
    (row,) = await ledger_of(stack, call)
    assert call.outcome == "ok"
    assert (row["state"], row["input"], row["output"]) == ("actual", call.input_tokens, 40)
    _, _, headers = await stack.chat("left alone")
    assert headers["x-raygate-cache"] == "HIT"
    trace = await stack.trace(id)
    assert (trace["outcome"], trace["tokens"][2]) == ("client_gone", 40)


async def test_a_plain_client_that_leaves_is_drained_as_well(stack: Stack) -> None:
    """Its answer is charged as it came, and cached for the next."""
    await stack.knobs(ttft_s=0.3)
    seen = await Seen.now(stack)
    body = {**body_of("left plain"), "stream": False}
    timeout = aiohttp.ClientTimeout(total=0.1)
    with pytest.raises(TimeoutError):
        await stack.session.post(
            stack.url + "/v1/chat/completions", json=body, headers=stack.headers(), timeout=timeout
        )
    await asyncio.sleep(0.1)
    await stack.settled()
    (call,) = await seen.since(stack)
    (row,) = await ledger_of(stack, call)
    assert (call.outcome, row["state"], row["output"]) == ("ok", "actual", call.output_tokens)
    assert (await stack.chat("left plain"))[2]["x-raygate-cache"] == "HIT"


async def test_draining_is_bounded(stack: Stack) -> None:
    """After drain_s the call is broken off, and charged as an estimate of what came."""
    await stack.knobs(output_tokens=64, tokens_per_s=10.0)
    args = stack.services.args
    stack.services.args = args.model_copy(update={"drain_s": 0.3})
    seen = await Seen.now(stack)
    try:
        await leave_stream(stack, body_of("drained for a while"))
        await asyncio.sleep(0.5)
        await stack.settled()
    finally:
        stack.services.args = args
    (call,) = await seen.since(stack)
    (row,) = await ledger_of(stack, call)
    assert call.outcome == "client_gone"
    assert row["state"] == "estimated"
    assert 0 < row["output"] < 64


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_deadline_in_mid_stream(stack: Stack, stalled: bool) -> None:
    """The client is told when its time is over, also while nothing comes; the call is drained."""
    pace = {"tokens_per_s": 0.6, "output_tokens": 2} if stalled else {"tokens_per_s": 60.0}
    await stack.knobs(**pace)
    seen = await Seen.now(stack)
    began = time.monotonic()
    _, text, headers = await stack.chat(
        f"over in the middle {stalled}", stream=True, x_raygate_timeout="0.4"
    )
    assert time.monotonic() - began < 1.3
    found = events(text)
    assert words(found[:-1])
    assert found[-1][1]["error"]["code"] == "deadline_exceeded"
    await stack.settled()
    (call,) = await seen.since(stack)
    (row,) = await ledger_of(stack, call)
    assert (call.outcome, row["state"], row["output"]) == ("ok", "actual", call.output_tokens)
    trace = await stack.trace(headers["x-request-id"])
    assert (trace["status"], trace["tokens"][2]) == (408, call.output_tokens)


async def test_a_provider_that_stalls_in_mid_stream_times_out(stack: Stack) -> None:
    """Silence between two chunks is bounded by the target's own time."""
    await stack.policy(breakers={"default": {"timeout_s": 0.2}})
    await stack.knobs(tokens_per_s=1.0, output_tokens=3)
    _, text, _ = await stack.chat("stalls", stream=True)
    assert events(text)[-1][1]["error"]["code"] == "provider_timeout"


async def test_many_leavers_leave_nothing_behind(stack: Stack) -> None:
    """Clients that leave at any moment: each call is charged once, nothing stays held."""
    limits = [{"name": "slots", "unit": "concurrent", "burst": 200}]
    await stack.policy(limits=limits)
    await stack.knobs(ttft_s=0.03, output_tokens=20, tokens_per_s=400.0)
    seen = await Seen.now(stack)

    async def leave(number: int) -> None:
        body = body_of(f"leaver {number}", stream=number % 3 != 0)
        timeout = aiohttp.ClientTimeout(total=0.002 * number)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                url = stack.url + "/v1/chat/completions"
                async with session.post(url, json=body, headers=stack.headers()) as reply:
                    await reply.read()
        except TimeoutError:
            pass

    await asyncio.gather(*(leave(number) for number in range(1, 60)))
    await asyncio.sleep(0.1)
    await stack.settled()
    mine = {call.charge_id: call for call in await seen.since(stack)}
    rows = [row for row in await stack.ledger() if row["charge_id"] in mine]
    assert sorted(row["charge_id"] for row in rows) == sorted(mine)
    assert {call.outcome for call in mine.values()} == {"ok"}
    for row in rows:
        call = mine[row["charge_id"]]
        assert (row["state"], row["output"]) == ("actual", call.output_tokens)
