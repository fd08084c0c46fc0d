"""A provider that speaks OpenAI's HTTP: OpenAI itself, vLLM, the simulated provider, others."""

import asyncio
import os
from time import monotonic_ns

import aiohttp
from yarl import URL

from .base import Answer, Call, ProviderFailure

_MAX_URLS = 64


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
        url = URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"provider {name}: the base URL must begin with http:// or https://")
        if url.user or url.password:
            raise ValueError(f"provider {name}: a key belongs in api_key, not in the base URL")
        if not (api_key.isascii() and (api_key.isprintable() or not api_key)):
            raise ValueError(f"provider {name}: the API key holds characters no header can carry")
        self.name = name
        self.base_url = base_url.rstrip("/")
        self._headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": "raygate",
        }
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._keepalive_s = keepalive_s
        self._max_answer_bytes = max_answer_bytes
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    def __repr__(self) -> str:
        return f"OpenAIProvider(name={self.name!r}, base_url={self.base_url!r})"

    async def send(self, call: Call) -> Answer:
        """Send once and read the whole reply; `ProviderFailure` when there is none."""
        start = monotonic_ns()
        try:
            limits = self._limits(None, call.timeout_s)
            async with asyncio.timeout(call.timeout_s), self._post(call, limits) as reply:
                first = monotonic_ns() - start
                body = await self._read(reply)
                return Answer(
                    reply.status, _plain(reply), body, first, total_ns=monotonic_ns() - start
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error, call) from None

    async def stream(self, call: Call) -> "OpenAIStream":
        """Send once and return at the reply's head; `ProviderFailure` when there is none."""
        start = monotonic_ns()
        try:
            async with asyncio.timeout(call.timeout_s):
                reply = await self._post(call, self._limits(call.timeout_s, call.timeout_s))
                first = monotonic_ns() - start
                body = b""
                if reply.status != 200:
                    async with reply:
                        body = await self._read(reply)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error, call) from None
        return OpenAIStream(self, call, reply, body, first)

    async def close(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _post(
        self, call: Call, timeout: aiohttp.ClientTimeout
    ) -> "aiohttp.client._RequestContextManager":
        # aiohttp resends on a stale connection for idempotent methods only; a POST surfaces as
        # a disconnect, which is what the ledger needs: a silent resend would be paid for twice.
        return self._open_session().post(
            self._url(call.path),
            data=call.body,
            headers=call.headers,
            allow_redirects=False,
            timeout=timeout,
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections, keepalive_timeout=self._keepalive_s
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                auto_decompress=False,
            )
        return self._session

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = URL(self.base_url + path)
            if len(self._urls) < _MAX_URLS:
                self._urls[path] = url
        return url

    def _limits(self, between_chunks_s: float | None, whole_s: float) -> aiohttp.ClientTimeout:
        # A call that gets no connection in time must end as such: nothing was sent, and
        # nothing may be charged. So that limit lies before the one on the whole.
        if between_chunks_s is None and whole_s > self._connect_timeout_s:
            return self._timeout
        connect_s = min(self._connect_timeout_s, 0.9 * whole_s)
        return aiohttp.ClientTimeout(total=None, connect=connect_s, sock_read=between_chunks_s)

    async def _read(self, reply: aiohttp.ClientResponse) -> bytes:
        length = reply.content_length
        if length is not None and length <= self._max_answer_bytes:
            return await reply.read()
        parts: list[bytes] = []
        size = 0
        while part := await reply.content.readany():
            size += len(part)
            if size > self._max_answer_bytes:
                reply.close()
                raise self._too_long()
            parts.append(part)
        return b"".join(parts)

    def _too_long(self) -> ProviderFailure:
        return ProviderFailure(
            "reset", f"provider {self.name} sent more than {self._max_answer_bytes} bytes"
        )

    def _failure(self, error: Exception, call: Call) -> ProviderFailure:
        # The messages are our own: a library's may quote headers, and with them the key.
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            text = f"no connection to provider {self.name} within {self._connect_timeout_s:g} s"
            return ProviderFailure("connect", text)
        if isinstance(error, aiohttp.ClientConnectorError):
            # The system's own word: the library's names the address, which is no client's business.
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else type(error).__name__
            return ProviderFailure("connect", f"no connection to provider {self.name}: {reason}")
        if isinstance(error, TimeoutError):
            text = f"provider {self.name} said nothing more within {call.timeout_s:g} s"
            return ProviderFailure("timeout", text)
        text = f"provider {self.name} broke off its reply ({type(error).__name__})"
        return ProviderFailure("reset", text)


class OpenAIStream:
    """A reply whose body is still arriving; the promises are those of `base.StreamAnswer`."""

    __slots__ = (
        "_call",
        "_provider",
        "_reply",
        "_size",
        "body",
        "first_byte_ns",
        "headers",
        "status",
    )

    def __init__(
        self,
        provider: OpenAIProvider,
        call: Call,
        reply: aiohttp.ClientResponse,
        body: bytes,
        first_byte_ns: int,
    ) -> None:
        self.status = reply.status
        self.headers = _plain(reply)
        self.body = body
        self.first_byte_ns = first_byte_ns
        self._provider = provider
        self._call = call
        self._reply = reply
        self._size = 0

    async def read(self) -> bytes:
        """The next bytes of the body; b"" at its end, `ProviderFailure` before it.

        May be cancelled and called again: nothing is lost by it.
        """
        if self.status != 200:
            return b""
        provider = self._provider
        try:
            chunk = await self._reply.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise provider._failure(error, self._call) from None
        self._size += len(chunk)
        if self._size > provider._max_answer_bytes:
            raise provider._too_long()
        return chunk

    async def aclose(self) -> None:
        """Let the connection go: kept for reuse when the body was read to its end, else cut."""
        if self._reply.content.is_eof():
            self._reply.release()
        else:
            self._reply.close()


def _plain(reply: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items()}
