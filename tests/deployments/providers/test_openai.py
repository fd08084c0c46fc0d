import asyncio
import time

import pytest

from deployments.providers.base import Call, Provider, ProviderFailure
from deployments.providers.openai import OpenAIProvider
from tests.deployments.providers.scripted import (
    CALL,
    HEAD,
    KEY,
    Script,
    answering,
    provider,
    request_of,
    whole_reply,
)
from tests.replies import chunks_of

pytestmark = pytest.mark.anyio


async def test_a_call_goes_out_once_with_its_headers_and_key(run_script: Script) -> None:
    """Path, body, key and our own headers arrive; status, headers and body come back."""
    got: list[tuple[str, bytes]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await request_of(reader))
        writer.write(b"HTTP/1.1 418 Odd\r\nX-Thing: Yes\r\ncontent-length: 2\r\n\r\nhi")

    async with provider(await run_script(handle)) as acme:
        seam: Provider = acme
        answer = await seam.send(CALL)
    head, body = got[0]
    assert head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert f"authorization: bearer {KEY}" in head.lower()
    assert "x-raygate-charge-id: c1" in head.lower()
    assert "accept-encoding: identity" in head.lower()
    assert body == CALL.body
    assert (answer.status, answer.body, answer.headers["x-thing"]) == (418, b"hi", "Yes")
    assert 0 < answer.first_byte_ns <= answer.total_ns
    assert len(got) == 1


async def test_connections_are_reused(run_script: Script) -> None:
    """Calls one after another share a connection."""
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while True:
                await request_of(reader)
                writer.write(HEAD + b"content-length: 2\r\n\r\nhi")
        except asyncio.IncompleteReadError:
            pass

    async with provider(await run_script(handle)) as acme:
        for _ in range(3):
            await acme.send(CALL)
        stream = await acme.stream(CALL)
        assert [chunk async for chunk in chunks_of(stream)] == [b"hi"]
        await stream.aclose()
        await acme.send(CALL)
    assert connections == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_lost_on_a_reused_connection_is_not_replayed(
    run_script: Script, streamed: bool
) -> None:
    """The provider may have worked on it, so sending it again could be paid for twice."""
    requests = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await request_of(reader)
        requests += 1
        writer.write(HEAD + b"content-length: 2\r\n\r\nhi")
        await request_of(reader)
        requests += 1

    async with provider(await run_script(handle)) as acme:
        await acme.send(CALL)
        with pytest.raises(ProviderFailure) as failure:
            await whole_reply(acme, CALL, streamed)
        await asyncio.sleep(0.05)
    assert failure.value.kind == "reset"
    assert requests == 2


