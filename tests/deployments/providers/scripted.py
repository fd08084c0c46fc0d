"""A provider at a scripted server: what provider tests share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from deployments.providers.base import Call
from deployments.providers.openai import OpenAIProvider
from tests.replies import chunks_of

KEY = "sk-very-secret"
CALL = Call("/chat/completions", b'{"model":"m"}', {"x-raygate-charge-id": "c1"}, timeout_s=5)
HEAD = b"HTTP/1.1 200 OK\r\n"

Script = Callable[..., Awaitable[str]]
"""The fixture `run_script`."""


@asynccontextmanager
async def provider(url: str, **options: Any) -> AsyncIterator[OpenAIProvider]:
    """A provider named acme at a server under test."""
    made = OpenAIProvider("acme", f"{url}/v1", KEY, **options)
    try:
        yield made
    finally:
        await made.close()


async def request_of(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The head and body of the next request on a connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(
        int(line.split(":")[1]) for line in head.split("\r\n") if "content-length" in line.lower()
    )
    return head, await reader.readexactly(length)


def answering(*parts: bytes, hold: bool = False) -> Callable[..., Awaitable[None]]:
    """A script that takes one request, writes the parts, and closes or keeps silent."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        if hold:
            await reader.read()

    return handle


async def whole_reply(acme: OpenAIProvider, call: Call, streamed: bool) -> bytes:
    """The body of a reply, read in one of the two ways."""
    if not streamed:
        return (await acme.send(call)).body
    stream = await acme.stream(call)
    try:
        return b"".join([chunk async for chunk in chunks_of(stream)])
    finally:
        await stream.aclose()


class Counting:
    """Answers any number of calls on each connection, and counts.

    reply: as it goes out for every call. pause_s: before it.
    """

    def __init__(
        self, reply: bytes = HEAD + b"content-length: 2\r\n\r\nhi", pause_s: float = 0
    ) -> None:
        self.reply = reply
        self.pause_s = pause_s
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.calls: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            while True:
                head, _ = await request_of(reader)
                self.calls.append(head)
                await asyncio.sleep(self.pause_s)
                writer.write(self.reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
