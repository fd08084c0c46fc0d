"""The seam between a consultant and its host, and its in-process side."""

from typing import Protocol

from actors.host import Host


class TransportError(Exception):
    """The call may or may not have been executed: send the same batch again."""


class Transport(Protocol):
    """How payloads reach one host. Both verbs may raise TransportError."""

    async def consult(self, payload: bytes) -> bytes:
        """Run a batch; see `Host.consult`."""

    async def watch(self, payload: bytes) -> bytes:
        """Park for news; see `Host.watch`."""


class InProcess:
    """A host in this very process: for tests, for simulations in virtual time.

    What the host raises becomes a TransportError, as it does on the way through Ray.
    """

    def __init__(self, host: Host) -> None:
        self.host = host

    async def consult(self, payload: bytes) -> bytes:
        """See `Transport`."""
        try:
            return self.host.consult(payload)
        except Exception as error:
            raise TransportError(f"{type(error).__name__}: {error}") from error

    async def watch(self, payload: bytes) -> bytes:
        """See `Transport`."""
        try:
            return await self.host.watch(payload)
        except Exception as error:
            raise TransportError(f"{type(error).__name__}: {error}") from error
