"""Clients that send slowly, read slowly, never end or say nothing, over real sockets."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deployments.http_protocol import Protocol
from deployments.slow_clients import Bounds, Pace
from tests.replies import events, eventually
from tests.stack import Stack, free_port, running, serving

pytestmark = pytest.mark.anyio

BOUNDS = Bounds(head_s=30.0, head_bytes=1_000, send_s=30.0, send_bytes=100, rest_s=10.0)


def cut_at(steps: list[tuple[float, int, int, bool]]) -> tuple[float, str] | None:
    """When and for what a connection is cut: (now, sent, unsent, answered) at each look."""
    pace = Pace(BOUNDS, 0.0)
    pace.head_ended()
    for now, sent, unsent, answered in steps:
        why = pace.too_slow(sent, unsent, answered, now)
        if why is not None:
            return now, why
    return None


@pytest.mark.parametrize(
    ("steps", "cut"),
    [
        ([(at, 500, 0, False) for at in range(0, 1000, 5)], None),
        ([(at, 500, 70_000, False) for at in range(0, 1000, 5)], (30, "send")),
        ([(at, 2 * at, 70_000, False) for at in range(0, 1000, 5)], (30, "send")),
        ([(at, 10 * at, 70_000, False) for at in range(0, 1000, 5)], None),
        ([(at, 500, 70_000 * (at % 20 > 0), False) for at in range(0, 1000, 5)], None),
        ([(at, 500, 0, at >= 50) for at in range(0, 1000, 5)], (60, "rest")),
    ],
    ids=["nothing to send", "takes nothing", "takes little", "takes enough", "catches up", "rest"],
)
async def test_who_is_too_slow_is_cut_off(
    steps: list[tuple[float, int, int, bool]], cut: tuple[float, str] | None
) -> None:
    """By what was taken of what waited to be sent, in half a minute at a time."""
    assert cut_at(steps) == cut


async def test_a_head_has_its_time_from_its_first_byte_or_the_connection_s() -> None:
    """Idle between two requests is no slow head; that is for the keep-alive timeout."""
    pace = Pace(BOUNDS, 0.0)
    assert pace.too_slow(0, 0, False, 29.0) is None
    assert pace.too_slow(0, 0, False, 30.0) == "head"
    pace.head_ended()
    assert pace.too_slow(0, 0, False, 500.0) is None
    assert pace.more_head(600, 600.0)
    assert pace.too_slow(0, 0, False, 629.0) is None
    assert pace.too_slow(0, 0, False, 630.0) == "head"
    assert not pace.more_head(600, 630.0)


class Hasty(Protocol):
    """As it is, but in tenths of a second."""

    bounds = Bounds(
        connections=50, look_s=0.05, head_s=0.3, head_bytes=20_000, send_s=0.4, rest_s=0.3
    )


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers without reading."""
    if scope["type"] == "http":
        length = (b"content-length", b"2")
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": b"hi"})


@asynccontextmanager
async def connected(
    app: Any = hello,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, int]]:
    """A connection to a hasty server, and its port."""
    port = free_port()
    async with serving(app, port, Hasty), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer, port
        finally:
            writer.close()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, however it does."""
    told = b""
    try:
        while part := await reader.read(65_536):
            told += part
    except ConnectionResetError:
        pass
    return told


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nhost: x\r\n"], ids=["idle", "half"])
async def test_a_head_that_does_not_come_ends_its_connection(begun: bytes) -> None:
    """Also where bytes keep coming, one by one."""
    async with connected() as (reader, writer, _):
        writer.write(begun)
        end = asyncio.ensure_future(ended(reader))
        for _ in range(40):
            if begun:
                writer.write(b"x")
            await asyncio.sleep(0.02)
            if end.done():
                break
        assert end.done()
        assert await end == b""


async def test_an_idle_connection_after_a_request_is_kept() -> None:
    """Keep-alive has a time of its own."""
    async with connected() as (reader, writer, _):
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"hi")
            await asyncio.sleep(0.6)


async def test_a_huge_head_is_refused_before_it_is_held() -> None:
    """431 once it is over its bound, however long it goes on; one just below is served."""
    async with connected() as (reader, writer, _):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n")
        try:
            for number in range(1_000):
                writer.write(b"x-%d: %s\r\n" % (number, b"y" * 500))
                await writer.drain()
        except ConnectionError:
            pass
        assert (await ended(reader)).startswith(b"HTTP/1.1 431 ") or writer.is_closing()
    async with connected() as (reader, writer, _):
        head = b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"y" * 15_000
        writer.write(head)
        await asyncio.sleep(0.05)
        writer.write(b"\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"hi")


async def test_a_body_that_goes_on_after_its_answer_is_cut_off() -> None:
    """An early refusal does not keep a connection for a slow upload."""
    async with connected() as (reader, writer, _):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"hi")
        end = asyncio.ensure_future(ended(reader))
        for _ in range(100):
            writer.write(b"x")
            await asyncio.sleep(0.02)
            if end.done():
                break
        assert end.done()


async def test_an_answer_that_is_not_taken_ends_its_connection_and_its_request() -> None:
    """What waits is bounded by the transport's mark, and the request is cancelled."""
    held: list[int] = []
    cancelled = asyncio.Event()

    async def flood(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                piece = b"x" * 10_000
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                held.append(len(piece))
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with connected(flood) as (reader, writer, _):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readexactly(100)
        await asyncio.wait_for(cancelled.wait(), 5)
        # The kernel's buffers on both ends, and ours.
        assert sum(held) < 20_000_000


async def test_too_many_connections_are_turned_away_and_the_others_served() -> None:
    """503 without a request; who leaves makes room."""
    async with connected() as (reader, writer, port):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"hi")
        others = [await asyncio.open_connection("127.0.0.1", port) for _ in range(49)]
        one_more, its = await asyncio.open_connection("127.0.0.1", port)
        assert (await ended(one_more)).startswith(b"HTTP/1.1 503 ")
        its.close()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"hi")
        for _, other in others:
            other.close()

        async def served() -> bool:
            new, its = await asyncio.open_connection("127.0.0.1", port)
            its.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            told = await ended(new)
            its.close()
            return b"200 OK" in told

        await eventually(served)


