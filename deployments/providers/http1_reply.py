"""What the bytes of one HTTP/1.1 reply say. No sockets, no time limits."""

from functools import lru_cache
from time import monotonic_ns
from typing import NoReturn

from httptools import HttpParserError, HttpResponseParser

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256

_NO_BODY = (204, 304)
_SMALL, _JOINED = 512, 64 * 1024


class _Stop(Exception):
    """Ends the parsing from within one of its callbacks."""


@lru_cache(256)
def _lower(name: bytes) -> str:
    return name.decode("latin-1").lower()


class ReplyParser:
    """Reads the replies of one connection, one after another: `begin`, then `feed` each.

    max_bytes: a body may have no more.

    status, headers, first_byte_ns: of the head; names in lower case, repeated ones joined by ", ";
        the moment it was complete, on `time.monotonic_ns`. Informational replies (1xx) are not it.
    streaming: the head is here, its status is 200, and a stream was asked for.
    parts: the body as it comes; whoever takes them leaves an empty list. size: bytes of it so far.
    complete: the reply has come to its end.
    ends_with_connection: only that tells its end.
    keep: the connection may carry another one. Bytes after the end, other than empty lines, are
        ignored and forbid it.
    flaw: what makes it no reply, "" for nothing; the rest of a sentence about its sender.
    """

    __slots__ = (
        "_max_bytes",
        "_pairs",
        "_parser",
        "_quiet",
        "_streamed",
        "complete",
        "ends_with_connection",
        "first_byte_ns",
        "flaw",
        "headers",
        "keep",
        "parts",
        "size",
        "status",
        "streaming",
    )

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parser = HttpResponseParser(self)
        self.begin(False)

    def begin(self, streamed: bool) -> None:
        """Wait for the next reply."""
        self._streamed = streamed
        self._pairs: list[tuple[bytes, bytes]] = []
        self._quiet = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.first_byte_ns = 0
        self.streaming = False
        self.parts: list[bytes | bytearray] = []
        self.size = 0
        self.complete = False
        self.ends_with_connection = False
        self.keep = False
        self.flaw = ""

    def feed(self, data: bytes) -> None:
        """Take what has arrived. Not to be called again once there is a flaw, or no `keep`."""
        size = self.size
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self.keep = False
            if not self.complete:
                self.flaw = self.flaw or f"broke the rules of HTTP ({error})"
            return
        if self.size != size:
            self._quiet = 0
        elif self._quiet > MAX_HEAD_BYTES and not self.complete:
            # An endless head, trailer or chunk extension.
            self.flaw = f"sent more than {MAX_HEAD_BYTES} bytes that are no body"

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self.complete:
            raise _Stop

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser; after the head for trailers, which nobody wants."""
        self._pairs.append((name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.first_byte_ns = monotonic_ns()
        pairs, self._pairs = self._pairs, []
        if len(pairs) > MAX_HEADERS:
            self._stop(f"sent more than {MAX_HEADERS} headers")
        if self._quiet > MAX_HEAD_BYTES and _size_of(pairs) > MAX_HEAD_BYTES:
            self._stop(f"sent a head of more than {MAX_HEAD_BYTES} bytes")
        headers: dict[str, str] = {}
        for name, value in pairs:
            key = _lower(name)
            text = value.decode("latin-1").strip()
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        self.headers = headers
        self.status = status = self._parser.get_status_code()
        if status < 200:
            if status < 100:
                self._stop("sent a status that is none")
            if status == 101:
                self._stop("wants to speak something else than HTTP")
            return
        self.streaming = self._streamed and status == 200
        length = headers.get("content-length")
        coding = headers.get("transfer-encoding")
        if coding is not None:
            if coding.lower() != "chunked":
                self._stop("sent a body in a coding that nobody asked for")
        elif length is None:
            self.ends_with_connection = True
        elif int(length) > self._max_bytes and status not in _NO_BODY:
            self._too_long()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self.size += len(body)
        if self.size > self._max_bytes:
            self._too_long()
        parts = self.parts
        if parts and len(body) < _SMALL and len(parts[-1]) < _JOINED:
            # An object for every few bytes would be many times their size.
            last = parts[-1]
            if type(last) is bytes:
                parts[-1] = last = bytearray(last)
            last += body
        else:
            parts.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self.status >= 200:
            self.complete = True
            # A body that follows a 204 all the same would only show when it is too late.
            self.keep = self._parser.should_keep_alive() and self.status not in _NO_BODY

    def _too_long(self) -> NoReturn:
        self._stop(f"sent more than {self._max_bytes} bytes")

    def _stop(self, flaw: str) -> NoReturn:
        self.flaw = flaw
        raise _Stop


def _size_of(pairs: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in pairs)
