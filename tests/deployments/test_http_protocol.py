import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deployments.http_protocol import JoiningTransport, Protocol
from tests.stack import free_port, serving

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"

App = Callable[[Any, Any, Any], Awaitable[None]]


class Written:
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        """See `asyncio.Transport`."""
        self.told.append(data)

    def close(self) -> None:
        """See `asyncio.Transport`."""
        self.told.append("closed")

    def is_closing(self) -> bool:
        """See `asyncio.Transport`."""
        return "closed" in self.told


def joining() -> tuple[Written, JoiningTransport]:
    """A joining transport, and what is behind it."""
    behind = Written()
    return behind, JoiningTransport(behind, asyncio.get_running_loop())  # type: ignore[arg-type]


async def test_a_head_and_its_body_leave_in_one_write() -> None:
    """Two writes in one turn of the loop are one, and nothing comes after it."""
    behind, transport = joining()
    transport.write(HEAD)
    transport.write(b"hi")
    assert behind.told == [HEAD + b"hi"]
    await asyncio.sleep(0)
    assert behind.told == [HEAD + b"hi"]


async def test_a_head_without_a_body_leaves_when_the_turn_ends() -> None:
    """A stream's client sees the head although its first piece is not there yet."""
    behind, transport = joining()
    transport.write(HEAD)
    assert behind.told == []
    await asyncio.sleep(0)
    transport.write(b"later")
    assert behind.told == [HEAD, b"later"]


async def test_what_was_written_is_sent_before_the_end() -> None:
    """Closing loses no head; what is no head is never held."""
    behind, transport = joining()
    transport.write(b"2\r\nhi\r\n")
    transport.write(HEAD)
    transport.close()
    assert behind.told == [b"2\r\nhi\r\n", HEAD, "closed"]
    assert transport.is_closing()


@asynccontextmanager
async def connected(
    app: App,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that speaks this protocol."""
    port = free_port()
    async with serving(app, port, Protocol):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


async def answer(send: Any, body: bytes) -> None:
    """A whole reply."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("begun", [False, True], ids=["before the reply", "within the reply"])
async def test_who_leaves_ends_the_request(begun: bool) -> None:
    """Without anybody reading from the client, the request is cancelled when it has gone."""
    running, cancelled = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        running.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with connected(app) as (_, writer), asyncio.timeout(5):
        writer.write(GET)
        await running.wait()
        writer.close()
        await cancelled.wait()


@pytest.mark.parametrize("size", [70_000, 300_000, 1_000_000])
async def test_who_leaves_after_a_long_body_is_noticed(size: int) -> None:
    """Uvicorn stops reading while so much is unread; a loss shows by reading only."""
    running, cancelled = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        # As late as it may be: all of the body is there.
        await asyncio.sleep(0.05)
        while (await receive())["more_body"]:
            pass
        running.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with connected(app) as (_, writer), asyncio.timeout(5):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        writer.write(b"x" * size)
        await running.wait()
        writer.transport.abort()
        await cancelled.wait()


async def test_who_has_its_answer_may_leave() -> None:
    """What is written down after the reply is not broken off by a client that has it."""
    done = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await answer(send, b"hi")
        await asyncio.sleep(0.05)
        done.set()

    async with connected(app) as (reader, writer), asyncio.timeout(5):
        writer.write(GET)
        assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200")
        writer.close()
        await done.wait()


async def test_serve_is_told_not_to_watch() -> None:
    """The request carries the header, whatever its client says."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.extend(dict(scope["headers"]).items())
            await answer(send, b"hi")

    async with connected(app) as (reader, writer), asyncio.timeout(5):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx-request-disconnect-disabled: ?0\r\n\r\n")
        await reader.readuntil(b"hi")
    assert (b"x-request-disconnect-disabled", b"?1") in seen


async def test_requests_sent_together_are_answered_in_their_order() -> None:
    """Pipelining goes on working over the joined writes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(0.01)
            await answer(send, scope["path"].encode())

    async with connected(app) as (reader, writer), asyncio.timeout(5):
        writer.write(GET.replace(b"/ ", b"/first ") + GET.replace(b"/ ", b"/other "))
        got = await reader.readuntil(b"/other")
    assert got.index(b"/first") < got.index(b"/other")
