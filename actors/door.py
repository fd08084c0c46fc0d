"""The host's end of the lines on which consultants reach it.

A call of a Ray actor costs either side half a millisecond of CPU, a frame on an open
connection a twentieth of that. So Ray finds, places, restarts and names the hosts, tells
where the door is and what opens it; the two verbs go over plain TCP within the cluster.
"""

import asyncio
import hmac
import logging
import secrets
from collections.abc import Callable
from typing import NamedTuple, Protocol

from actors.frames import BROKEN, CONSULT, HELLO, MAX_PAYLOAD_BYTES, REPLY, WATCH, Line

_MAX_HELLO_BYTES = 256
_HELLO_PATIENCE_S = 10.0

log = logging.getLogger(__name__)


class Address(NamedTuple):
    """Where a host listens. word: whoever says it first is let in; new with each process."""

    ip: str
    port: int
    word: bytes

    def __repr__(self) -> str:
        return f"Address({self.ip}:{self.port})"


def _at_once(act: Callable[[], None]) -> None:
    act()


class Served(Protocol):
    """What is behind a door: a host, or what is asked as one is."""

    def consult(self, payload: bytes) -> bytes:
        """See `Host.consult`."""

    async def watch(self, payload: bytes) -> bytes:
        """See `Host.watch`."""


class Door:
    """Serves one host to whoever knows the word.

    when_safe: does what it is given once what the host has done may be told.
    """

    def __init__(
        self, host: Served, when_safe: Callable[[Callable[[], None]], None] = _at_once
    ) -> None:
        self._host = host
        self._when_safe = when_safe
        self._word = secrets.token_bytes(32)
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()
        self._lines: set[_Visitor] = set()

    async def open(self, ip: str) -> Address:
        """Listen on a free port of `ip`; again: the same address."""
        async with self._opening:
            if self._server is None:
                loop = asyncio.get_running_loop()
                self._server = await loop.create_server(self._visitor, ip, 0, backlog=1024)
        port: int = self._server.sockets[0].getsockname()[1]
        return Address(ip, port, self._word)

    def _visitor(self) -> Line:
        visitor = _Visitor(self._host, self._word, self._lines, self._when_safe)
        self._lines.add(visitor)
        return visitor.line

    def close(self) -> None:
        """Hang up on everybody and stop listening."""
        if self._server is not None:
            self._server.close()
        for visitor in list(self._lines):
            visitor.line.close()


class _Visitor:
    """One connection; nothing that it says is read as a batch before it said the word."""

    def __init__(
        self,
        host: Served,
        word: bytes,
        among: "set[_Visitor]",
        when_safe: Callable[[Callable[[], None]], None],
    ) -> None:
        self._host = host
        self._when_safe = when_safe
        self._word = word
        self._among = among
        self._known = False
        self._watches: set[asyncio.Task[None]] = set()
        self.line = Line(self._hear, self._lost)
        self.line.most_bytes = _MAX_HELLO_BYTES
        self._patience = asyncio.get_running_loop().call_later(_HELLO_PATIENCE_S, self._hang_up)

    def _hear(self, kind: int, number: int, payload: bytes) -> None:
        if not self._known:
            self._greet(kind, payload)
        elif kind == CONSULT:
            self._consult(number, payload)
        elif kind == WATCH:
            task = asyncio.create_task(self._watch(number, payload))
            self._watches.add(task)
            task.add_done_callback(self._watches.discard)

    def _greet(self, kind: int, payload: bytes) -> None:
        if kind == HELLO and hmac.compare_digest(payload, self._word):
            self._known = True
            self._patience.cancel()
            self.line.most_bytes = MAX_PAYLOAD_BYTES
        else:
            self.line.close()

    def _hang_up(self) -> None:
        if not self._known:
            self.line.close()

    def _consult(self, number: int, payload: bytes) -> None:
        try:
            reply = self._host.consult(payload)
        except Exception as error:
            self.line.send(BROKEN, number, type(error).__name__.encode())
        else:
            self._when_safe(lambda: self.line.send(REPLY, number, reply))

    async def _watch(self, number: int, payload: bytes) -> None:
        try:
            reply = await self._host.watch(payload)
        except Exception as error:
            log.exception("a watch failed")
            self.line.send(BROKEN, number, type(error).__name__.encode())
        else:
            self._when_safe(lambda: self.line.send(REPLY, number, reply))

    def _lost(self) -> None:
        self._patience.cancel()
        self._among.discard(self)
        for task in self._watches:
            task.cancel()
