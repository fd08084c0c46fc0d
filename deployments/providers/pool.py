"""The connections to one provider: kept alive, reused, and no more than allowed."""

import asyncio
import errno
import os
import socket
import ssl
from collections import OrderedDict
from time import monotonic

from .base import ProviderFailure
from .dial import Dialer
from .http1 import Connection


class Pool:
    """Hands out connections and takes them back.

    name: the provider's, for messages.
    tls: None for plain TCP.
    max_connections: open at once, idle ones included. Who wants another waits, first come first
        served.
    keepalive_s: an idle connection ends after this. Of several the one used last is used next, so
        that the others do.
    max_answer_bytes: see `Connection`.
    """

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        max_connections: int,
        keepalive_s: float,
        max_answer_bytes: int,
    ) -> None:
        self._name = name
        self._host = host
        self._dialer = Dialer(host, port)
        self._tls = tls
        self._max_connections = max_connections
        self._keepalive_s = keepalive_s
        self._max_answer_bytes = max_answer_bytes
        # A place is held by each idle connection, by each that is out, and by each being made.
        self._places = 0
        self._idle: dict[Connection, None] = {}
        self._open: set[Connection] = set()
        self._waiters: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()
        self._closed = False

    def take(self) -> Connection | None:
        """An idle connection, for which `give_back` is owed; None where there is none."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.unpark():
                return connection
            self._free_place()
        return None

    async def make(self, within_s: float) -> Connection:
        """A connection, new or just given back, for which `give_back` is owed.

        To be called at once after `take` found none: who waits is served before who comes.

        Raises ProviderFailure: "full" where its turn did not come, else "connect". within_s: for
        its turn, name lookup, TCP and TLS together.
        """
        text = f"no connection to provider {self._name}"
        its_turn = False
        try:
            async with asyncio.timeout(within_s) as limit:
                connection = await self._place_or_connection()
                its_turn = True
                return connection or await self._connect()
        except OSError as error:
            if limit.expired() and not its_turn:
                most = self._max_connections
                raise ProviderFailure("full", f"{text}, of {most}, became free") from None
            if limit.expired():
                raise ProviderFailure("connect", f"{text} within {within_s:g} s") from None
            raise ProviderFailure("connect", f"{text}: {_reason(error)}") from None

    def give_back(self, connection: Connection) -> None:
        """It is no longer in use: kept if its exchange left it whole, else cut."""
        if self._closed or not connection.reusable:
            connection.abort()
            self._free_place()
        elif not self._hand_on(connection):
            connection.park(monotonic() + self._keepalive_s)
            self._idle[connection] = None

    def give_back_from_anywhere(self, connection: Connection) -> None:
        """The same a moment later, from any thread."""
        try:
            connection.loop.call_soon_threadsafe(self.give_back, connection)
        except RuntimeError:
            pass  # the loop is closed, and the connection with it

    def close(self) -> None:
        """End every connection, for good. What is under way or waiting fails."""
        self._closed = True
        for connection in list(self._open):
            connection.break_off()
        while self._hand_on(None):
            self._places += 1

    async def _place_or_connection(self) -> Connection | None:
        """In turn, where none is idle; None is a place, which holds for a new connection."""
        if self._closed or self._places < self._max_connections:
            self._places += 1
            return None
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            connection = await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._waiters.pop(waiter, None)
            elif (handed := waiter.result()) is not None:
                self.give_back(handed)
            else:
                self._free_place()
            raise
        return connection if connection is not None and connection.usable else None

    async def _connect(self) -> Connection:
        """Make one, on a place that is held already."""
        try:
            if self._is_closed():
                raise ConnectionAbortedError(errno.ECONNABORTED, "")
            sock = await self._dialer.connect()
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self._name, self._max_answer_bytes, self._on_end),
                sock=sock,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
            )
            if not connection.usable:
                raise ConnectionResetError(errno.ECONNRESET, "")
            self._open.add(connection)
            if self._is_closed():
                connection.abort()
                raise ConnectionAbortedError(errno.ECONNABORTED, "")
        except BaseException:
            self._free_place()
            raise
        return connection

    def _is_closed(self) -> bool:
        return self._closed

    def _on_end(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            del self._idle[connection]
            self._free_place()

    def _free_place(self) -> None:
        if not self._hand_on(None):
            self._places -= 1

    def _hand_on(self, what: Connection | None) -> bool:
        """Give a connection or a place to the first who waits, if anybody does."""
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(what)
                return True
        return False


def _reason(error: OSError) -> str:
    """Our own words or the system's: a library's may name the address, no client's business."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({type(error).__name__})"
    if isinstance(error, socket.gaierror):
        return "its name can't be looked up"
    return os.strerror(error.errno) if error.errno else type(error).__name__
