"""The caller's end of one HTTP exchange: its body, its patience, and ways to hang up on it."""

import asyncio
from collections.abc import Mapping

from starlette.types import Receive, Send

from .simulated_request import Refusal

MAX_BODY_BYTES = 64 * 1024 * 1024


class ClientGone(Exception):
    """The caller has hung up."""


class Line:
    """Wraps ASGI's receive and send for a handler that takes its time.

    Every wait ends early, with `ClientGone`, when the caller hangs up. A handler that returns
    without its last piece leaves the server no choice but to close the connection, and the caller
    with a body that lacks its end: that is how a reset is made.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._gone: asyncio.Task[None] | None = None

    def now(self) -> float:
        """The time that `until` takes, seconds on the loop's clock."""
        return self._loop.time()

    async def body(self) -> bytes:
        """The whole request body; a 413 when it is too large, `ClientGone` when it never came."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise Refusal(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def watch(self) -> None:
        """Begin to listen for the caller's hanging up, once the body was read."""
        if self._gone is None:
            self._gone = self._loop.create_task(self._until_gone())

    async def wait(self, duration_s: float) -> None:
        """Let time pass."""
        if duration_s > 0:
            await self.until(self.now() + duration_s)

    async def until(self, when: float) -> None:
        """Wait for a moment; one that has passed only looks whether the caller is still there."""
        self.watch()
        assert self._gone is not None
        left = when - self.now()
        if left > 0:
            await asyncio.wait((self._gone,), timeout=left)
        if self._gone.done():
            raise ClientGone

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of a reply."""
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def piece(self, data: bytes, last: bool = False) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole JSON reply."""
        head = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        await self.start(status, head)
        await self.piece(body, last=True)

    async def cut(self) -> None:
        """Close the connection before anything was sent."""
        # ASGI has no word for it. The server believes that it has begun the reply, then finds a
        # header that cannot be sent, and closes the connection when the handler returns.
        try:
            await self.start(200, {"cut here": ""})
        except Exception:
            return

    def close(self) -> None:
        """Stop listening."""
        if self._gone is not None:
            self._gone.cancel()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
