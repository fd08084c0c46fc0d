"""A consultant's way to a host on the Ray cluster.

Ray is asked where the host is (and to create it where there is none); then a line is kept
open to it. When the line breaks, Ray is asked again.
"""

import asyncio
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayError

from actors import placing, registry
from actors.door import Address
from actors.home import Home
from actors.host import VIEW_NS
from actors.lines import LineTransport
from actors.transport import TransportError

_FIND_S = 6.0
_LOOK_S = 0.7
_CONSULT_S = 8.0
_WATCH_S = VIEW_NS / 1e9 + 10.0


class RayTransport(LineTransport):
    """Finds the singleton, and finds it again after its death."""

    def __init__(self, name: str, singleton: str, place: Home) -> None:
        super().__init__(self._address, _CONSULT_S, _WATCH_S)
        self._name = name
        self._singleton = singleton
        self._place = place
        self._handle: ActorHandle[registry.HostActor] | None = None

    async def _address(self) -> Address:
        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(
                    registry.ensure, self._name, self._singleton, self._place
                )
            handle: Any = self._handle
            async with asyncio.timeout(_FIND_S):
                return await self._told_by(handle)
        except ActorUnavailableError as error:
            raise TransportError("it is being restarted") from error
        except TimeoutError:
            # A call to an actor on a node that has just gone may wait for ever.
            self._handle = None
            raise TransportError("Ray has no answer from it, or its node is gone") from None
        except RayError as error:
            # Dead for good: the next attempt finds, or makes, its successor.
            self._handle = None
            raise TransportError("it has died, or its node is gone") from error
        except Exception as error:
            # Whatever it is (Ray itself is out of reach): the consultant outlives it.
            raise TransportError(f"{type(error).__name__}: {error}") from error

    async def _told_by(self, handle: Any) -> Address:
        """The host's own word. Raises TimeoutError as soon as its node is known to be gone."""
        asked = asyncio.ensure_future(_address_of(handle))
        try:
            while not (await asyncio.wait((asked,), timeout=_LOOK_S))[0]:
                if await asyncio.to_thread(placing.node_is_gone, self._name, self._singleton):
                    raise TimeoutError
            return asked.result()
        finally:
            asked.cancel()


async def _address_of(handle: Any) -> Address:
    found: Address = await handle.address.remote()
    return found
