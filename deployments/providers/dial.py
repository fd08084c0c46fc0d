"""TCP connections to a host that may have several addresses, some of them dead."""

import asyncio
import socket
from ipaddress import ip_address
from time import monotonic

LOOKUP_S = 10.0
"""A name's addresses are asked for again after this."""
HEAD_START_S = 0.25
"""An address that has not answered by then gets a rival: the next one."""

Address = tuple[int, tuple[object, ...]]
"""Family, and what a socket of it connects to."""


class Dialer:
    """Connects to a host by name or address. Sets no time limits: cancel it."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._lookup: asyncio.Future[list[Address]] | None = None
        self._lookup_until = 0.0

    async def connect(self) -> socket.socket:
        """A connected socket. Raises OSError: the last address's reason, or the lookup's."""
        addresses = await self._addresses()
        if len(addresses) == 1:
            return await _connect(addresses[0])
        return await _race(addresses)

    async def _addresses(self) -> list[Address]:
        try:
            family = socket.AF_INET6 if ip_address(self._host).version == 6 else socket.AF_INET
            return [(family, (self._host, self._port))]
        except ValueError:
            pass
        # One lookup for all who want it at once: each takes a thread while it lasts.
        lookup = self._lookup
        if lookup is None or (
            lookup.done() and (_failed(lookup) or monotonic() > self._lookup_until)
        ):
            lookup = self._lookup = asyncio.ensure_future(self._look_up())
        return await asyncio.shield(lookup)

    async def _look_up(self) -> list[Address]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        self._lookup_until = monotonic() + LOOKUP_S
        return _alternating([(family, address) for family, _, _, _, address in found])


def _failed(lookup: asyncio.Future[list[Address]]) -> bool:
    return lookup.cancelled() or lookup.exception() is not None


def _alternating(addresses: list[Address]) -> list[Address]:
    """The families in turns, so that a dead one of them costs one head start only."""
    ranks: dict[int, int] = {}
    keyed = []
    for address in addresses:
        rank = ranks[address[0]] = ranks.get(address[0], -1) + 1
        keyed.append((rank, address))
    return [address for _, address in sorted(keyed, key=lambda one: one[0])]


async def _connect(address: Address) -> socket.socket:
    family, target = address
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A stream may be silent for long; what stands between must not forget it.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(made, target)
    except BaseException:
        made.close()
        raise
    return made


async def _race(addresses: list[Address]) -> socket.socket:
    """The first that connects. Each starts when the one before has failed, or a moment later."""
    left = list(reversed(addresses))
    tasks: list[asyncio.Task[socket.socket]] = []
    running: set[asyncio.Task[socket.socket]] = set()
    winner: asyncio.Task[socket.socket] | None = None
    error: BaseException | None = None
    try:
        while winner is None and (left or running):
            if left:
                task = asyncio.ensure_future(_connect(left.pop()))
                tasks.append(task)
                running.add(task)
            done, running = await asyncio.wait(
                running,
                timeout=HEAD_START_S if left else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                if task.exception() is None:
                    winner = task
                else:
                    error = task.exception()
    finally:
        for task in tasks:
            task.cancel()
            late = task is not winner and task.done() and not task.cancelled()
            if late and task.exception() is None:
                task.result().close()
    if winner is None:
        raise error or OSError("the name has no addresses")
    return winner.result()
