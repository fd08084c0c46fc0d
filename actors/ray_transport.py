"""A consultant's way to a host on the Ray cluster.

Ray is asked where the host is (and to create it where there is none); then a line is kept
open to it. When the line breaks, Ray is asked again.
"""

import asyncio
import itertools
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError

from actors import registry
from actors.door import Address
from actors.frames import CONSULT, HELLO, REPLY, WATCH, Line
from actors.host import VIEW_NS
from actors.transport import TransportError

_FIND_S = 20.0
_CONNECT_S = 5.0
_CONSULT_S = 15.0
_WATCH_S = VIEW_NS / 1e9 + 10.0


class RayTransport:
    """Finds the singleton, and finds it again after its death."""

    def __init__(self, name: str, singleton: str, place: registry.Home) -> None:
        self._name = name
        self._singleton = singleton
        self._place = place
        self._handle: ActorHandle[registry.HostActor] | None = None
        self._line: Line | None = None
        self._connecting = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[bytes]] = {}

    async def consult(self, payload: bytes) -> bytes:
        """See `Transport`."""
        return await self._call(CONSULT, payload, _CONSULT_S)

    async def watch(self, payload: bytes) -> bytes:
        """See `Transport`."""
        return await self._call(WATCH, payload, _WATCH_S)

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
            address = await self._address()
            line = Line(self._hear, self._lost)
            try:
                async with asyncio.timeout(_CONNECT_S):
                    loop = asyncio.get_running_loop()
                    await loop.create_connection(lambda: line, address.ip, address.port)
            except OSError as error:
                raise TransportError(f"{address} does not answer: {error}") from error
            line.send(HELLO, 0, address.word)
            self._line = line
            return line

    async def _address(self) -> Address:
        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(
                    registry.ensure, self._name, self._singleton, self._place
                )
            handle: Any = self._handle
            async with asyncio.timeout(_FIND_S):
                found: Address = await handle.address.remote()
            return found
        except ActorUnavailableError as error:
            raise TransportError("it is being restarted") from error
        except RayActorError as error:
            # Dead for good: the next attempt finds, or makes, its successor.
            self._handle = None
            raise TransportError("it has died") from error
        except Exception as error:
            # Whatever it is (Ray itself is out of reach): the consultant outlives it.
            raise TransportError(f"{type(error).__name__}: {error}") from error

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
