"""A request's body on its way in: it has to come at some pace, and there is room for so much."""

import asyncio

from actors.errors import DeadlineExceeded, Overloaded
from deployments.api.http import Message, Receive
from deployments.overload import Front

# What is in a connection's own buffer is read anyway, and so are bodies that small.
_SMALL_BYTES = 65_536


class Upload:
    """Takes the place of a request's `receive`; `close` is owed when the request has ended.

    timeout_s: for all of the body, and a further second for each `bytes_per_s` that came.
    front: where the room for bodies is.
    """

    __slots__ = ("_bytes_per_s", "_front", "_held", "_receive", "_size", "_timeout_s", "_until")

    def __init__(
        self, receive: Receive, front: Front, timeout_s: float, bytes_per_s: float
    ) -> None:
        self._receive = receive
        self._front = front
        self._timeout_s = timeout_s
        self._bytes_per_s = bytes_per_s
        self._until: float | None = None
        self._size = 0
        self._held = 0

    async def __call__(self) -> Message:
        """See ASGI. Raises DeadlineExceeded (too slow) and Overloaded (no room)."""
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._until + self._size / self._bytes_per_s):
                message = await self._receive()
        except TimeoutError:
            raise DeadlineExceeded(
                f"The body did not come within {self._timeout_s:g} s, and a second more for each "
                f"{self._bytes_per_s:,.0f} bytes of it. Send it faster.",
                should_retry=False,
            ) from None
        size = len(message.get("body", b""))
        self._size += size
        if self._size > _SMALL_BYTES:
            self._hold(self._size - self._held)
        return message

    def close(self) -> None:
        """The request has ended, and its body is needed no more."""
        self._front.bytes -= self._held
        self._held = 0

    def _hold(self, size: int) -> None:
        if not self._front.has_room(size):
            raise Overloaded(
                "This replica holds as many bytes of requests as it may. Try again.",
                retry_after_s=2.0,
            )
        self._front.bytes += size
        self._held += size
