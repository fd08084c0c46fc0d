"""A program: many streaming clients in one process, light on CPU.

Takes one JSON object, the fields of a `Wish`, and prints another, those of a `Seen`; before it a
line when it begins to watch, and one when it ends. A client counts the `data:` frames in what it
reads and looks at the clock once per read; nothing is parsed. What it cost is told, so that a
measurement shows when the load itself was the limit.

    python -m benchmarks.speed.stream_load JSON
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from dataclasses import asdict
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.speed.stream_words import Seen, Wish

_LAST = b"\r\n0\r\n\r\n"
_FRAME = b"data:"
_OPENING = 16
_OPENS_PER_S = 20
_SETTLING_S = 1.0
_ENDING_S = 15.0


class Load:
    """What all clients of one measurement share.

    watching: whether what comes now is counted. trouble: set with the first stall or failure.
    """

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.seen = Seen()
        self.watching = False
        self.trouble = asyncio.Event()
        self.clients: set[Client] = set()
        place = urlsplit(wish.url)
        self.host, self.port, self._path = place.hostname or "", place.port or 80, place.path
        self._stamp = random.getrandbits(32)
        self._count = 0

    def request(self) -> bytes:
        """One that nobody sent before."""
        self._count += 1
        question = f"Request {self._stamp:08x}-{self._count}: how did the sales develop?"
        body = json.dumps(
            {
                "model": self.wish.model,
                "stream": True,
                "max_tokens": 64,
                "messages": [{"role": "user", "content": question}],
            }
        ).encode()
        lines = [
            f"POST {self._path} HTTP/1.1",
            f"host: {self.host}:{self.port}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *(f"{name}: {value}" for name, value in self.wish.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def connect(self) -> "Client":
        """A new connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Client(self, loop), self.host, self.port)
        self.clients.add(client)
        return client

    async def watch(self) -> None:
        """Count for as long as it was wished for, or until there is trouble in a "hold"."""
        print("watching", flush=True)
        began, spent_s = time.monotonic(), time.process_time()
        for client in self.clients:
            client.last = began
        self.watching = True
        try:
            if self.wish.what == "hold":
                async with asyncio.timeout(self.wish.seconds):
                    await self.trouble.wait()
            else:
                await asyncio.sleep(self.wish.seconds)
        except TimeoutError:
            for client in self.clients:
                client.look(time.monotonic())
        print("watched", flush=True)
        self.watching = False
        self.seen.watched_s = time.monotonic() - began
        self.seen.cpu = (time.process_time() - spent_s) / self.seen.watched_s


