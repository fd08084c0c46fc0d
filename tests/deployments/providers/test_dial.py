import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.providers.dial import HEAD_START_S, Dialer

pytestmark = pytest.mark.anyio


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Something to connect to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """An address that takes no further connection and refuses none."""
    with socket.socket() as server:
        server.bind(("127.0.0.2", 0))
        server.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()
        for filler in fillers:
            filler.close()


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: Any, pause_s: float = 0) -> list[str]:
    """Makes every name stand for these addresses; the names asked for."""
    asked: list[str] = []

    async def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        asked.append(host)
        await asyncio.sleep(pause_s)
        return [
            (socket.AF_INET6 if ":" in one[0] else socket.AF_INET, socket.SOCK_STREAM, 6, "", one)
            for one in addresses
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return asked


async def test_an_address_needs_no_lookup(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is connected to as it stands."""
    asked = resolving(monkeypatch)
    with await Dialer(*listener.getsockname()).connect() as made:
        assert made.getpeername() == listener.getsockname()
    assert asked == []


async def test_a_lookup_serves_all_who_want_it(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those at once, and those soon after; one that is cancelled takes it from nobody."""
    asked = resolving(monkeypatch, listener.getsockname(), pause_s=0.05)
    dialer = Dialer("provider.test", 1)
    hasty = asyncio.create_task(dialer.connect())
    tasks = [asyncio.create_task(dialer.connect()) for _ in range(5)]
    await asyncio.sleep(0.01)
    hasty.cancel()
    for task in tasks:
        (await task).close()
    (await dialer.connect()).close()
    assert asked == ["provider.test"]


async def test_a_failed_lookup_is_tried_again(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server's bad moment is not remembered."""
    dialer = Dialer("provider.invalid", 1)
    with pytest.raises(socket.gaierror):
        await dialer.connect()
    resolving(monkeypatch, listener.getsockname())
    (await dialer.connect()).close()


async def test_an_address_that_refuses_gives_way_to_the_next(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once."""
    resolving(monkeypatch, ("127.0.0.1", 9), ("::1", 9), listener.getsockname())
    start = time.monotonic()
    with await Dialer("provider.test", 1).connect() as made:
        assert made.getpeername() == listener.getsockname()
    assert time.monotonic() - start < HEAD_START_S


async def test_an_address_that_is_silent_is_overtaken(
    listener: socket.socket, silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a moment's head start; nothing of the slower one stays open."""
    resolving(monkeypatch, silent, listener.getsockname())
    start = time.monotonic()
    with await Dialer("provider.test", 1).connect() as made:
        assert made.getpeername() == listener.getsockname()
    assert HEAD_START_S * 0.9 < time.monotonic() - start < 2


async def test_no_address_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one's reason."""
    resolving(monkeypatch, ("127.0.0.1", 9), ("127.0.0.1", 10))
    with pytest.raises(ConnectionRefusedError):
        await Dialer("provider.test", 1).connect()


async def test_cancelling_leaves_no_attempt_behind(
    silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every attempt under way is given up."""
    resolving(monkeypatch, silent, silent)
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(HEAD_START_S * 1.5):
            await Dialer("provider.test", 1).connect()
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before
