"""A stream on its way from a provider to a client."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from actors.charges import Usage
from actors.errors import DeadlineExceeded, ProviderError, ProviderTimeout, RaygateError
from deployments.deadline import Deadline
from deployments.providers.base import FailureKind, ProviderFailure, StreamAnswer
from deployments.providers.sse import StreamTail

_BYTES_PER_TOKEN = 4
_AFTER_DONE_S = 1.0


class Ending(Protocol):
    """What a stream needs of its settlement."""

    cost_nanos: int

    def succeeded(self, usage: Usage | None, estimate: Usage, first_byte_ns: int) -> Usage:
        """It is complete."""

    def lost(self, kind: FailureKind, seen: Usage | None = None) -> None:
        """The provider broke it off."""

    def abandoned(self, seen: Usage | None = None) -> None:
        """We broke it off."""


class LiveStream:
    """Relays what comes, and settles at the end, however that comes about.

    source, first: the upstream reply and its first chunk, already read.
    tail: watches the bytes. deadline: on the event loop's clock.
    input_tokens: as counted by us, for an estimate.
    read_usage: turns the provider's usage object into `Usage`.
    on_complete: called once with the whole stream's bytes (None: cut off, or over keep_bytes).
    """

    def __init__(
        self,
        source: StreamAnswer,
        first: bytes,
        first_byte_ns: int,
        tail: StreamTail,
        ending: Ending,
        deadline: float,
        input_tokens: int,
        read_usage: Callable[[object], Usage | None],
        keep_bytes: int,
        on_complete: Callable[[bytes | None, Usage], None],
    ) -> None:
        self._source = source
        self._first: bytes | None = first
        self._first_byte_ns = first_byte_ns
        self._tail = tail
        self._ending = ending
        self._deadline = Deadline(deadline)
        self._input_tokens = input_tokens
        self._read_usage = read_usage
        self._kept: list[bytes] | None = [] if keep_bytes else None
        self._room = keep_bytes
        self._on_complete = on_complete
        self.finished = False
        self.usage = Usage()

    @property
    def cost_nanos(self) -> int:
        """What it cost; 0 until it is settled."""
        return self._ending.cost_nanos

    async def piece(self) -> bytes | None:
        """The next bytes for the client (perhaps none, b""); None after the end.

        May be cancelled and called again: nothing is lost by it. Raises ProviderError,
        ProviderTimeout or DeadlineExceeded when the stream breaks off; it is settled then,
        except for a deadline, after which `drain` goes on.
        """
        if self.finished:
            return None
        try:
            with self._deadline:
                return await self._read()
        except TimeoutError:
            raise DeadlineExceeded(
                "The request's time is over before its stream is. Ask for more with "
                "x-raygate-timeout.",
                should_retry=False,
            ) from None

    async def drain(self, within_s: float) -> None:
        """Read on without a client, so that the usage is known; bounded in time."""
        try:
            async with asyncio.timeout(within_s):
                while not self.finished:
                    await self._read()
        except RaygateError:
            return
        except TimeoutError:
            await self.abandon()
        except asyncio.CancelledError:
            await self.abandon()
            raise

    async def abandon(self) -> None:
        """Break it off; what was seen is charged as an estimate."""
        if not self.finished:
            self._finish()
            self._ending.abandoned(self._seen())
            self._on_complete(None, self._seen())
            await self._source.aclose()

    async def _read(self) -> bytes | None:
        try:
            if self._first is not None:
                chunk, self._first = self._first, None
            elif self._tail.done:
                chunk = await self._after_done()
            else:
                chunk = await self._source.read()
            if chunk:
                self._keep(chunk)
                return self._tail.feed(chunk)
        except ProviderFailure as failure:
            await self._break_off(failure)
        rest = self._tail.flush()
        if self._tail.failed:
            await self._break_off(ProviderFailure("reset", "the provider reported an error"))
        if not self._tail.done:
            await self._break_off(ProviderFailure("reset", "the provider's stream has no end"))
        await self._complete()
        return rest or None

    async def _after_done(self) -> bytes:
        """`[DONE]` was the last word; the reply's end is awaited for its connection's sake only."""
        try:
            async with asyncio.timeout(_AFTER_DONE_S):
                while await self._source.read():
                    pass
        except (ProviderFailure, TimeoutError):
            pass
        return b""

    async def _complete(self) -> None:
        self._finish()
        told = self._read_usage(self._tail.usage())
        self.usage = self._ending.succeeded(told, told or self._seen(), self._first_byte_ns)
        self._on_complete(b"".join(self._kept) if self._kept is not None else None, self.usage)
        await self._source.aclose()

    async def _break_off(self, failure: ProviderFailure) -> None:
        self._finish()
        # A usage that came before the break is what will be billed.
        self.usage = self._read_usage(self._tail.usage()) or self._seen()
        self._ending.lost("reset", self.usage)
        self._on_complete(None, self.usage)
        await self._source.aclose()
        kind = ProviderTimeout if failure.kind == "timeout" else ProviderError
        raise kind(f"The stream broke off: {failure.message}.", should_retry=False)

    def _finish(self) -> None:
        self.finished = True
        self._deadline.close()

    def _keep(self, chunk: bytes) -> None:
        if self._kept is not None:
            self._room -= len(chunk)
            if self._room < 0:
                self._kept = None
            else:
                self._kept.append(chunk)

    def _seen(self) -> Usage:
        """What the client has been sent, in tokens, as well as bytes tell."""
        output = -(-self._tail.content_bytes // _BYTES_PER_TOKEN)
        return Usage(input=self._input_tokens, output=output)