class Client(asyncio.Protocol):
    """One connection, and one stream at a time.

    begun: set with a stream's first text, or with its end. over: whether it came to its last
    byte. last: when something came, on the monotonic clock.
    """

    def __init__(self, load: Load, loop: asyncio.AbstractEventLoop) -> None:
        self._load = load
        self._loop = loop
        self._stall_s = load.wish.stall_s
        self._headed = self._stalled = False
        self._rest = self._tail = b""
        self._asked = 0.0
        self.last = 0.0
        self.begun: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[bool] = loop.create_future()

    def ask(self) -> "asyncio.Future[bool]":
        """Send a request; the future tells at the stream's end whether it was whole."""
        self._headed, self._rest, self._tail = False, b"", b"-" * len(_LAST)
        self.begun, self.over = self._loop.create_future(), self._loop.create_future()
        self._asked = self.last = time.monotonic()
        if self.closed:
            self._end(whole=False)
        else:
            self._transport.write(self._load.request())
        return self.over

    @property
    def closed(self) -> bool:
        """Whether another connection is needed for the next stream."""
        return self._transport.is_closing()

    def leave(self) -> None:
        """Close the connection, whatever is under way."""
        self._load.clients.discard(self)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        # uvloop's own kind is no subclass of it.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        self._load.clients.discard(self)
        self._end(whole=False)

    def data_received(self, data: bytes) -> None:
        """Some frames."""
        if not self._headed:
            self._headed = data.startswith(b"HTTP/1.1 200")
            if not self._headed:
                self._transport.abort()
                return
        now = time.monotonic()
        load = self._load
        # A read that ends within a line may cut the word that is counted.
        text = self._rest + data if self._rest else data
        self._rest = b"" if data[-1] == 10 else text[1 - len(_FRAME) :]
        frames = text.count(_FRAME)
        if load.watching:
            load.seen.frames += frames
            if now - self.last > self._stall_s:
                self.look(now)
        self.last = now
        if frames and not self.begun.done():
            self.begun.set_result(None)
            if load.watching:
                load.seen.first_ms.append((now - self._asked) * 1e3)
        # Its end may come in a read of its own.
        self._tail = self._tail[len(data) :] + data[-len(_LAST) :]
        if self._tail == _LAST:
            self._end(whole=True)

    def look(self, now: float) -> None:
        """Note a pause that was, or is, too long."""
        seen, pause_s = self._load.seen, now - self.last
        seen.worst_ms = max(seen.worst_ms, pause_s * 1e3)
        if pause_s > self._stall_s and not self._stalled and not self.over.done():
            self._stalled = True
            seen.stalled += 1
            self._load.trouble.set()

    def _end(self, whole: bool) -> None:
        if not self.begun.done():
            self.begun.set_result(None)
        if not self.over.done():
            self.over.set_result(whole)


async def one_after_another(load: Load, delay_s: float) -> None:
    """A client that asks again as soon as it has its answer, for ever."""
    await asyncio.sleep(delay_s)
    client: Client | None = None
    while True:
        try:
            if client is None or client.closed:
                client = await load.connect()
            whole = await client.ask()
        except OSError:
            whole = False
        load.seen.streams += whole
        load.seen.failed += not whole
        if not whole:
            await asyncio.sleep(0.05)


async def flow(load: Load) -> None:
    """Streams one after another, for a while."""
    wish = load.wish
    step_s = min(wish.lead_s, 1.0) / wish.streams
    working = [
        asyncio.create_task(one_after_another(load, number * step_s))
        for number in range(wish.streams)
    ]
    await asyncio.sleep(wish.lead_s)
    await load.watch()
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)


async def hold(load: Load) -> None:
    """All streams at once: open them, watch them, end them."""
    room = asyncio.Semaphore(_OPENING)

    async def open_one() -> asyncio.Future[bool]:
        async with room:
            client = await load.connect()
            over = client.ask()
            await client.begun
            if over.done():
                load.seen.failed += 1
                raise ConnectionResetError
            load.seen.opened += 1
            return over

    wish = load.wish
    endings: list[asyncio.Future[bool]] = []
    try:
        async with asyncio.timeout(10 + wish.streams / _OPENS_PER_S), asyncio.TaskGroup() as group:
            opening = [group.create_task(open_one()) for _ in range(wish.streams)]
        endings = [task.result() for task in opening]
        await asyncio.sleep(_SETTLING_S)
        await load.watch()
    except (TimeoutError, ExceptionGroup):
        load.seen.failed = max(load.seen.failed, 1)
    load.seen.failed += sum(over.done() for over in endings)
    await finish(load)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ENDING_S):
            load.seen.streams = sum(await asyncio.gather(*endings))


async def finish(load: Load) -> None:
    """Have the upstream end its streams: a client that left would be waited for by some."""
    place = urlsplit(load.wish.finish_url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"GET {place.path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await reader.readuntil(b"}")
    writer.close()


async def measure(wish: Wish) -> Seen:
    """Do what is wished for."""
    load = Load(wish)
    await (hold if wish.what == "hold" else flow)(load)
    for client in list(load.clients):
        client.leave()
    return load.seen


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(measure(Wish(**json.loads(sys.argv[1])))))))
