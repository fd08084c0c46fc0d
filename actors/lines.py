"""The caller's end of a line to a door.

Somebody else knows where the door is; a line is kept open to it, and when it breaks, that one
is asked again.
"""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable

from actors.door import Address
from actors.frames import CONSULT, HELLO, REPLY, WATCH, Line
from actors.transport import TransportError

_CONNECT_S = 5.0
_UNHEARD_MS = 4_000


class LineTransport:
    """Calls through a door; see `Transport`.

    find: where the door is at present; raises TransportError where there is none.
    consult_s, watch_s: how long an answer may take.
    """

    def __init__(
        self, find: Callable[[], Awaitable[Address]], consult_s: float, watch_s: float
    ) -> None:
        self._find = find
        self._consult_s = consult_s
        self._watch_s = watch_s
        self._line: Line | None = None
        self._connecting = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[bytes]] = {}

    async def consult(self, payload: bytes) -> bytes:
        """See `Transport`."""
        return await self._call(CONSULT, payload, self._consult_s)

    async def watch(self, payload: bytes) -> bytes:
        """See `Transport`."""
        return await self._call(WATCH, payload, self._watch_s)

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()

    async def _call(self, kind: int, payload: bytes, timeout_s: float) -> bytes:
        line = self._line or await self._connect()
        number = next(self._numbers)
        asked = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        line.send(kind, number, payload)
        try:
            async with asyncio.timeout(timeout_s):
                reply: bytes = await asked
                return reply
        except TimeoutError:
            # Frozen, or too slow: a new line, so that no late reply is taken for another's.
            line.close()
            raise TransportError(f"no answer within {timeout_s:g} s") from None
        finally:
            self._asked.pop(number, None)

    async def _connect(self) -> Line:
        async with self._connecting:
            if self._line is not None:
                return self._line
            address = await self._find()
            line = Line(self._hear, self._lost)
            try:
                async with asyncio.timeout(_CONNECT_S):
                    loop = asyncio.get_running_loop()
                    transport, _ = await loop.create_connection(
                        lambda: line, address.ip, address.port
                    )
                    _notice_loss(transport)
            except OSError as error:
                raise TransportError(f"{address} does not answer: {error}") from error
            line.send(HELLO, 0, address.word)
            self._line = line
            return line

    def _hear(self, kind: int, number: int, payload: bytes) -> None:
        asked = self._asked.get(number)
        if asked is not None and not asked.done():
            if kind == REPLY:
                asked.set_result(payload)
            else:
                asked.set_exception(TransportError(f"it failed: {payload.decode()}"))

    def _lost(self) -> None:
        self._line = None
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(TransportError("the line broke"))


def _notice_loss(transport: asyncio.BaseTransport) -> None:
    """Have the line break soon when the other machine is gone, and says nothing any more."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        found: socket.socket = transport.get_extra_info("socket")
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNHEARD_MS)