@pytest.fixture(scope="module")
async def hasty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A gateway with short times for its clients."""
    structure = {
        "body_timeout_s": 0.3,
        "body_bytes_per_s": 100_000,
        "max_bodies_bytes": 1 << 20,
        "drain_s": 5.0,
    }
    folder = tmp_path_factory.mktemp("hasty")
    async with running(folder, structure=structure, protocol=Hasty) as stack:
        yield stack


def head(stack: Stack, size: int, **more: str) -> bytes:
    """The head of a chat request whose body has this size."""
    lines = {"host": "x", "content-length": str(size), **stack.headers(), **more}
    told = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{told}\r\n".encode()


def chat(text: str, **more: Any) -> bytes:
    """A chat request's body."""
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **more}
    return json.dumps(asked).encode()


@asynccontextmanager
async def line_to(stack: Stack) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the gateway."""
    port = int(stack.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()


async def test_a_body_that_trickles_gets_408(hasty: Stack) -> None:
    """In bounded time, as an error that says so; nothing was called, nothing is held."""
    body = chat("slow")
    async with line_to(hasty) as (reader, writer):
        writer.write(head(hasty, len(body)) + body[:10])
        for at in range(10, 60):
            if reader._buffer:  # type: ignore[attr-defined]
                break
            writer.write(body[at : at + 1])
            await asyncio.sleep(0.02)
        told = await reader.readuntil(b"}")
        assert told.startswith(b"HTTP/1.1 408 ")
        assert b"deadline_exceeded" in told
        assert b"x-should-retry: false" in told
    await hasty.settled()
    assert hasty.services.front.requests == 0


async def test_a_large_body_at_a_fair_pace_is_taken(hasty: Stack) -> None:
    """It takes longer than the time for small ones, and has it."""
    body = chat("x" * 120_000, max_tokens=5)
    async with line_to(hasty) as (reader, writer):
        writer.write(head(hasty, len(body)))
        for at in range(0, len(body), 12_000):
            writer.write(body[at : at + 12_000])
            await asyncio.sleep(0.06)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    await hasty.settled()
    assert hasty.services.front.bytes == 0


async def test_a_call_may_take_longer_than_a_head_may(hasty: Stack) -> None:
    """Also where the request's body came apart from its head."""
    await hasty.knobs(ttft_s=1.0)
    body = chat("takes its time")
    async with line_to(hasty) as (reader, writer):
        writer.write(head(hasty, len(body)))
        await asyncio.sleep(0.05)
        writer.write(body)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_there_is_room_for_so_many_bodies(hasty: Stack) -> None:
    """503 for the one too many; the room is free again when the others have ended."""
    body = chat("y" * 700_000, max_tokens=5)
    async with line_to(hasty) as (_, writer), line_to(hasty) as (reader, other):
        writer.write(head(hasty, len(body)) + body[:-1])
        await eventually(lambda: asyncio.sleep(0, hasty.services.front.bytes > 600_000))
        other.write(head(hasty, len(body)) + body)
        told = await reader.readuntil(b"}")
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"overloaded" in told
    await eventually(lambda: asyncio.sleep(0, hasty.services.front.bytes == 0))


async def test_a_stream_whose_client_stops_reading_is_settled_by_its_usage(hasty: Stack) -> None:
    """The connection is cut off, the stream read to its end without it, and charged as told."""
    await hasty.knobs(ttft_s=0.0, tokens_per_s=0, output_tokens=60_000)
    body = chat("nobody reads this", stream=True, max_tokens=60_000)
    async with line_to(hasty) as (reader, writer):
        writer.transport.set_write_buffer_limits()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(head(hasty, len(body)) + body)

        async def charged() -> bool:
            rows = [row for row in await hasty.ledger() if row["output"] == 60_000]
            return bool(rows) and rows[0]["state"] == "actual"

        await eventually(charged, patience_s=10.0)
    await hasty.settled()


async def test_a_stream_that_never_ends_ends_with_its_request_s_time(hasty: Stack) -> None:
    """An error event, then what is left is drained for a bounded time and posted."""
    await hasty.knobs(ttft_s=0.0, tokens_per_s=10, output_tokens=100_000)
    body = {
        "model": "gpt-4o-mini",
        "stream": True,
        "max_tokens": 100_000,
        "messages": [{"role": "user", "content": "for ever"}],
    }
    async with hasty.session.post(
        hasty.url + "/v1/chat/completions",
        json=body,
        headers=hasty.headers(x_raygate_timeout="0.5"),
    ) as reply:
        found = events(await reply.text())
    assert found[-1][1]["error"]["code"] == "deadline_exceeded"
    await eventually(
        lambda: asyncio.sleep(0, not hasty.services._gates["simulated/gpt-4o-mini"].in_flight),
        patience_s=10.0,
    )
    await hasty.settled()


async def test_thousands_of_idle_connections_change_nothing(hasty: Stack) -> None:
    """A server with 5,000 of them answers at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 12_000 <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (12_000, hard))

    class Patient(Protocol):
        bounds = Bounds()

    port = free_port()
    async with serving(hello, port, Patient), asyncio.timeout(30):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5_000)]
        began = asyncio.get_running_loop().time()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"hi")
        assert asyncio.get_running_loop().time() - began < 0.5
        for _, one in [*idle, (reader, writer)]:
            one.close()
