import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from simulations import measures
from simulations.arrivals import fixed_rate
from simulations.client import Gateway
from simulations.driver import Clock, drive
from simulations.records import Record
from simulations.workload import Intent

pytestmark = pytest.mark.anyio

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[Gateway]]


@pytest.fixture
async def serve(anyio_backend: str) -> AsyncIterator[Serve]:
    """Starts a server whose only handler takes every POST; gives a client of it."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(handler: Handler) -> Gateway:
            app = web.Application()
            app.router.add_post("/{path:.*}", handler)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            return await stack.enter_async_context(Gateway(url, "rg-test", connections=0))

        yield start


def chats(times: list[float], stream: bool = False) -> list[Intent]:
    """Chats at those times."""
    return [Intent(at_s, "chat", "m", (("user", "hi"),), stream=stream) for at_s in times]


async def quick(request: web.Request) -> web.Response:
    """Answers at once, with every header."""
    headers = {
        "x-raygate-cache": "HIT",
        "x-raygate-cost-usd": "0.000135",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    return web.json_response({"choices": [], "usage": usage}, headers=headers)


async def test_a_stall_counts_for_every_request_that_was_due_meanwhile(serve: Serve) -> None:
    """A server that stands still for a second costs each request the rest of that second.

    A closed loop would have sent one request, waited, and reported one slow answer in fifty.
    """
    loop = asyncio.get_running_loop()
    stalled_until: list[float] = []

    async def stalling(request: web.Request) -> web.Response:
        if not stalled_until:
            stalled_until.append(loop.time() + 1.0)
        await asyncio.sleep(max(0.0, stalled_until[0] - loop.time()))
        return await quick(request)

    gateway = await serve(stalling)
    records = await drive(gateway, chats(list(fixed_rate(50, 1.0))), Clock())
    latencies = [record.latency_s for record in records]
    assert len(latencies) == 50
    for record in records:
        assert record.latency_s == pytest.approx(1.0 - record.intent.at_s, abs=0.15)
    assert measures.percentile(latencies, 50) == pytest.approx(0.5, abs=0.15)


async def test_latency_counts_from_the_intended_time_even_if_sent_late(serve: Serve) -> None:
    """A driver that starts half a second late charges that half second to the latency."""
    gateway = await serve(quick)
    clock = Clock(delay_s=-0.5)
    (record,) = await drive(gateway, chats([0.0]), clock)
    assert record.latency_s > 0.5
    assert measures.tardiness([record]) > 0.5


async def test_what_finds_no_free_slot_is_recorded_as_unsent(serve: Serve) -> None:
    """With two slots and a server that holds both, the other eight are counted, never sent."""
    arrived = 0

    async def slow(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        await asyncio.sleep(0.5)
        return await quick(request)

    gateway = await serve(slow)
    told: list[Record] = []
    intents = chats([0.0] * 10)
    records = await drive(gateway, intents, Clock(), max_in_flight=2, on_record=told.append)
    assert [record.outcome for record in records] == ["success"] * 2 + ["unsent"] * 8
    assert arrived == 2
    assert len(told) == 10


async def test_a_record_holds_what_the_reply_said(serve: Serve) -> None:
    """Status, cache, cost in nano-dollars, tokens and trace id come from the reply."""
    gateway = await serve(quick)
    (record,) = await drive(gateway, chats([0.0]), Clock())
    assert (record.outcome, record.status, record.cache) == ("success", 200, "HIT")
    assert record.cost_nanos == 135_000
    assert (record.tokens_in, record.tokens_out) == (3, 4)
    assert record.trace_id == "0af7651916cd43dd8448eb211c80319c"


async def test_what_is_sent_carries_key_and_priority(serve: Serve) -> None:
    """The request has the key, the priority's header and the intent's body."""
    seen: list[tuple[str, str, object]] = []

    async def noting(request: web.Request) -> web.Response:
        headers = request.headers
        body = await request.json()
        seen.append((headers["authorization"], headers["x-raygate-priority"], body))
        return await quick(request)

    gateway = await serve(noting)
    intent = Intent(0.0, "prompt", template="t1", inputs={"data": "x"}, priority="high")
    await drive(gateway, [intent], Clock())
    assert seen == [("Bearer rg-test", "high", intent.body())]


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (429, "rate_limit_exceeded", "refused"),
        (429, "insufficient_quota", "refused"),
        (503, "provider_unavailable", "failed"),
        (502, "provider_error", "failed"),
        (401, "invalid_api_key", "failed"),
    ],
)
async def test_errors_are_told_apart_by_their_code(
    serve: Serve, status: int, code: str, outcome: str
) -> None:
    """A limit or a budget refuses; everything else has failed; the reason is the error's code."""

    async def erring(request: web.Request) -> web.Response:
        error = {"error": {"message": "no", "type": "t", "param": None, "code": code}}
        return web.json_response(error, status=status)

    gateway = await serve(erring)
    (record,) = await drive(gateway, chats([0.0]), Clock())
    assert (record.outcome, record.reason, record.status) == (outcome, code, status)


