"""One connection to a provider: HTTP/1.1, one exchange after another, nothing sent twice."""

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import cast

from .base import FailureKind, ProviderFailure
from .http1_reply import ReplyParser

MAX_BUFFERED_BYTES = 256 * 1024
"""A stream of which so much lies unread stops receiving (one receipt of the loop's may follow)."""

# Timers may come a little before their time: loops count in milliseconds.
_SLACK_S = 0.001


class Connection(asyncio.Protocol):
    """`begin` an exchange, wait for what it returns, look at `failure`, then at the reply.

    name: the provider's, for messages.
    max_bytes: a longer body is cut off and counts as a reset.
    on_end: called once, when it can carry nothing more.

    reply: of the latest exchange.
    failure: why that will never be complete; kind and message.
    ended: it can carry nothing more.
    loop: where it lives; nothing of it may be called from another thread.
    """

    __slots__ = (
        "_busy",
        "_deadline",
        "_held",
        "_name",
        "_on_end",
        "_paused",
        "_since",
        "_timeout_s",
        "_timer",
        "_timer_at",
        "_transport",
        "_waiter",
        "ended",
        "failure",
        "loop",
        "reply",
    )

    def __init__(self, name: str, max_bytes: int, on_end: Callable[["Connection"], None]) -> None:
        self._name = name
        self._on_end = on_end
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._busy = False
        self._paused = False
        self._held = 0  # size of the reply when it was last read
        self._timeout_s = 0.0
        self._since = 0.0  # since when the next bytes of a stream are waited for
        # One timer for all that is ever waited for, set anew only where it would come too late:
        # most exchanges end long before their time, and so pay for none.
        self._deadline = inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self.reply = ReplyParser(max_bytes)
        self.failure: tuple[FailureKind, str] | None = None
        self.ended = False

    @property
    def usable(self) -> bool:
        """It can carry a further exchange, as far as is known."""
        transport = self._transport
        return not self.ended and transport is not None and not transport.is_closing()

    @property
    def reusable(self) -> bool:
        """The exchange is over and left it as it was before."""
        reply = self.reply
        return reply.complete and reply.keep and self.usable

    def begin(
        self, request: bytes, timeout_s: float, until: float, streamed: bool
    ) -> asyncio.Future[None]:
        """Send a whole request.

        What is returned is done, without an exception, at the end of the reply or with `failure`;
        for a stream whose status is 200 already at its head. Only one may wait for it.

        timeout_s: for messages, and in `read`. until: when it is over, on `time.monotonic`.
        """
        assert self._transport is not None
        self.reply.begin(streamed)
        self.failure = None
        self._timeout_s = timeout_s
        self._held = 0
        self._since = 0.0
        self._busy = True
        self._transport.write(request)
        return self._wait(until)

    async def read(self) -> bytes:
        """The next bytes of a stream; b"" at its end, `ProviderFailure` before it.

        Nothing more within timeout_s is a failure. May be cancelled and called again: nothing is
        lost by it, and the wait is one and the same.
        """
        reply = self.reply
        while not reply.parts:
            if self.failure is not None:
                raise ProviderFailure(*self.failure)
            if reply.complete:
                return b""
            if not self._since:
                self._since = monotonic()
            try:
                await self._wait(self._since + self._timeout_s)
            finally:
                self._waiter = None
                self._deadline = inf
        parts, reply.parts = reply.parts, []
        self._held = reply.size
        self._resume()
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def park(self, until: float) -> None:
        """Keep it idle; it ends by itself at a time on `time.monotonic`."""
        self._expect(until)

    def unpark(self) -> bool:
        """Whether the idle connection may be used again; it is ended where not."""
        if self.usable and monotonic() < self._deadline:
            self._deadline = inf
            return True
        self.abort()
        return False

    def break_off(self) -> None:
        """End it at once; an exchange under way fails."""
        self._fail("reset", "was left in the middle of a call")

    def abort(self) -> None:
        """End it at once; nobody waits for anything."""
        if self.ended:
            return
        self.ended = True
        self._busy = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        self._on_end(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # Not an instance: uvloop's transports are asyncio's by their methods only.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._busy:
            self.abort()
            return
        reply = self.reply
        reply.feed(data)
        if reply.complete:
            self._finish()
        elif reply.flaw:
            self._fail("reset", reply.flaw)
        elif reply.streaming:
            if reply.parts:
                self._since = 0.0
            if reply.size - self._held > MAX_BUFFERED_BYTES and not self._paused:
                assert self._transport is not None
                self._paused = True
                self._transport.pause_reading()
            self._wake()

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        # At once: the loss follows only when all is sent, which the provider may never read.
        self._lost(clean=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._lost(clean=exc is None)
        self._transport = None

    def _finish(self) -> None:
        assert self._transport is not None
        self._busy = False
        if self._transport.get_write_buffer_size():
            # It answered before it had the whole request; the rest must not precede the next one.
            self.reply.keep = False
        self._resume()
        self._wake()

    def _lost(self, clean: bool) -> None:
        if not self._busy:
            self.abort()
        elif clean and self.reply.ends_with_connection:
            self.reply.complete = True
            self.abort()
            self._wake()
        else:
            self._fail("reset", "broke off its reply" if self.reply.status else "did not reply")

    def _fail(self, kind: FailureKind, what: str) -> None:
        if self._busy:
            self.failure = (kind, f"provider {self._name} {what}")
        self.abort()
        self._wake()

    def _resume(self) -> None:
        if self._paused and self.usable:
            assert self._transport is not None
            self._paused = False
            self._transport.resume_reading()

    def _wait(self, until: float) -> asyncio.Future[None]:
        self._expect(until)
        self._waiter = waiter = self.loop.create_future()
        return waiter

    def _wake(self) -> None:
        self._deadline = inf
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _expect(self, until: float) -> None:
        self._deadline = until
        if until < self._timer_at:
            self._set_timer(until)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_later(max(at - monotonic(), 0.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = inf
        if self._deadline - monotonic() <= _SLACK_S:
            self._fail("timeout", f"said nothing more within {self._timeout_s:g} s")
        elif self._deadline < inf:
            self._set_timer(self._deadline)
