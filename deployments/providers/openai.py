"""A provider that speaks OpenAI's HTTP: OpenAI itself, vLLM, the simulated provider, others."""

import re
import ssl
from collections.abc import Mapping
from time import monotonic_ns
from urllib.parse import quote, urlsplit

from .base import Answer, Call, ProviderFailure
from .http1 import Connection
from .pool import Pool

_MAX_HEADS = 64
# What may stand in a path and its query as it is; "%" because it may be escaped already.
_PLAIN = "/%:@!$&'()*+,;=~-._?"


class OpenAIProvider:
    """Sends calls over one pool of kept-alive connections.

    name: for messages, targets and traces.
    base_url: http(s), up to and including the version: "https://api.openai.com/v1".
    api_key: sent as a bearer token; empty for a provider that wants none.
    connect_timeout_s: for a free connection in the pool, name lookup, TCP and TLS together.
    max_connections: calls in flight at once; the next ones wait within connect_timeout_s.
    keepalive_s: an idle connection is not reused after this. A provider that closes it in the
        very moment of reuse looks like a reset, so stay below the provider's own figure.
    max_answer_bytes: a longer body is cut off and counts as a reset.

    Redirects are not followed, bodies not unpacked, and a call whose connection breaks is not
    sent again, however stale the connection was: that could be paid for twice. Once closed, it
    stays so. A call raises ValueError where its headers hold what no header can carry.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key: str,
        *,
        connect_timeout_s: float = 5.0,
        max_connections: int = 1000,
        keepalive_s: float = 15.0,
        max_answer_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        secure, host, port = _endpoint(name, base_url)
        if not (api_key.isascii() and (api_key.isprintable() or not api_key)):
            raise ValueError(f"provider {name}: the API key holds characters no header can carry")
        self.name = name
        self.base_url = base_url.rstrip("/")
        shown = f"[{host}]" if ":" in host else host
        own = {
            "host": shown if port is None else f"{shown}:{port}",
            "accept": "*/*",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "raygate",
        }
        if api_key:
            own["authorization"] = f"Bearer {api_key}"
        self._own = _lines(own)
        self._heads: dict[str, bytes] = {}
        self._connect_timeout_s = connect_timeout_s
        self._pool = Pool(
            name,
            host,
            port or (443 if secure else 80),
            tls=_tls() if secure else None,
            max_connections=max_connections,
            keepalive_s=keepalive_s,
            max_answer_bytes=max_answer_bytes,
        )

    def __repr__(self) -> str:
        return f"OpenAIProvider(name={self.name!r}, base_url={self.base_url!r})"

    async def send(self, call: Call) -> Answer:
        """Send once and read the whole reply; `ProviderFailure` when there is none."""
        return await self._send(self._head(call.path), call)

    async def stream(self, call: Call) -> "OpenAIStream":
        """Send once and return at the reply's head; `ProviderFailure` when there is none."""
        start = monotonic_ns()
        request = _request(self._head(call.path), call)
        connection = self._pool.take() or await self._connect(call.timeout_s)
        try:
            until = start * 1e-9 + call.timeout_s
            await connection.begin(request, call.timeout_s, until, True)
            # What broke after the head is for the reader.
            if connection.failure is not None and not connection.reply.streaming:
                raise ProviderFailure(*connection.failure)
        except BaseException:
            self._pool.give_back(connection)
            raise
        return OpenAIStream(self._pool, connection, start)

    async def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    async def _send(self, head: bytes, call: Call) -> Answer:
        start = monotonic_ns()
        request = _request(head, call)
        pool = self._pool
        connection = pool.take() or await self._connect(call.timeout_s)
        try:
            until = start * 1e-9 + call.timeout_s
            await connection.begin(request, call.timeout_s, until, False)
            if connection.failure is not None:
                raise ProviderFailure(*connection.failure)
            reply = connection.reply
            return Answer(
                reply.status,
                reply.headers,
                b"".join(reply.parts),
                reply.first_byte_ns - start,
                monotonic_ns() - start,
            )
        finally:
            pool.give_back(connection)

    async def _connect(self, timeout_s: float) -> Connection:
        # A call that gets no connection in time must end as such: nothing was sent, and
        # nothing may be charged. So that limit lies before the one on the whole.
        return await self._pool.make(min(self._connect_timeout_s, 0.9 * timeout_s))

    def _head(self, path: str) -> bytes:
        head = self._heads.get(path)
        if head is None:
            head = self._head_of("POST", self.base_url + path)
            if len(self._heads) < _MAX_HEADS:
                self._heads[path] = head
        return head

    def _head_of(self, method: str, url: str) -> bytes:
        """The part of a request that is the same for every call."""
        parts = urlsplit(url)
        path = quote(parts.path or "/", _PLAIN)
        query = f"?{quote(parts.query, _PLAIN)}" if parts.query else ""
        return f"{method} {path}{query} HTTP/1.1\r\n".encode() + self._own


class OpenAIStream:
    """A reply whose body is still arriving; the promises are those of `base.StreamAnswer`."""

    __slots__ = ("_connection", "_pool", "body", "first_byte_ns", "headers", "status")

    def __init__(self, pool: Pool, connection: Connection, start: int) -> None:
        reply = connection.reply
        self.status = reply.status
        self.headers = reply.headers
        self.body = b"" if reply.streaming else b"".join(reply.parts)
        self.first_byte_ns = reply.first_byte_ns - start
        self._pool = pool
        self._connection: Connection | None = connection
        if not reply.streaming:
            self._let_go()

    def __del__(self) -> None:
        # A caller that was cancelled may have left it, and the pool would lack a place for good.
        # The garbage collector runs in whatever thread needs memory.
        if self._connection is not None:
            self._pool.give_back_from_anywhere(self._connection)

    async def read(self) -> bytes:
        """The next bytes of the body; b"" at its end, `ProviderFailure` before it.

        May be cancelled and called again: nothing is lost by it.
        """
        return b"" if self._connection is None else await self._connection.read()

    async def aclose(self) -> None:
        """Let the connection go: kept for reuse when the body was read to its end, else cut."""
        self._let_go()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)


def _endpoint(name: str, base_url: str) -> tuple[bool, str, int | None]:
    """Whether by TLS, the host, and the port if it is named."""
    try:
        url = urlsplit(base_url)
        host = (url.hostname or "").encode("idna").decode()
        port = url.port
    except ValueError:
        raise ValueError(f"provider {name}: the base URL can't be read") from None
    if url.scheme not in ("http", "https") or not host:
        raise ValueError(f"provider {name}: the base URL must begin with http:// or https://")
    if url.username or url.password:
        raise ValueError(f"provider {name}: a key belongs in api_key, not in the base URL")
    if not re.fullmatch(r"[\w.:%~-]+", host, re.ASCII):
        raise ValueError(f"provider {name}: the base URL names no host")
    return url.scheme == "https", host, port


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _lines(headers: Mapping[str, str]) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode()
    # Some values are clients' own words: none may end its line and begin another.
    count = len(headers)
    if lines.count(b"\r") != count or lines.count(b"\n") != count or b"\0" in lines:
        raise ValueError("a header's value holds a line end or a zero byte")
    return lines


def _request(head: bytes, call: Call) -> bytes:
    body = call.body
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, _lines(call.headers), len(body), body)