async def test_a_fallback_is_no_success(serve: Serve) -> None:
    """A prompt that got a fallback text is told apart, with the reason of the gateway."""

    async def falling_back(request: web.Request) -> web.Response:
        return web.json_response({"status": "fallback", "reason": "budget_exhausted", "cost": 0})

    gateway = await serve(falling_back)
    intent = Intent(0.0, "prompt", template="t1", inputs={"data": "x"})
    (record,) = await drive(gateway, [intent], Clock())
    assert (record.outcome, record.reason) == ("fallback", "budget_exhausted")
    assert record.answered
    assert record.cost_nanos == 0


def streaming(events: list[bytes], gap_s: float = 0.0) -> Handler:
    """Sends these events, each followed by a gap."""

    async def stream(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse()
        await reply.prepare(request)
        for event in events:
            await reply.write(event + b"\n\n")
            await asyncio.sleep(gap_s)
        return reply

    return stream


ROLE = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}'
TEXT = b'data: {"choices": [{"delta": {"content": "hi"}}]}'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}'
DONE = b"data: [DONE]"
ERROR = b'data: {"error": {"message": "no", "type": "t", "code": "provider_error"}}'


@pytest.mark.parametrize(
    ("events", "outcome", "reason"),
    [
        ([ROLE, TEXT, USAGE, DONE], "success", ""),
        ([ROLE, TEXT], "failed", "stream_cut_off"),
        ([ROLE, TEXT, ERROR], "failed", "provider_error"),
    ],
)
async def test_a_chat_stream_is_judged_by_how_it_ends(
    serve: Serve, events: list[bytes], outcome: str, reason: str
) -> None:
    """Only [DONE] ends a chat well; an error event or a cut is a failure, in spite of its 200."""
    gateway = await serve(streaming(events))
    (record,) = await drive(gateway, chats([0.0], stream=True), Clock())
    assert (record.outcome, record.reason) == (outcome, reason)


async def test_time_to_first_token_is_that_of_the_first_text(serve: Serve) -> None:
    """The role's empty chunk does not count; usage comes from the last chunk."""
    gateway = await serve(streaming([ROLE, TEXT, USAGE, DONE], 0.2))
    (record,) = await drive(gateway, chats([0.0], stream=True), Clock())
    assert record.ttft_s == pytest.approx(0.2, abs=0.1)
    assert record.latency_s == pytest.approx(0.8, abs=0.2)
    assert record.tokens_out == 4


async def test_a_prompt_stream_ends_with_its_result(serve: Serve) -> None:
    """Deltas give the first text, the result event the status, cost and trace."""
    events = [
        b'event: delta\ndata: {"text": "hi"}',
        b'event: result\ndata: {"status": "success", "cost": 0.5, "trace_id": "t9"}',
    ]
    gateway = await serve(streaming(events))
    intent = Intent(0.0, "prompt", template="t1", inputs={"data": "x"}, stream=True)
    (record,) = await drive(gateway, [intent], Clock())
    assert record.outcome == "success"
    assert record.ttft_s is not None
    assert (record.cost_nanos, record.trace_id) == (500_000_000, "t9")


async def test_a_broken_connection_and_a_silent_server_fail_the_request_only(serve: Serve) -> None:
    """A cut and a client timeout become records; the other requests go on."""

    async def rude(request: web.Request) -> web.StreamResponse:
        kind = (await request.json())["user"]
        if kind == "cut":
            assert request.transport is not None
            request.transport.close()
        if kind == "silent":
            await asyncio.sleep(1.0)
        return await quick(request)

    gateway = await serve(rude)
    intents = [
        Intent(0.0, "chat", "m", (("user", "hi"),), user=kind) for kind in ("cut", "silent", "fine")
    ]
    records = await drive(gateway, intents, Clock(), timeout_s=0.3)
    assert [record.outcome for record in records] == ["failed", "failed", "success"]
    assert records[0].reason == "ServerDisconnectedError"
    assert records[1].reason == "client_timeout"
