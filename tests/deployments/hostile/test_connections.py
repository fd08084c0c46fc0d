import asyncio
import socket

import pytest

from tests.deployments.hostile.cases import BROKEN, UNREACHED, WELL, Case, both
from tests.deployments.hostile.certificates import Certificates
from tests.deployments.hostile.meeting import (
    ask,
    breaker_of,
    charge_of,
    check,
    counts_of,
    meet,
    nothing_left,
    provided,
)
from tests.deployments.hostile.server import (
    BILL,
    DONE,
    answers,
    completion,
    delta,
    hostile,
    reply,
    says,
)
from tests.deployments.providers.scripted import request_of
from tests.replies import eventually
from tests.stack import Stack, free_port

pytestmark = pytest.mark.anyio

GOOD = answers(reply(completion()))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of every kind, for all tests."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_connection_costs_nothing(stack: Stack, stream: bool) -> None:
    """Nobody listens: both attempts fail at once, and the ledger has no row of them."""
    await meet(stack, both("refused", GOOD, UNREACHED), stream, f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["does-not-exist.invalid", "a" * 63 + ".invalid"])
async def test_a_name_without_addresses_costs_nothing(
    stack: Stack, name: str, stream: bool
) -> None:
    """The lookup fails, and the client is not told the name."""
    seen = await meet(stack, both("no name", GOOD, UNREACHED), stream, f"http://{name}")
    assert "invalid" not in seen.message


def _cut(writer: asyncio.StreamWriter) -> None:
    """Reset the connection, where closing would end it in good order."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def _reset_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    _cut(writer)


async def _reset_in_the_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-")
    await asyncio.sleep(0.02)
    _cut(writer)


async def _reset_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    writer.write(reply(completion())[:-20])
    await asyncio.sleep(0.02)
    _cut(writer)


RESETS = [
    both("before-the-head", _reset_at_once, BROKEN),
    both("in-the-head", _reset_in_the_head, BROKEN),
    both("in-the-body", _reset_in_the_body, BROKEN),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", RESETS, ids=lambda case: case.name)
async def test_a_reset_may_have_been_billed(stack: Stack, case: Case, stream: bool) -> None:
    """Once the call is out nobody knows what came of it: the worst case is charged."""
    await check(stack, case, stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("kind", "trusted"), [("unknown", False), ("expired", True), ("of-another", True)]
)
async def test_no_call_goes_to_who_cannot_prove_its_name(
    stack: Stack,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    trusted: bool,
    stream: bool,
) -> None:
    """A certificate that is self-signed, expired or another's is no connection."""
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.path(kind)))
    calls: list[str] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append((await request_of(reader))[0])

    async with hostile(script, certificates.context(kind)) as server:
        url = f"https://localhost:{server.port}"
        seen = await meet(stack, both(kind, script, UNREACHED), stream, url, server)
    assert "TLS failed" in seen.message
    assert calls == []


async def test_a_good_certificate_is_trusted(
    stack: Stack, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cases before differ from."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.path("unknown")))
    async with hostile(GOOD, certificates.context("unknown")) as server:
        url = f"https://localhost:{server.port}"
        await meet(stack, both("good", GOOD, WELL), False, url, server)


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _plain_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(5)
    writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


async def _speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await reader.read()


async def _hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(5)


HANDSHAKES = [
    both("never-answered", _silent, UNREACHED),
    both("plain-http", _plain_http, UNREACHED),
    both("another-protocol", _speaks_first, UNREACHED),
    both("hung-up", _hangs_up, UNREACHED),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", HANDSHAKES, ids=lambda case: case.name)
async def test_a_handshake_that_is_none_costs_nothing(
    stack: Stack, case: Case, stream: bool
) -> None:
    """Silence ends with the time for connecting, anything but TLS at once."""
    async with hostile(case.script) as server:
        await meet(stack, case, stream, f"https://localhost:{server.port}", server)


@pytest.mark.parametrize("stream", [False, True])
async def test_tls_on_a_plain_port_is_no_reply(
    stack: Stack, certificates: Certificates, stream: bool
) -> None:
    """The call went out in the clear, and what became of it is not known."""
    async with hostile(GOOD, certificates.context("unknown")) as server:
        url = f"http://127.0.0.1:{server.port}"
        await meet(stack, both("tls", GOOD, BROKEN), stream, url, server)


async def test_a_connection_closed_after_an_answer_is_not_used_again(stack: Stack) -> None:
    """The provider hangs up without having said that it would; the next call has its own."""
    async with hostile(says(reply(completion()))) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with provided(stack, url) as provider:
            for number in range(3):
                seen = await ask(stack, False, text=f"number {number}")
                assert (seen.status, seen.attempts) == (200, 1)

                async def none_is_idle() -> bool:
                    return not provider._pool._idle

                await eventually(none_is_idle)
        assert server.accepted == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_closed_in_the_moment_of_its_reuse(stack: Stack, stream: bool) -> None:
    """The call may have arrived: it is charged as lost, and tried again on a new connection."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(chunked if stream else plain)
        await request_of(reader)

    plain = reply(completion())
    events = delta("hello") + BILL + DONE
    chunked = reply(events, "content-type: text/event-stream")
    before = len(await stack.ledger())
    async with (
        hostile(script) as server,
        provided(stack, f"http://127.0.0.1:{server.port}") as provider,
    ):
        first = await ask(stack, stream, text="the first")
        second = await ask(stack, stream, text="the second")
        assert [(one.status, one.attempts) for one in (first, second)] == [(200, 1), (200, 2)]
        await nothing_left(stack, provider)
        assert counts_of(await breaker_of(stack)) == [1, 2]
        rows = (await stack.ledger())[before:]
        assert [charge_of(row) for row in rows] == ["told", "worst", "told"]
        assert server.accepted == 2
