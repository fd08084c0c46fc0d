"""A server that misbehaves byte by byte, and the good bytes that it spoils."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson

from tests.deployments.providers.scripted import request_of

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OUTPUT_TOKENS = 3
USAGE = {"prompt_tokens": 5, "completion_tokens": OUTPUT_TOKENS, "total_tokens": 8}
HEAD = b"HTTP/1.1 200 OK\r\n"
EVENTS = HEAD + b"content-type: text/event-stream\r\n\r\n"
"""Of a stream that ends with its connection."""


def completion(**changes: Any) -> bytes:
    """The body of a good answer, with changes (None takes a member away)."""
    whole = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello"},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
        **changes,
    }
    return orjson.dumps({name: value for name, value in whole.items() if value is not None})


def reply(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An answer with its length."""
    lines = "".join(f"{line}\r\n" for line in headers)
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
    return head.encode("latin-1") + body


def event(data: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


def delta(text: str) -> bytes:
    """An event that brings a few words."""
    return event({"choices": [{"index": 0, "delta": {"content": text}}]})


BILL = event({"choices": [], "usage": USAGE})
DONE = event(b"[DONE]")


def says(*parts: bytes, hold: bool = False) -> Script:
    """For one request on a connection the parts; then the end, or nothing more."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.005)
        if hold:
            await reader.read()

    return script


def answers(whole: bytes) -> Script:
    """The same for each request on a connection."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            writer.write(whole)

    return script


def for_ever(first: bytes, again: bytes, pause_s: float = 0.02) -> Script:
    """A beginning, and then the same over and over."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(first)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return script


class Hostile:
    """A server on the loopback. open: its connections; accepted: of those, ever."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.open = 0
        self.accepted = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.open += 1
        self.accepted += 1
        try:
            await self._script(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the gateway hung up, or the test is over
        finally:
            self.open -= 1
            writer.close()

    async def is_left(self) -> bool:
        """Nobody is connected any more."""
        return self.open == 0


@asynccontextmanager
async def hostile(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Hostile]:
    """Serve each connection with a script."""
    made = Hostile(script)
    # The side of a handshake that fails reports it; that is the case, not a defect of the test.
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
