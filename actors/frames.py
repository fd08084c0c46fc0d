"""Frames on a stream: length, kind, number, payload. Both ends of a line speak them."""

import asyncio
import struct
from collections.abc import Callable
from typing import cast

HELLO, CONSULT, WATCH, REPLY, BROKEN = range(5)
MAX_PAYLOAD_BYTES = 256 << 20

_HEAD = struct.Struct(">IBQ")

OnFrame = Callable[[int, int, bytes], None]
"""Called with kind, number and payload of each frame."""


class Line(asyncio.Protocol):
    """One connection. on_frame: for each whole frame; on_lost: once, when it has ended."""

    def __init__(self, on_frame: OnFrame, on_lost: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self.most_bytes = MAX_PAYLOAD_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # Not an instance: uvloop's transports are asyncio's by their methods only.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        held = self._held
        held += data
        start = 0
        while len(held) - start >= _HEAD.size:
            length, kind, number = _HEAD.unpack_from(held, start)
            if length > self.most_bytes:
                self.close()
                return
            end = start + _HEAD.size + length
            if len(held) < end:
                break
            payload = bytes(held[start + _HEAD.size : end])
            start = end
            self._on_frame(kind, number, payload)
        del held[:start]

    def send(self, kind: int, number: int, payload: bytes) -> None:
        """Send one frame; nothing where the line has ended."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_HEAD.pack(len(payload), kind, number) + payload)

    def close(self) -> None:
        """End the line."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._on_lost()
