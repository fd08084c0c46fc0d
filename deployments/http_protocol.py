"""How this process speaks HTTP: uvicorn's protocol, bounded, and two things done more cheaply.

**One write for a short reply.** uvicorn writes a head as soon as it is given one, and the body
after it: two system calls, two segments, and two times that the ingress wakes up for an answer
of one kilobyte. Here a head waits for what comes next, within the same turn of the event loop.

**Who leaves is noticed here.** Serve watches for a client's departure with a task, a queue and
a wait for each request. A connection knows when it is lost: it cancels its request itself, and
tells Serve, by the header that Serve has for it, not to watch.

**Slow clients** hold a connection for so long and no longer (`slow_clients.py`): uvicorn waits for
ever for a head to end, or for an answer to be taken.
"""

import asyncio
from typing import Any

from ray.serve._private.constants import RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from deployments.slow_clients import Bounds, Pace

_HEAD = b"HTTP/1.1 "
_END = b"connection: close\r\ncontent-length: 0\r\n\r\n"
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\n" + _END
_LONG_HEAD = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _END
_UNWATCHED = (b"x-request-disconnect-disabled", b"?1")


class JoiningTransport:
    """A transport that holds a head back until more is written, or the loop's turn ends.

    written: bytes so far.
    """

    __slots__ = ("_held", "_loop", "_transport", "written")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""
        self.written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """See `asyncio.Transport`."""
        self.written += len(data)
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(_HEAD):
            self._held = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """See `asyncio.Transport`: what was written is sent before."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        data, self._held = self._held, b""
        if data and not self._transport.is_closing():
            self._transport.write(data)


class Protocol(HttpToolsProtocol):
    """See the module's docstring. bounds: for all connections."""

    bounds = Bounds()
    _work: asyncio.Task[None] | None = None
    _in_head = True
    _heads = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        # It stands for a transport by what it passes on, not by its class.
        self._joining = joining = JoiningTransport(transport, self.loop)
        self.transport = joining  # type: ignore[assignment]
        self._pace = Pace(self.bounds, self.loop.time())
        self._looking = self.loop.call_later(self.bounds.look_s, self._look)
        if len(self.connections) > self.bounds.connections:
            transport.write(_FULL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        in_head, heads = self._in_head, self._heads
        super().data_received(data)
        if (
            in_head
            and heads == self._heads
            and not self._pace.more_head(len(data), self.loop.time())
        ):
            self.transport.write(_LONG_HEAD)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """A request's head is here."""
        self._in_head = False
        self._heads += 1
        self._pace.head_ended()
        self.headers.append(_UNWATCHED)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is here."""
        self._in_head = True
        super().on_message_complete()
        # A long body has paused the reading, and the loss of a connection shows by reading.
        if not self.pipeline:
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # As uvicorn does it, but that the task is remembered.
        self._work = task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left: what is being done for it ends, unless it is done."""
        super().connection_lost(exc)
        self._looking.cancel()
        if self._work is not None and not self.cycle.response_complete:
            self._work.cancel()

    def _look(self) -> None:
        """Now and then: whether this client keeps up."""
        self._looking = self.loop.call_later(self.bounds.look_s, self._look)
        unsent = self.transport.get_write_buffer_size()
        answered = not self._in_head and self.cycle.response_complete
        sent = self._joining.written - unsent
        if self._pace.too_slow(sent, unsent, answered, self.loop.time()):
            # Not closed, which would wait for the client to take what is written.
            self.transport.abort()


def install(bounds: Bounds) -> None:
    """Have every uvicorn server that this process starts from now on speak so.

    Serve starts the server and lets uvicorn choose the protocol; this is what it then chooses.
    Not where Serve runs the application in a thread of its own, and carries what a client says
    across with the very watching that this spares.
    """
    if RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD:
        return
    Protocol.bounds = bounds
    auto.AutoHTTPProtocol = Protocol
