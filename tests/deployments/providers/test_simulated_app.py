import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deployments.providers.base import Call, ProviderFailure
from deployments.providers.openai import OpenAIProvider
from deployments.providers.simulated_app import create_app
from deployments.providers.simulated_knobs import Knobs
from deployments.providers.simulated_log import CallLog, CallRecord, read_calls
from deployments.providers.sse import StreamTail
from tests.replies import chunks_of

pytestmark = pytest.mark.anyio

KEY = "sk-sim-test"
FAST = Knobs(ttft_s=0, tokens_per_s=0, output_tokens=10)
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}


@dataclass
class Simulation:
    url: str
    http: aiohttp.ClientSession
    provider: OpenAIProvider
    log: CallLog

    async def ask(self, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, Any]:
        call = Call("/chat/completions", json.dumps({**ASK, **body}).encode(), headers or {}, 5)
        answer = await self.provider.send(call)
        return answer.status, json.loads(answer.body)

    async def stream(self, **body: Any) -> list[dict[str, Any]]:
        """The stream's events; it must end with [DONE]."""
        call = Call(
            "/chat/completions", json.dumps({**ASK, "stream": True, **body}).encode(), {}, 5
        )
        answer = await self.provider.stream(call)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        try:
            raw = b"".join([chunk async for chunk in chunks_of(answer)])
        finally:
            await answer.aclose()
        events = raw.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    async def turn(self, **knobs: Any) -> tuple[int, Any]:
        async with self.http.put(f"{self.url}/control", json=knobs) as reply:
            return reply.status, await reply.json()

    async def records(self, settled: int) -> list[CallRecord]:
        """The log's calls, once so many have ended."""
        for _ in range(500):
            records = read_calls(self.log.path)
            if sum(record.outcome is not None for record in records) >= settled:
                return records
            await asyncio.sleep(0.01)
        raise AssertionError(f"{settled} calls did not end: {read_calls(self.log.path)}")


@pytest.fixture
async def simulation(
    run_app: Callable[[Any], Awaitable[str]], tmp_path: Path
) -> AsyncIterator[Simulation]:
    """A running simulated provider that answers at once, and a client of it."""
    models = ["gpt-4o-mini", "gpt-4o"]
    log = CallLog(tmp_path / "calls.jsonl", 10**9, models)
    url = await run_app(create_app(FAST, models, KEY, log))
    provider = OpenAIProvider("simulated", f"{url}/v1", KEY)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
        yield Simulation(url, http, provider, log)
        await provider.close()


