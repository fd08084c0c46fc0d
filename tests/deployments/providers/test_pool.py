import asyncio
import random
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.providers.base import Call, ProviderFailure
from deployments.providers.openai import OpenAIProvider
from tests.deployments.providers.scripted import (
    CALL,
    HEAD,
    KEY,
    Counting,
    Script,
    answering,
    provider,
    request_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both loops: Ray's replicas run on uvloop, and on asyncio where that is missing."""
    return "asyncio", {"use_uvloop": request.param}


async def test_calls_at_once_share_what_is_open(run_script: Script) -> None:
    """No more connections than calls at once, and none for the calls after them."""
    count = Counting(pause_s=0.02)
    async with provider(await run_script(count)) as acme:
        for _ in range(3):
            await asyncio.gather(*(acme.send(CALL) for _ in range(5)))
    assert (count.connections, len(count.calls)) == (5, 15)


async def test_the_one_used_last_is_used_next(run_script: Script) -> None:
    """So that the others come to their end when there is less to do."""
    count = Counting(pause_s=0.02)
    async with provider(await run_script(count), keepalive_s=0.4) as acme:
        await asyncio.gather(*(acme.send(CALL) for _ in range(5)))
        assert count.open == 5
        for _ in range(25):
            await acme.send(CALL)
        assert (count.open, count.connections) == (1, 5)


async def test_an_idle_connection_ends_with_its_time(run_script: Script) -> None:
    """By itself; and the next call makes another."""
    count = Counting()
    async with provider(await run_script(count), keepalive_s=0.3) as acme:
        await acme.send(CALL)
        await asyncio.sleep(0.1)
        await acme.send(CALL)
        assert (count.open, count.connections) == (1, 1)
        await asyncio.sleep(0.4)
        assert count.open == 0
        await acme.send(CALL)
        assert (count.open, count.connections) == (1, 2)


async def test_an_idle_connection_is_not_reused_after_its_time(run_script: Script) -> None:
    """Not even where the loop was too busy to end it."""
    count = Counting()
    async with provider(await run_script(count), keepalive_s=0.05) as acme:
        await acme.send(CALL)
        time.sleep(0.1)  # noqa: ASYNC251 - a loop that is held up is the case
        await acme.send(CALL)
    assert count.connections == 2


async def test_who_waits_is_served_in_turn(run_script: Script) -> None:
    """First come, first served; one that gives up is passed over, whoever comes later waits."""
    count = Counting(pause_s=0.02)
    async with provider(await run_script(count), max_connections=1) as acme:

        def call(number: int) -> asyncio.Task[Any]:
            headers = {"x-number": str(number)}
            return asyncio.create_task(acme.send(Call(CALL.path, CALL.body, headers, 5)))

        tasks = [call(i) for i in range(6)]
        await asyncio.sleep(0.01)
        tasks[2].cancel()
        await tasks[0]
        tasks.append(call(6))
        await asyncio.gather(*tasks, return_exceptions=True)
    served = [head.split("x-number: ")[1][0] for head in count.calls]
    assert served == ["0", "1", "3", "4", "5", "6"]
    assert count.connections == 1


async def test_a_wait_that_is_over_costs_no_place(run_script: Script) -> None:
    """Those who gave up in the queue leave it as it was."""
    count = Counting(pause_s=0.5)
    url = await run_script(count)
    async with provider(url, max_connections=1, connect_timeout_s=0.2) as acme:
        results = await asyncio.gather(*(acme.send(CALL) for _ in range(4)), return_exceptions=True)
        kinds = [one.kind for one in results if isinstance(one, ProviderFailure)]
        assert kinds == ["full"] * 3
        await acme.send(CALL)
    assert len(count.calls) == 2


async def test_who_is_served_in_the_moment_of_giving_up_passes_it_on(run_script: Script) -> None:
    """Be it a connection or the place for one."""
    count = Counting()
    async with provider(await run_script(count), max_connections=1) as acme:
        pool = acme._pool
        for used in (True, False):
            connection = pool.take() or await pool.make(5)
            if used:
                request = b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
                await connection.begin(request, 5, time.monotonic() + 5, False)
            else:
                connection.abort()
            hasty, patient = (asyncio.create_task(pool.make(5)) for _ in range(2))
            await asyncio.sleep(0)
            pool.give_back(connection)
            hasty.cancel()
            served = await patient
            assert (served is connection) == used
            pool.give_back(served)
            with pytest.raises(asyncio.CancelledError):
                await hasty
            assert pool._places == len(pool._idle)


@pytest.mark.parametrize("seed", range(3))
async def test_no_disorder_loses_a_place(run_script: Script, seed: int) -> None:
    """After calls that end in every way, in any order, as many are possible as before."""
    dice = random.Random(seed)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await request_of(reader)
                await asyncio.sleep(dice.choice([0, 0, 0.002, 0.02]))
                end = dice.choice(["", "", "", "connection: close\r\n", "x"])
                if end == "x":
                    break
                writer.write(HEAD + end.encode() + b"content-length: 2\r\n\r\nhi")
                if end:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    async def one(acme: OpenAIProvider) -> None:
        call = Call(CALL.path, CALL.body, {}, dice.choice([0.01, 5]))
        await asyncio.sleep(dice.random() * 0.2)
        try:
            async with asyncio.timeout(dice.choice([0.005, 0.01, 5])):
                if dice.random() < 0.5:
                    await acme.send(call)
                else:
                    stream = await acme.stream(call)
                    if dice.random() < 0.7:
                        await stream.read()
                    await stream.aclose()
        except (ProviderFailure, TimeoutError):
            pass
        assert len(acme._pool._open) <= acme._pool._places <= 3

    async with provider(
        await run_script(handle), max_connections=3, connect_timeout_s=0.05, keepalive_s=0.02
    ) as acme:
        await asyncio.gather(*(one(acme) for _ in range(300)))
        assert acme._pool._places == len(acme._pool._idle) <= 3
        assert not acme._pool._waiters
        await asyncio.sleep(0.1)
        assert (acme._pool._places, acme._pool._open) == (0, set())


async def test_closing_fails_what_is_under_way_and_what_waits(run_script: Script) -> None:
    """At once, each by what may have been sent; and nothing is sent any more."""
    url = await run_script(answering(hold=True))
    async with provider(url, max_connections=1) as acme:
        tasks = [asyncio.create_task(acme.send(CALL)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await acme.close()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1)
        assert [getattr(one, "kind", one) for one in results] == ["reset", "connect", "connect"]
        with pytest.raises(ProviderFailure) as failure:
            await acme.send(CALL)
    assert failure.value.kind == "connect"


@pytest.mark.parametrize("steps", range(8))
async def test_closing_leaves_no_connection_that_is_being_made(
    run_script: Script, steps: int
) -> None:
    """Whatever it has come to by then, it ends, and its call fails."""
    count = Counting(pause_s=5)
    async with provider(await run_script(count)) as acme:
        task = asyncio.create_task(acme.send(CALL))
        for _ in range(steps):
            await asyncio.sleep(0)
        await acme.close()
        with pytest.raises(ProviderFailure):
            await asyncio.wait_for(task, 1)
        assert (acme._pool._places, acme._pool._open) == (0, set())


async def test_a_provider_that_hangs_up_at_once_is_no_lost_call(run_script: Script) -> None:
    """Where the connection ended before the call was sent, or just after: never an answer."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Full\r\ncontent-length: 0\r\n\r\n")

    async with provider(await run_script(handle), max_connections=1) as acme:
        ends: list[int | str] = []
        for _ in range(5):
            try:
                # The refusal may cross the call, and then answers it.
                ends.append((await acme.send(CALL)).status)
            except ProviderFailure as failure:
                ends.append(failure.kind)
    assert set(ends) <= {503, "connect", "reset"}


class Certified:
    """A certificate for localhost that its own file vouches for."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cert.pem"
        key = folder / "key.pem"
        openssl = shutil.which("openssl")
        assert openssl is not None
        subprocess.run(
            f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
            f" -subj /CN=localhost -addext subjectAltName=DNS:localhost"
            f" -keyout {key} -out {self.path}".split(),
            check=True,
            capture_output=True,
        )
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(self.path, key)

    @asynccontextmanager
    async def serving(self, handler: Any) -> AsyncIterator[int]:
        """Serve connections with a function; the port."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(reader, writer)
            except asyncio.CancelledError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self.context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    """One for all tests."""
    return Certified(tmp_path_factory.mktemp("tls"))


async def test_calls_go_over_tls(certified: Certified, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a certificate that the system trusts; connections are kept as without it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.path))
    count = Counting(HEAD + b"content-length: 300000\r\n\r\n" + b"x" * 300_000)
    async with (
        certified.serving(count) as port,
        provider(f"https://localhost:{port}") as acme,
    ):
        for _ in range(2):
            answer = await acme.send(Call(CALL.path, b"y" * 300_000, {}, 5))
            assert answer.body == b"x" * 300_000
            stream = await acme.stream(CALL)
            size = 0
            while chunk := await stream.read():
                size += len(chunk)
            await stream.aclose()
            assert size == 300_000
    assert f"host: localhost:{port}\r\n" in count.calls[0]
    assert count.connections == 1


async def test_a_body_over_tls_ends_or_breaks_as_without_it(
    certified: Certified, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end with the connection is one, a missing piece is a reset."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.path))
    for reply, whole in ((HEAD + b"\r\nhi", True), (HEAD + b"content-length: 9\r\n\r\nhi", False)):
        async with (
            certified.serving(answering(reply)) as port,
            provider(f"https://localhost:{port}") as acme,
        ):
            if whole:
                assert (await acme.send(CALL)).body == b"hi"
            else:
                with pytest.raises(ProviderFailure) as failure:
                    await acme.send(CALL)
                assert failure.value.kind == "reset"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_nothing_is_sent_to_who_cannot_prove_its_name(
    certified: Certified, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown certificate, or one for another name, is no connection."""
    if host != "localhost":
        monkeypatch.setenv("SSL_CERT_FILE", str(certified.path))
    count = Counting()
    async with certified.serving(count) as port, provider(f"https://{host}:{port}") as acme:
        with pytest.raises(ProviderFailure) as failure:
            await acme.send(CALL)
    assert failure.value.kind == "connect"
    assert "TLS" in str(failure.value)
    assert KEY not in str(failure.value)
    assert count.calls == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_handshake_that_hangs_is_no_connection(run_script: Script, streamed: bool) -> None:
    """The time for connecting covers TLS; nothing was sent."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    url = (await run_script(handle)).replace("http", "https")
    async with provider(url, connect_timeout_s=0.1) as acme:
        with pytest.raises(ProviderFailure) as failure:
            await (acme.stream(CALL) if streamed else acme.send(CALL))
    assert failure.value.kind == "connect"
    assert "0.1 s" in str(failure.value)


async def test_a_name_without_addresses_is_no_connection() -> None:
    """And the message does not repeat it."""
    async with provider("http://nowhere.invalid") as acme:
        with pytest.raises(ProviderFailure) as failure:
            await acme.send(CALL)
    assert failure.value.kind == "connect"
    assert "invalid" not in str(failure.value)
