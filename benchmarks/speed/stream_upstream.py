"""A program: an upstream that streams chat completions at a set pace and does little else.

`POST /RATE/COUNT/v1/chat/completions` answers with COUNT chunks of text, RATE of them a second;
RATE 0 is as fast as they are taken, COUNT 0 goes on until somebody asks `GET /finish`. Each event
is an HTTP chunk of its own, as providers send them. Everything that is written was prepared
before: what is left is one write per event, or per 64 events where there is no pace.

`GET /stats` tells how late its writes were at worst since it was last asked, so that a
measurement shows when it was this program that stalled.

    python -m benchmarks.speed.stream_upstream PORT
"""

import asyncio
import json
import re
import sys
from collections.abc import Callable
from itertools import cycle, islice
from typing import cast

import uvloop

BLOCK = 64
"""Events per write where there is no pace."""

_TEXT = "demand grew faster than supply in three of the five regions we looked at last year"
_SLOTS = 20
_PATH = re.compile(rb"POST /(\d+)/(\d+)/v1/chat/completions ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_USAGE = {"prompt_tokens": 60, "completion_tokens": 64, "total_tokens": 124}


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(choices: list[object], **more: object) -> bytes:
    body = {
        "id": "chatcmpl-BfQm3vWkZ8tYy1pR7sLxNc2uAe5Hd",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-4o-mini",
        "service_tier": "default",
        "system_fingerprint": "fp_5a4b3c2d1e",
        "choices": choices,
        **more,
    }
    return _framed(b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n")


def _choice(delta: object, finish_reason: str | None = None) -> list[object]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]


class Script:
    """What one kind of stream says. usage: whether the client asked for it."""

    def __init__(self, usage: bool) -> None:
        nothing: dict[str, object] = {"usage": None} if usage else {}
        role = _event(_choice({"role": "assistant", "content": ""}), **nothing)
        # Some gateways break off a stream that says the same again and again.
        self.words = [_event(_choice({"content": f" {word}"}), **nothing) for word in _TEXT.split()]
        self.block = b"".join(islice(cycle(self.words), BLOCK))
        self.begin = _HEAD + role + self.words[0]
        self.end = _event(_choice({}, "stop"), **nothing)
        if usage:
            self.end += _event([], usage=_USAGE)
        self.end += _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


_SCRIPTS = {usage: Script(usage) for usage in (False, True)}


class Wheel:
    """Streams of one rate, spread over the slots of one period, each written to in its turn.

    late_s: how long after its time a slot was done, at worst since this was last set to 0.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, rate: int) -> None:
        self._loop = loop
        self._step_s = 1 / rate / _SLOTS
        self._slots: list[set[Connection]] = [set() for _ in range(_SLOTS)]
        self._next = 0
        self._begun = loop.time()
        self._turn = 0
        self._running = False
        self.late_s = 0.0

    def join(self, stream: "Connection") -> None:
        """Write to it from now on, a period after now for the first time."""
        # The slot that was last written to.
        self._slots[(self._next - 1) % _SLOTS].add(stream)
        if not self._running:
            self._running = True
            self._begun, self._turn = self._loop.time(), 0
            self._later()

    def leave(self, stream: "Connection") -> None:
        """Write to it no more."""
        for slot in self._slots:
            slot.discard(stream)

    def streams(self) -> "list[Connection]":
        """Those that are written to."""
        return [stream for slot in self._slots for stream in slot]

    def _later(self) -> None:
        self._turn += 1
        self._loop.call_at(self._begun + self._turn * self._step_s, self._write)

    def _write(self) -> None:
        for stream in list(self._slots[self._next]):
            stream.tick()
        self._next = (self._next + 1) % _SLOTS
        due = self._begun + self._turn * self._step_s
        self.late_s = max(self.late_s, self._loop.time() - due)
        if any(self._slots):
            self._later()
        else:
            self._running = False


class Upstream:
    """What all connections share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wheels: dict[int, Wheel] = {}

    def wheel(self, rate: int) -> Wheel:
        """The wheel of a rate, in events a second."""
        if rate not in self._wheels:
            self._wheels[rate] = Wheel(self._loop, rate)
        return self._wheels[rate]

    def finish(self) -> dict[str, float]:
        """End all streams that have no count; returns how many there were."""
        endless = [
            stream
            for wheel in self._wheels.values()
            for stream in wheel.streams()
            if stream.left is None
        ]
        for stream in endless:
            stream.end()
        return {"ended": len(endless)}

    def stats(self) -> dict[str, float]:
        """Streams now, and the worst lateness since this was last asked, in milliseconds."""
        wheels = self._wheels.values()
        late_s = max((wheel.late_s for wheel in wheels), default=0.0)
        for wheel in wheels:
            wheel.late_s = 0.0
        streams = sum(len(wheel.streams()) for wheel in wheels)
        return {"streams": streams, "late_ms": late_s * 1e3}


class Connection(asyncio.Protocol):
    """One connection; one stream after another. left: events to go, None without end."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._received = b""
        self._paused = False
        self._script = _SCRIPTS[False]
        self._wheel: Wheel | None = None
        self._flooding = False
        self._said = 0
        self.left: int | None = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        # uvloop's own kind is no subclass of it.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever read is gone."""
        self._stop()

    def data_received(self, data: bytes) -> None:
        """A request, or a part of one."""
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        told = _LENGTH.search(head)
        length = int(told[1]) if told else 0
        if len(rest) < length:
            return
        self._received = rest[length:]
        if match := _PATH.match(head):
            usage = b'"include_usage":true' in rest[:length].replace(b" ", b"")
            self._begin(int(match[1]), int(match[2]), _SCRIPTS[usage])
        elif head.startswith(b"GET /finish "):
            self._answer(self._upstream.finish)
        elif head.startswith(b"GET /stats "):
            self._answer(self._upstream.stats)
        else:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    def pause_writing(self) -> None:
        """The reader is behind."""
        self._paused = True

    def resume_writing(self) -> None:
        """The reader has caught up."""
        self._paused = False
        if self._flooding:
            self._flood()

    def tick(self) -> None:
        """The next event of a paced stream."""
        words = self._script.words
        self._said += 1
        self._transport.write(words[self._said % len(words)])
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.end()

    def end(self) -> None:
        """The last words."""
        self._stop()
        self._transport.write(self._script.end)

    def _begin(self, rate: int, count: int, script: Script) -> None:
        self._script = script
        self._transport.write(script.begin)
        self.left = count - 1 if count else None
        if rate:
            self._wheel = self._upstream.wheel(rate)
            self._wheel.join(self)
        else:
            self._flooding = True
            self._flood()

    def _flood(self) -> None:
        # Written bytes leave at the end of the loop's turn, so this comes to a pause.
        while self._flooding and not self._paused:
            if self.left is None or self.left >= BLOCK:
                self._transport.write(self._script.block)
                self.left = None if self.left is None else self.left - BLOCK
            else:
                self._transport.write(b"".join(islice(cycle(self._script.words), self.left)))
                self.end()

    def _stop(self) -> None:
        self._flooding = False
        if self._wheel is not None:
            self._wheel.leave(self)
            self._wheel = None

    def _answer(self, ask: Callable[[], dict[str, float]]) -> None:
        body = json.dumps(ask()).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


async def serve(port: int) -> None:
    """Listen on a port of the loopback until cancelled."""
    loop = asyncio.get_running_loop()
    upstream = Upstream(loop)
    server = await loop.create_server(lambda: Connection(upstream), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
