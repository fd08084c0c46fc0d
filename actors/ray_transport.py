"""A consultant's way to a host on the Ray cluster."""

import asyncio
import logging
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError

from actors import registry
from actors.host import VIEW_NS
from actors.transport import TransportError

_CONSULT_S = 15.0
_WATCH_S = VIEW_NS / 1e9 + 10.0

log = logging.getLogger(__name__)


class RayTransport:
    """Finds the singleton (or has it created), and finds it again after its death."""

    def __init__(self, name: str, singleton: str, place: registry.Home) -> None:
        self._name = name
        self._singleton = singleton
        self._place = place
        self._handle: ActorHandle[registry.HostActor] | None = None
        self._finding = asyncio.Lock()

    async def consult(self, payload: bytes) -> bytes:
        """See `Transport`."""
        return await self._call("consult", payload, _CONSULT_S)

    async def watch(self, payload: bytes) -> bytes:
        """See `Transport`."""
        return await self._call("watch", payload, _WATCH_S)

    async def _call(self, verb: str, payload: bytes, timeout_s: float) -> bytes:
        handle = self._handle
        try:
            if handle is None:
                handle = await self._find()
            async with asyncio.timeout(timeout_s):
                reply: bytes = await getattr(handle, verb).remote(payload)
                return reply
        except ActorUnavailableError as error:
            raise TransportError(str(error)) from error
        except RayActorError as error:
            # Dead for good: the next call finds, or makes, its successor.
            if self._handle is handle:
                self._handle = None
            raise TransportError(str(error)) from error
        except Exception as error:
            # Whatever it is (the batch failed over there, Ray itself is not reachable): the
            # consultant's tasks must outlive it.
            raise TransportError(f"{type(error).__name__}: {error}") from error

    async def _find(self) -> ActorHandle[registry.HostActor]:
        async with self._finding:
            if self._handle is None:
                self._handle = await asyncio.to_thread(
                    registry.ensure, self._name, self._singleton, self._place
                )
            return self._handle


def transports(name: str, place: registry.Home) -> dict[str, Any]:
    """One transport for each singleton of the gateway `name`."""
    assert ray.is_initialized()
    return {singleton: RayTransport(name, singleton, place) for singleton in registry.SINGLETONS}