async def test_a_plain_reply_has_openais_shape(simulation: Simulation) -> None:
    """Ids, choices and usage are where OpenAI's clients look for them."""
    status, reply = await simulation.ask(n=2)
    assert status == 200
    assert reply["id"].startswith("chatcmpl-")
    assert (reply["object"], reply["model"]) == ("chat.completion", "gpt-4o-mini")
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert reply["choices"][0]["message"]["role"] == "assistant"
    assert reply["choices"][0]["finish_reason"] == "stop"
    usage = reply["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 20)
    assert usage["total_tokens"] == 27
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize("choices", [1, 2])
@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_stream_says_what_the_plain_reply_says(
    simulation: Simulation, choices: int, include_usage: bool
) -> None:
    """Same words and figures; usage comes last, without choices, and only when asked for."""
    _, plain = await simulation.ask(n=choices)
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    events = await simulation.stream(n=choices, **options)
    if include_usage:
        bill = events.pop()
        assert bill["choices"] == []
        assert bill["usage"] == plain["usage"]
    assert all(("usage" in event) == include_usage for event in events)
    for i in range(choices):
        parts = [e["choices"][0] for e in events if e["choices"][0]["index"] == i]
        assert parts[0]["delta"]["role"] == "assistant"
        text = "".join(part["delta"].get("content") or "" for part in parts)
        assert text == plain["choices"][i]["message"]["content"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["stop"]
        assert len(parts) == 12


async def test_a_stream_can_be_followed_by_its_tail(simulation: Simulation) -> None:
    """What we read at the end of a stream is what the provider has on its books."""
    body = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    answer = await simulation.provider.stream(
        Call("/chat/completions", json.dumps(body).encode(), {}, 5)
    )
    tail = StreamTail(keep_usage=False)
    relayed = b"".join([tail.feed(chunk) async for chunk in chunks_of(answer)]) + tail.flush()
    await answer.aclose()
    usage = tail.usage()
    assert usage is not None
    (record,) = await simulation.records(1)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (
        record.input_tokens,
        record.output_tokens,
    )
    assert b'"usage":{' not in relayed
    assert relayed.endswith(b"[DONE]\n\n")
    assert tail.done


async def test_tool_calls_come_plain_and_streamed(simulation: Simulation) -> None:
    """A tool call's arguments are JSON, whole or pieced together, and the finish says so."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    _, reply = await simulation.ask(tools=[tool], tool_choice="required")
    choice = reply["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    call = choice["message"]["tool_calls"][0]
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "example"}
    events = await simulation.stream(tools=[tool], tool_choice="required")
    deltas = [event["choices"][0]["delta"] for event in events]
    first = deltas[0]["tool_calls"][0]
    assert (first["index"], first["function"]["name"]) == (0, "weather")
    said = "".join(d["tool_calls"][0]["function"]["arguments"] for d in deltas if "tool_calls" in d)
    assert json.loads(said) == {"city": "example"}
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_usage_can_be_fixed_to_make_every_call_cost_the_same(simulation: Simulation) -> None:
    """Input, cached and output tokens are exactly what the knobs and max_tokens say."""
    await simulation.turn(fill_max_tokens=True, input_tokens=100, cached_tokens=40)
    limits: list[dict[str, Any]] = [{"max_tokens": 33}, {"max_completion_tokens": 33}]
    for limit in limits:
        _, reply = await simulation.ask(**limit)
        assert reply["usage"]["prompt_tokens"] == 100
        assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] == 40
        assert reply["usage"]["completion_tokens"] == 33
        assert reply["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": "gpt-9"}, 404, "model", "model_not_found"),
        ({"model": None}, 400, "model", None),
        ({"messages": []}, 400, "messages", None),
        ({"messages": "Hi"}, 400, "messages", None),
        ({"messages": [{"content": "Hi"}]}, 400, "messages.0", None),
        ({"max_tokens": 0}, 400, "max_tokens", None),
        ({"max_tokens": "9"}, 400, "max_tokens", None),
        ({"n": 1000}, 400, "n", None),
        ({"stream": "yes"}, 400, "stream", None),
        ({"stream_options": {}}, 400, "stream_options", None),
        ({"tools": [{}]}, 400, "tools.0", None),
        ({"tool_choice": "required"}, 400, "tool_choice", None),
        ({"response_format": "json"}, 400, "response_format", None),
        ({"response_format": {"type": "json_schema", "json_schema": 7}}, 400, None, None),
    ],
)
async def test_a_bad_request_is_refused_in_openais_shape(
    simulation: Simulation, body: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    """Each mistake is a 4xx that names the field, is on record, and costs nothing."""
    got, reply = await simulation.ask(**body)
    assert got == status
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert (reply["error"]["param"], reply["error"]["code"]) == (param, code)
    (record,) = await simulation.records(1)
    assert (record.outcome, record.status) == ("error", status)
    assert (record.input_tokens, record.output_tokens) == (0, 0)


async def test_a_body_that_is_no_json_is_refused(simulation: Simulation) -> None:
    """Not even that brings a 500."""
    for body in (b"{", b"[]", b""):
        answer = await simulation.provider.send(Call("/chat/completions", body, {}, 5))
        assert answer.status == 400


@pytest.mark.parametrize("key", ["", "Bearer wrong", f"bearer {KEY}x", KEY])
async def test_nothing_is_told_without_the_key(simulation: Simulation, key: str) -> None:
    """Every path asks for the key first, and a call without it is none."""
    async with aiohttp.ClientSession(headers={"authorization": key}) as http:
        for path in ("/v1/models", "/control", "/log", "/stats", "/nowhere"):
            async with http.get(simulation.url + path) as reply:
                assert reply.status == 401
                assert (await reply.json())["error"]["code"] == "invalid_api_key"
        async with http.post(f"{simulation.url}/v1/chat/completions", json=ASK) as reply:
            assert reply.status == 401
    assert read_calls(simulation.log.path) == []


async def test_other_paths_and_methods_are_refused_in_shape(simulation: Simulation) -> None:
    """A typing mistake gets an error that OpenAI's clients can read."""
    async with simulation.http.get(f"{simulation.url}/v1/chat/completions") as reply:
        assert reply.status == 405
    async with simulation.http.get(f"{simulation.url}/v2") as reply:
        assert reply.status == 404
        assert (await reply.json())["error"]["code"] == "not_found"


async def test_models_are_listed(simulation: Simulation) -> None:
    """The names that it answers to are those that it was given."""
    async with simulation.http.get(f"{simulation.url}/v1/models") as reply:
        models = [model["id"] for model in (await reply.json())["data"]]
    assert models == ["gpt-4o-mini", "gpt-4o"]


async def test_calls_are_recorded_as_the_gateway_named_them(simulation: Simulation) -> None:
    """Charge id, admission stamp and probe mark come back from the log; so do the tokens."""
    headers = {
        "x-raygate-charge-id": "c-1",
        "x-raygate-admitted-ns": "123456789",
        "x-raygate-probe": "1",
    }
    _, reply = await simulation.ask(headers)
    (record,) = await simulation.records(1)
    assert (record.charge_id, record.admitted_ns, record.probe) == ("c-1", 123456789, True)
    assert (record.outcome, record.status, record.model) == ("ok", 200, "gpt-4o-mini")
    assert record.input_tokens == reply["usage"]["prompt_tokens"]
    assert record.output_tokens == reply["usage"]["completion_tokens"]
    async with simulation.http.get(f"{simulation.url}/log?limit=1") as page:
        assert (await page.text()).count("\n") == 1
        following = page.headers["x-next-after"]
    async with simulation.http.get(f"{simulation.url}/log?after={following}") as page:
        assert json.loads(await page.text())["event"] == "ended"
    async with simulation.http.get(f"{simulation.url}/log?after=x") as page:
        assert page.status == 400
    async with simulation.http.get(f"{simulation.url}/stats") as page:
        stats = await page.json()
    assert (stats["calls"], stats["outcomes"], stats["max_probes_in_flight"]) == (1, {"ok": 1}, 1)
    async with simulation.http.delete(f"{simulation.url}/stats") as page:
        assert (await page.json())["calls"] == 0


async def test_a_question_is_known_again_whatever_is_asked_with_it(simulation: Simulation) -> None:
    """The log's digest is of the messages: not of the form, the length or the charge."""
    other = [{"role": "user", "content": "Ho"}]
    await simulation.ask({"x-raygate-charge-id": "c-1"})
    await simulation.stream(max_tokens=3)
    await simulation.ask(messages=other)
    first, second, third = [record.question for record in await simulation.records(3)]
    assert first == second != third
    assert len(first) == 16


async def test_knobs_turn_while_it_runs(simulation: Simulation) -> None:
    """A change keeps the other knobs; DELETE goes back to the beginning."""
    status, knobs = await simulation.turn(outage=True, error_status=503)
    assert (status, knobs["outage"], knobs["output_tokens"]) == (200, True, 10)
    assert (await simulation.ask())[0] == 503
    await simulation.turn(outage=False)
    assert (await simulation.ask())[0] == 200
    async with simulation.http.delete(f"{simulation.url}/control") as reply:
        assert await reply.json() == FAST.model_dump(mode="json")


@pytest.mark.parametrize(
    ("knobs", "param"),
    [
        ({"error_rate": 2}, "error_rate"),
        ({"outages": [{"from_s": -1, "for_s": 1}]}, "outages.0.from_s"),
        ({"speed": 1}, "speed"),
        ({"ttft_s": "slow"}, "ttft_s"),
    ],
)
async def test_a_bad_knob_is_refused_with_its_path(
    simulation: Simulation, knobs: dict[str, Any], param: str
) -> None:
    """The error names the field, and nothing has changed."""
    status, reply = await simulation.turn(output_tokens=99, **knobs)
    assert (status, reply["error"]["param"]) == (400, param)
    assert param in reply["error"]["message"]
    async with simulation.http.get(f"{simulation.url}/control") as page:
        assert (await page.json())["output_tokens"] == 10


async def test_throttling_says_when_to_come_back(simulation: Simulation) -> None:
    """429 with Retry-After, in seconds and in milliseconds; nothing is billed."""
    await simulation.turn(throttle=True, retry_after_s=1.5)
    answer = await simulation.provider.send(
        Call("/chat/completions", json.dumps(ASK).encode(), {}, 5)
    )
    assert answer.status == 429
    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("2", "1500")
    (record,) = await simulation.records(1)
    assert (record.outcome, record.output_tokens) == ("throttled", 0)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("reset_at", ["before", "middle"])
async def test_a_reset_is_never_a_well_formed_end(
    simulation: Simulation, reset_at: str, streamed: bool
) -> None:
    """The connection breaks, and what was produced by then is on the books."""
    await simulation.turn(reset_rate=1, reset_at=reset_at, tokens_per_s=2000, output_tokens=40)
    sums = []
    for _ in range(5):
        with pytest.raises(ProviderFailure) as failure:
            await (simulation.stream() if streamed else simulation.ask())
        assert failure.value.kind == "reset"
    for record in await simulation.records(5):
        assert record.outcome == "reset"
        sums.append((record.input_tokens, record.output_tokens))
    if reset_at == "before":
        assert set(sums) == {(0, 0)}
    elif streamed:
        assert all(tokens_in == 7 and tokens_out < 40 for tokens_in, tokens_out in sums)
        assert len(set(sums)) > 1
    else:
        assert set(sums) == {(7, 40)}


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_hang_says_nothing_and_ends_in_a_reset(
    simulation: Simulation, streamed: bool
) -> None:
    """A caller with less patience times out; one with more is cut off."""
    await simulation.turn(hang_rate=1, hang_s=0.4)
    for patience_s, kind in ((0.1, "timeout"), (3.0, "reset")):
        call = Call(
            "/chat/completions", json.dumps({**ASK, "stream": streamed}).encode(), {}, patience_s
        )
        with pytest.raises(ProviderFailure) as failure:
            await (simulation.provider.stream(call) if streamed else simulation.provider.send(call))
        assert failure.value.kind == kind
    assert {r.outcome for r in await simulation.records(2)} == {"hang"}


async def test_times_are_those_of_the_knobs(simulation: Simulation) -> None:
    """First token after ttft_s, the rest at tokens_per_s, plain as streamed."""
    await simulation.turn(ttft_s=0.1, tokens_per_s=100, output_tokens=21)
    start = time.monotonic()
    await simulation.ask()
    assert 0.3 <= time.monotonic() - start < 0.6
    call = Call("/chat/completions", json.dumps({**ASK, "stream": True}).encode(), {}, 5)
    start = time.monotonic()
    answer = await simulation.provider.stream(call)
    assert 0.1 <= time.monotonic() - start < 0.25
    arrivals = [time.monotonic() - start async for _ in chunks_of(answer)]
    await answer.aclose()
    assert 0.3 <= arrivals[-1] < 0.6
    assert len(arrivals) > 10


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_caller_that_leaves_is_billed_for_what_was_produced(
    simulation: Simulation, streamed: bool
) -> None:
    """Production stops with the caller, and the record says how far it came."""
    await simulation.turn(ttft_s=0.05, tokens_per_s=100, output_tokens=1000)
    call = Call("/chat/completions", json.dumps({**ASK, "stream": streamed}).encode(), {}, 0.3)
    if streamed:
        answer = await simulation.provider.stream(call)
        async for _ in chunks_of(answer):
            break
        await answer.aclose()
    else:
        with pytest.raises(ProviderFailure):
            await simulation.provider.send(call)
    (record,) = await simulation.records(1)
    assert (record.outcome, record.input_tokens) == ("client_gone", 7)
    assert (1 <= record.output_tokens <= 5) if streamed else (15 <= record.output_tokens <= 40)
    async with simulation.http.get(f"{simulation.url}/stats") as page:
        assert (await page.json())["in_flight"] == 0


async def test_the_peak_of_calls_in_flight_is_known(simulation: Simulation) -> None:
    """A hundred at once are a hundred in flight, and none afterwards."""
    await simulation.turn(ttft_s=0.3)
    await asyncio.gather(*(simulation.ask() for _ in range(100)))
    stats = simulation.log.stats()
    assert (stats["max_in_flight"], stats["in_flight"]) == (100, 0)
    assert stats["models"]["gpt-4o-mini"]["max_in_flight"] == 100


async def test_a_body_beyond_the_bound_is_refused(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can fill the provider's memory; such a call is none."""
    monkeypatch.setattr("deployments.providers.simulated_line.MAX_BODY_BYTES", 1000)
    status, reply = await simulation.ask(user="x" * 2000)
    assert (status, reply["error"]["type"]) == (413, "invalid_request_error")
    assert read_calls(simulation.log.path) == []
