import asyncio
import gc
import socket
import struct
import time
from typing import Any

import pytest

from deployments.providers.base import Call, ProviderFailure, StreamAnswer
from deployments.providers.http1_reply import MAX_HEAD_BYTES
from tests.deployments.providers.scripted import (
    CALL,
    HEAD,
    KEY,
    Counting,
    Script,
    answering,
    provider,
    request_of,
    whole_reply,
)

pytestmark = pytest.mark.anyio

CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
HI = HEAD + b"content-length: 2\r\n\r\nhi"


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both loops: Ray's replicas run on uvloop, and on asyncio where that is missing."""
    return "asyncio", {"use_uvloop": request.param}


def quick(timeout_s: float) -> Call:
    """A call with little patience."""
    return Call(CALL.path, CALL.body, {}, timeout_s)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 20",),
        (HEAD + b"content-le",),
        (b"HTTP/1.1 100 Continue\r\n\r\n",),
        (CHUNKED + b"2\r\nhi\r\nzz\r\n",),
        (HEAD + b"a: " + b"x" * 2 * MAX_HEAD_BYTES,),
        (b"HTTP/1.1 101 Switch\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",),
        (HEAD + b"transfer-encoding: gzip\r\n\r\n",),
        (HEAD + b"content-length: 5000\r\n\r\n",),
        (CHUNKED, *[b"190\r\n" + b"x" * 400 + b"\r\n"] * 3),
        (HEAD + b"\r\n", *[b"x" * 400] * 3),
    ],
)
async def test_every_reply_that_is_none_is_a_reset(
    run_script: Script, parts: tuple[bytes, ...], streamed: bool
) -> None:
    """Half a head, a broken rule, too much: the call may be billed, and the connection is cut."""
    # What is cut by its end is known by that; all else at once, though the provider waits.
    hold = len(parts[0]) > 40
    url = await run_script(answering(*parts, hold=hold))
    async with provider(url, max_answer_bytes=1000, max_connections=1) as acme:
        for _ in range(2):
            with pytest.raises(ProviderFailure) as failure:
                await whole_reply(acme, CALL, streamed)
            assert failure.value.kind == "reset"
            assert "acme" in str(failure.value)
            assert KEY not in str(failure.value)
            assert "127.0.0.1" not in str(failure.value)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_body_may_end_with_its_connection(run_script: Script, streamed: bool) -> None:
    """Without a length and without chunks its end is the provider's."""
    script = answering(HEAD + b"\r\n", b"one", b"two")
    async with provider(await run_script(script)) as acme:
        for _ in range(2):
            assert await whole_reply(acme, CALL, streamed) == b"onetwo"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_connection_that_is_torn_is_no_end(run_script: Script, streamed: bool) -> None:
    """A TCP reset in a body without a length is a failure."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(HEAD + b"\r\none")
        await asyncio.sleep(0.05)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with provider(await run_script(handle)) as acme:
        with pytest.raises(ProviderFailure) as failure:
            await whole_reply(acme, CALL, streamed)
    assert failure.value.kind == "reset"


@pytest.mark.parametrize("streamed", [False, True])
async def test_informational_replies_are_skipped(run_script: Script, streamed: bool) -> None:
    """Any number of them, together with the reply or apart from it."""
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"
    script = answering(b"HTTP/1.1 100 Continue\r\n\r\n", hints, hints + HI)
    async with provider(await run_script(script)) as acme:
        assert await whole_reply(acme, CALL, streamed) == b"hi"


@pytest.mark.parametrize(
    ("reply", "connections"),
    [
        (HI, 1),
        (CHUNKED + b"2\r\nhi\r\n0\r\ntrailer: x\r\n\r\n", 1),
        (HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nhi", 3),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", 3),
        (HI + b"HTTP/1.1 200 OK\r\n", 3),
        (HI + b"x", 3),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_connection_is_reused_only_where_nothing_speaks_against_it(
    run_script: Script, reply: bytes, connections: int, streamed: bool
) -> None:
    """A reply that closes it, or is followed by more, is an answer, and the last one on it."""
    count = Counting(reply)
    async with provider(await run_script(count)) as acme:
        for _ in range(3):
            assert await whole_reply(acme, CALL, streamed) == b"hi"
    assert (count.connections, len(count.calls)) == (connections, 3)


@pytest.mark.parametrize("noise", [b"x", b"HTTP/1.1 408 Idle\r\ncontent-length: 0\r\n\r\n", b""])
async def test_a_connection_that_stirs_while_idle_is_not_reused(
    run_script: Script, noise: bytes
) -> None:
    """Bytes that nobody asked for, or its end, are no answer to the next call."""
    connections = 0
    stirred = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await request_of(reader)
        writer.write(HI)
        await asyncio.sleep(0.02)
        writer.write(noise)
        stirred.set()
        if noise:
            await reader.read()

    async with provider(await run_script(handle), max_connections=1) as acme:
        for _ in range(3):
            assert (await acme.send(CALL)).body == b"hi"
            await stirred.wait()
            stirred.clear()
            await asyncio.sleep(0.02)
    assert connections == 3


async def test_an_answer_may_come_before_all_is_sent(run_script: Script) -> None:
    """It counts; the connection, which still holds a piece of the call, carries no other."""
    connections = 0
    enough = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Much\r\ncontent-length: 2\r\n\r\nhi")
        await enough.wait()

    large = Call(CALL.path, b"x" * (32 << 20), {}, 5)
    async with provider(await run_script(handle)) as acme:
        for _ in range(2):
            answer = await acme.send(large)
            assert (answer.status, answer.body) == (413, b"hi")
        enough.set()
    assert connections == 2


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b", "\r\n"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_header_cannot_smuggle_another(
    run_script: Script, value: str, streamed: bool
) -> None:
    """A value that would end its line is refused, nothing goes out, and no place is lost."""
    count = Counting()
    async with provider(await run_script(count), max_connections=1) as acme:
        evil = Call(CALL.path, CALL.body, {"x-request-id": value}, 5)
        with pytest.raises(ValueError, match="header"):
            await whole_reply(acme, evil, streamed)
        assert count.connections == 0
        await acme.send(CALL)
        with pytest.raises(ValueError, match="header"):
            await whole_reply(acme, evil, streamed)
        await acme.send(CALL)
    assert (count.connections, len(count.calls)) == (1, 2)


async def test_a_path_cannot_smuggle_a_header(run_script: Script) -> None:
    """What has no place in a request line is escaped; what is escaped stays so."""
    count = Counting()
    async with provider(await run_script(count)) as acme:
        await acme.send(Call("/a b\r\nx: y%20é?q=1 2", b"", {}, 5))
    assert count.calls[0].startswith("POST /v1/a%20bx:%20y%20%C3%A9?q=1%202 HTTP/1.1\r\n")


async def test_patience_with_a_stream_is_for_each_chunk(run_script: Script) -> None:
    """A stream may last longer than the time for one chunk."""
    script = answering(CHUNKED, *[b"1\r\nx\r\n"] * 40, b"0\r\n\r\n")
    async with provider(await run_script(script)) as acme:
        assert await whole_reply(acme, quick(0.35), True) == b"x" * 40


async def test_patience_with_a_plain_call_is_for_the_whole(run_script: Script) -> None:
    """A reply that trickles in does not stretch it."""
    script = answering(CHUNKED, *[b"1\r\nx\r\n"] * 40, b"0\r\n\r\n")
    async with provider(await run_script(script)) as acme:
        with pytest.raises(ProviderFailure) as failure:
            await acme.send(quick(0.2))
    assert failure.value.kind == "timeout"


async def test_a_refused_stream_has_the_time_of_a_plain_call(run_script: Script) -> None:
    """Its body is read whole, so it must come within the time for the whole."""
    busy = b"HTTP/1.1 503 Busy\r\ncontent-length: 40\r\n\r\n"
    async with provider(await run_script(answering(busy, *[b"x"] * 40))) as acme:
        with pytest.raises(ProviderFailure) as failure:
            await acme.stream(quick(0.2))
    assert failure.value.kind == "timeout"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_later_call_with_less_patience_is_not_held_to_an_earlier_ones(
    run_script: Script, streamed: bool
) -> None:
    """Each call on a connection has its own time, shorter or longer than the last one's."""
    pauses = iter([0.0, 0.4, 2.0])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await request_of(reader)
                await asyncio.sleep(next(pauses))
                writer.write(HI)
        except asyncio.IncompleteReadError:
            pass

    async with provider(await run_script(handle)) as acme:
        await whole_reply(acme, quick(0.3), streamed)
        await whole_reply(acme, quick(5), streamed)
        start = time.monotonic()
        with pytest.raises(ProviderFailure) as failure:
            await whole_reply(acme, quick(0.1), streamed)
        assert 0.08 < time.monotonic() - start < 1.5
    assert failure.value.kind == "timeout"