async def test_redirects_are_not_followed(run_script: Script) -> None:
    """A key never travels to wherever a provider points."""
    moved = b"HTTP/1.1 307 Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
    async with provider(await run_script(answering(moved))) as acme:
        assert (await acme.send(CALL)).status == 307


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("parts", "hold", "kind"),
    [
        ((), False, "reset"),
        ((), True, "timeout"),
        ((b"no http\r\n\r\n",), False, "reset"),
        ((HEAD + b"content-length: 9\r\n\r\nhi",), False, "reset"),
        ((HEAD + b"content-length: 9\r\n\r\nhi",), True, "timeout"),
        ((HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",), False, "reset"),
        ((HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",), True, "timeout"),
    ],
)
async def test_every_broken_reply_is_a_failure_by_kind(
    run_script: Script, parts: tuple[bytes, ...], hold: bool, kind: str, streamed: bool
) -> None:
    """A reply that lacks its end is never taken for a whole one, and says how it failed."""
    call = Call(CALL.path, CALL.body, {}, timeout_s=0.2)
    async with provider(await run_script(answering(*parts, hold=hold))) as acme:
        with pytest.raises(ProviderFailure) as failure:
            await whole_reply(acme, call, streamed)
    assert failure.value.kind == kind
    assert "acme" in str(failure.value)
    assert KEY not in repr(failure.value)


async def test_a_refused_connection_says_that_nothing_was_sent() -> None:
    """Kind "connect" promises that the provider knows of no call."""
    async with provider("http://127.0.0.1:9") as acme:
        with pytest.raises(ProviderFailure) as failure:
            await acme.send(CALL)
    assert failure.value.kind == "connect"


async def test_a_full_pool_refuses_within_the_connect_timeout(run_script: Script) -> None:
    """Waiting for a free connection is bounded, and nothing was sent."""
    url = await run_script(answering(hold=True))
    async with provider(url, max_connections=1, connect_timeout_s=0.05) as acme:
        first = asyncio.create_task(acme.send(CALL))
        await asyncio.sleep(0.02)
        with pytest.raises(ProviderFailure) as failure:
            await acme.send(CALL)
        first.cancel()
    assert failure.value.kind == "full"


async def test_chunks_are_handed_on_as_they_arrive(run_script: Script) -> None:
    """The first chunk is there long before the last."""
    one = b"3\r\none\r\n"
    head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    script = answering(head, one, one, b"0\r\n\r\n")
    async with provider(await run_script(script)) as acme:
        stream = await acme.stream(CALL)
        assert (stream.status, stream.body) == (200, b"")
        assert [chunk async for chunk in chunks_of(stream)] == [b"one", b"one"]
        await stream.aclose()


async def test_a_stream_that_is_refused_comes_with_its_whole_body(run_script: Script) -> None:
    """An error instead of a stream is read at once; there are no chunks."""
    refused = b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nbusy"
    async with provider(await run_script(answering(refused))) as acme:
        stream = await acme.stream(CALL)
        assert (stream.status, stream.body) == (503, b"busy")
        assert [chunk async for chunk in chunks_of(stream)] == []
        await stream.aclose()


async def test_an_abandoned_stream_closes_its_connection(run_script: Script) -> None:
    """A provider notices that nobody listens any more."""
    gone = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await reader.read()
        gone.set()

    async with provider(await run_script(handle)) as acme:
        stream = await acme.stream(CALL)
        async for _ in chunks_of(stream):
            break
        await stream.aclose()
        await asyncio.wait_for(gone.wait(), 2)


@pytest.mark.parametrize(
    "reply",
    [
        HEAD + b"connection: close\r\ncontent-length: 2000\r\n\r\n" + b"x" * 2000,
        HEAD
        + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n"
        + b"x" * 2000
        + b"\r\n0\r\n\r\n",
    ],
)
async def test_a_body_beyond_the_bound_is_cut(run_script: Script, reply: bytes) -> None:
    """No provider can fill our memory."""
    async with provider(await run_script(answering(reply)), max_answer_bytes=1000) as acme:
        with pytest.raises(ProviderFailure, match="1000 bytes"):
            await acme.send(CALL)
        stream = await acme.stream(CALL)
        with pytest.raises(ProviderFailure, match="1000 bytes"):
            _ = [chunk async for chunk in chunks_of(stream)]
        await stream.aclose()


async def test_a_deadline_is_kept(run_script: Script) -> None:
    """A call ends within its timeout, whatever the provider does."""
    call = Call(CALL.path, CALL.body, {}, timeout_s=0.1)
    async with provider(await run_script(answering(hold=True))) as acme:
        start = time.monotonic()
        with pytest.raises(ProviderFailure):
            await acme.send(call)
    assert time.monotonic() - start < 1


def test_the_key_is_in_no_description() -> None:
    """A provider can be printed and logged."""
    assert KEY not in repr(OpenAIProvider("acme", "https://api.example/v1", KEY))


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("ftp://api.example", KEY),
        ("api.example/v1", KEY),
        ("https://user:word@api.example", KEY),
        ("https://api example/v1", KEY),
        ("https://api.example:port/v1", KEY),
        ("https://[::1/v1", KEY),
        (f"https://{'a' * 64}.example", KEY),
        ("https://api.example", f"{KEY}\r\nx-evil: 1"),
        ("https://api.example", f"{KEY}é"),
    ],
)
def test_a_useless_configuration_is_refused_without_naming_the_key(url: str, key: str) -> None:
    """What could never work, or would leak, is an error at once."""
    with pytest.raises(ValueError, match="provider acme") as error:
        OpenAIProvider("acme", url, key)
    assert KEY not in str(error.value)
    assert "word" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("http://[::1]:80/v1/", "[::1]:80", "/v1/x"),
        ("http://Api.Example", "api.example", "/x"),
        ("http://bücher.example:8080/a%20b", "xn--bcher-kva.example:8080", "/a%20b/x"),
    ],
)
def test_a_base_url_becomes_a_host_and_a_path(url: str, host: str, target: str) -> None:
    """As HTTP wants them, whatever stands around them."""
    head = OpenAIProvider("acme", url, "")._head("/x").decode()
    assert head.startswith(f"POST {target} HTTP/1.1\r\nhost: {host}\r\n")


def test_heads_are_kept_for_a_bounded_number_of_paths() -> None:
    """Paths beyond them are served all the same."""
    acme = OpenAIProvider("acme", "http://api.example", "")
    heads = [acme._head(f"/{i}") for i in range(1000)]
    assert heads[999].startswith(b"POST /999 ")
    assert len(acme._heads) < 100