async def test_a_cancelled_read_loses_nothing_and_gains_no_time(run_script: Script) -> None:
    """The next one goes on where it was, and silence ends the stream when it would have."""
    got: list[bytes] = []

    async def read_hastily(stream: StreamAnswer) -> None:
        while True:
            try:
                got.append(await asyncio.wait_for(stream.read(), 0.01))
            except TimeoutError:
                pass

    async with provider(await run_script(answering(CHUNKED, b"2\r\nhi\r\n", hold=True))) as acme:
        stream = await acme.stream(quick(0.3))
        start = time.monotonic()
        with pytest.raises(ProviderFailure) as failure:
            await asyncio.wait_for(read_hastily(stream), 2)
        assert time.monotonic() - start < 1
        await stream.aclose()
    assert (got, failure.value.kind) == ([b"hi"], "timeout")


async def test_a_slow_reader_holds_the_provider_back(run_script: Script) -> None:
    """What nobody reads stays with the provider, and all of it comes when it is read."""
    piece, count = b"10000\r\n" + b"x" * 65536 + b"\r\n", 1024
    sent = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(CHUNKED)
        for _ in range(count):
            writer.write(piece)
            await writer.drain()
            sent += 65536
        writer.write(b"0\r\n\r\n")
        await request_of(reader)
        writer.write(HI)

    async with provider(await run_script(handle), max_answer_bytes=1 << 30) as acme:
        # Patience is for what is waited for: nobody waits here.
        stream = await acme.stream(quick(0.5))
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 32 << 20
        chunk, size = await stream.read(), 0
        assert len(chunk) <= 1 << 20
        while chunk:
            size += len(chunk)
            chunk = await stream.read()
        await stream.aclose()
        assert size == count * 65536
        assert (await acme.send(CALL)).body == b"hi"


async def test_a_stream_left_unread_at_its_end_leaves_a_sound_connection(
    run_script: Script,
) -> None:
    """Its body was here and is dropped; the next call on it gets its own answer."""
    count = Counting(HEAD + b"content-length: 400000\r\n\r\n" + b"x" * 400_000)
    async with provider(await run_script(count)) as acme:
        for _ in range(3):
            stream = await acme.stream(CALL)
            await asyncio.sleep(0.05)
            await stream.aclose()
            assert len((await acme.send(CALL)).body) == 400_000
    assert len(count.calls) == 6


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancelled_call_is_cut_and_gives_its_place_on(
    run_script: Script, streamed: bool
) -> None:
    """The provider notices, and who waits for the place gets it at once."""
    gone = asyncio.Event()
    calls = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await request_of(reader)
        if calls > 1:
            writer.write(HI)
            return
        await reader.read()
        gone.set()

    async with provider(await run_script(handle), max_connections=1) as acme:
        first = asyncio.create_task(whole_reply(acme, CALL, streamed))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(acme.send(CALL))
        await asyncio.sleep(0.05)
        first.cancel()
        assert (await asyncio.wait_for(second, 2)).body == b"hi"
        await asyncio.wait_for(gone.wait(), 2)
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_a_stream_that_nobody_closes_is_cut_when_it_is_forgotten(run_script: Script) -> None:
    """A caller that was cancelled at the wrong moment costs no place in the pool."""
    script = answering(CHUNKED + b"2\r\nhi\r\n", hold=True)
    async with provider(await run_script(script), max_connections=1) as acme:
        for _ in range(3):
            stream = await acme.stream(CALL)
            assert await stream.read() == b"hi"
            del stream
            gc.collect()


async def test_closing_a_stream_twice_gives_one_place_back(run_script: Script) -> None:
    """And a closed stream has come to its end."""
    count = Counting(pause_s=0.02)
    async with provider(await run_script(count), max_connections=2) as acme:
        stream = await acme.stream(CALL)
        for _ in range(3):
            await stream.aclose()
        assert await stream.read() == b""
        await asyncio.gather(*(acme.send(CALL) for _ in range(6)))
    assert count.most_open == 2
