"""A store that can't be written, by SQLite's own limit or on a file system that is really full."""

import asyncio
import os
import pickle
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors import put_off, registry, storage_trouble, wire
from actors.adopter import LEDGER, adopt
from actors.consultant import Consultant
from actors.errors import Conflict, Overloaded, StorageFull
from actors.host import Host
from actors.life import Life
from actors.mechanism import Row, mechanism_of
from actors.outbox import Outbox
from actors.replies import OutOfStep
from actors.storage_trouble import unwritable
from actors.store import Store
from actors.transport import InProcess
from tests.actors.counter import FACTORY, Sum
from tests.full_disk import empty_store, fill_store, small_disk

pytestmark = pytest.mark.anyio

S = 1_000_000_000
HOUR = 3600 * S


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a second are a twentieth of one."""
    monkeypatch.setattr(storage_trouble, "PAUSE_S", 0.05)
    monkeypatch.setattr(put_off, "PAUSE_S", 0.05)


@pytest.fixture
async def way(tmp_path: Path) -> AsyncIterator[InProcess]:
    """The way to a counter."""
    made = InProcess(Host(FACTORY, str(tmp_path / "counter.sqlite"), "claim"))
    yield made
    made.host.close()


@pytest.fixture
async def asker(way: InProcess) -> AsyncIterator[Consultant]:
    """Who asks it."""
    made = Consultant("counter", way)
    made.start()
    yield made
    await made.close(0.2)


async def send(way: InProcess, number: int, *items: tuple[Any, ...], caller: str = "c") -> Any:
    """The replies to a batch of (command, *args)."""
    payload = wire.pack_batch(caller, number, [(name, tuple(args)) for name, *args in items])
    return wire.unpack_reply(await way.consult(payload)).replies


def restart(way: InProcess, path: Path) -> None:
    """Another process on the same store."""
    way.host.close()
    way.host = Host(FACTORY, str(path), "claim")


async def until(true: Any) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 (anything at all is waited for)
            await asyncio.sleep(0.002)


async def recovered(way: InProcess) -> None:
    """Wait until the host has found room by itself."""
    await until(lambda: way.host.info()["storage"] == "ok")


# The host.


async def test_what_changes_nothing_is_answered_and_the_rest_refused(way: InProcess) -> None:
    """In one batch, each by itself; what was refused has left no trace, in memory or on disk."""
    await send(way, 1, ("add", 5))
    fill_store(way.host)
    total, refused, conflict, again = await send(
        way, 2, ("total",), ("add", 7), ("refuse",), ("total",)
    )
    assert (total, again) == (5, 5)
    assert type(conflict) is Conflict
    assert type(refused) is StorageFull
    assert (refused.status, refused.code, refused.retry_after_s) == (503, "storage_full", 0.05)
    assert "counter" in str(refused)
    assert "is full" in str(refused)
    assert await send(way, 3, ("lives",)) == [
        {"owners": 0, "silent": 0, "storage": "full", "protection": ""}
    ]


async def test_views_go_on(way: InProcess, asker: Consultant) -> None:
    """What was shown stays, and stays fresh, for longer than a view lives."""
    await asker.ask("display", "x", 1)
    await until(lambda: asker.view == {"x": 1})
    fill_store(way.host)
    with pytest.raises(StorageFull):
        await asker.ask("display", "x", 2)
    for _ in range(50):
        await asyncio.sleep(0.05)
        assert asker.fresh()
    assert asker.view == {"x": 1}


async def test_it_recovers_by_itself(way: InProcess, caplog: pytest.LogCaptureFixture) -> None:
    """I8: nobody has to ask; what time has brought meanwhile comes then. It is logged twice."""
    await send(way, 1, ("add", 1), ("wait", "t", S // 50))
    fill_store(way.host)
    assert type((await send(way, 2, ("add", 1)))[0]) is StorageFull
    await asyncio.sleep(0.2)
    assert await send(way, 3, ("waiting",)) == [["t"]]
    empty_store(way.host)
    await recovered(way)
    assert await send(way, 4, ("add", 1), ("waiting",)) == [Sum(2), []]
    mine = [one.getMessage() for one in caplog.records if one.name == storage_trouble.__name__]
    assert len(mine) == 2
    assert "refuses changes" in mine[0]
    assert "again" in mine[1]


async def test_it_looks_for_room_with_pauses(
    way: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ask meanwhile: neither the disk nor the state is tried by their commands."""
    await send(way, 1, ("add", 1))
    fill_store(way.host)
    await send(way, 2, ("add", 1))
    tries: list[str] = []
    store = way.host.store
    for name in ("probe", "load", "commit"):
        real = getattr(store, name)
        monkeypatch.setattr(
            store, name, lambda *args, n=name, r=real: (tries.append(n), r(*args))[1]
        )
    began = time.monotonic()
    for number in range(3, 103):
        await send(way, number, ("add", 1), ("total",))
        await asyncio.sleep(0.002)
    assert set(tries) <= {"probe"}
    assert len(tries) <= (time.monotonic() - began) / 0.05 + 1


async def test_a_refused_batch_that_is_sent_again_is_refused_again(way: InProcess) -> None:
    """Also when there is room by then: its sender may have heard the refusal. The next one runs."""
    await send(way, 1, ("add", 1))
    fill_store(way.host)
    [refused] = await send(way, 2, ("add", 10))
    empty_store(way.host)
    await recovered(way)
    [again] = await send(way, 2, ("add", 10))
    assert type(refused) is type(again) is StorageFull
    assert await send(way, 3, ("add", 100)) == [Sum(101)]
    assert await send(way, 2, ("add", 10)) == OutOfStep(3)


async def test_a_refusal_outlives_the_failed_batches_of_others(way: InProcess) -> None:
    """State is read anew for each of them, which does not know of refusals."""
    await send(way, 1, ("add", 1))
    fill_store(way.host)
    await send(way, 2, ("add", 10))
    way.host._distrust()
    await send(way, 1, ("add", 10), caller="d")
    assert type((await send(way, 2, ("add", 10)))[0]) is StorageFull
    assert type((await send(way, 3, ("add", 10)))[0]) is StorageFull


async def test_a_restart_while_it_is_full_makes_callers_begin_anew(
    way: InProcess, tmp_path: Path
) -> None:
    """The store knows nothing of what was refused: the caller is out of step, and nothing ran."""
    await send(way, 1, ("add", 1))
    fill_store(way.host)
    await send(way, 2, ("add", 10))
    restart(way, tmp_path / "counter.sqlite")
    assert await send(way, 3, ("add", 100)) == OutOfStep(1)
    assert await send(way, 1, ("total",), caller="d") == [1]


@contextmanager
def broken_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond this: SQLite meets errors of its device."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_device_that_fails_is_treated_alike(way: InProcess, tmp_path: Path) -> None:
    """And the file is opened anew, as nobody can tell how far the write came."""
    await send(way, 1, ("add", 1))
    before = way.host.store._db
    with broken_disk((tmp_path / "counter.sqlite-wal").stat().st_size):
        refused, total = await send(way, 2, ("add", 10), ("total",))
    assert type(refused) is StorageFull
    assert "can't be written" in str(refused)
    assert total == 1
    assert way.host.store._db is not before
    await recovered(way)
    assert await send(way, 3, ("add", 100)) == [Sum(101)]


def test_a_write_that_failed_may_still_count(tmp_path: Path) -> None:
    """Rows that are whole in the file are there after a failed flush: the store says so."""
    store = Store(tmp_path / "s.sqlite", {"live": "live"}, True)
    store.commit([Row("live", "a", 1)])
    store._doubtful = True
    assert store.load() == [Row("live", "a", 1)]
    store.commit([Row("live", "b", 2)])
    assert len(store.load()) == 2
    store.close()


def test_a_start_on_a_full_disk_waits_for_room(tmp_path: Path) -> None:
    """A host whose beginning can't be written down is not let loose without it."""
    tries = 0

    def write() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(28, "No space left on device")

    storage_trouble.patiently(write)
    assert tries == 3

    def locked() -> None:
        raise sqlite3.OperationalError("database is locked")

    with pytest.raises(sqlite3.OperationalError):
        storage_trouble.patiently(locked)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (OSError(30, "Read-only file system"), True),
        (OSError(5, "Input/output error"), True),
        (OSError(2, "No such file"), False),
        (sqlite3.OperationalError("database is locked"), False),
        (ValueError(), False),
    ],
)
def test_what_counts_as_a_disk_that_takes_nothing(error: Exception, expected: bool) -> None:
    """Known answers; SQLite's own codes are met by the other tests."""
    assert unwritable(error) is expected


@pytest.mark.parametrize("factory", registry.SINGLETONS.values())
def test_every_mechanism_says_which_commands_only_read(factory: str) -> None:
    """They are commands of its own, and health's question is always among them."""
    mechanism = mechanism_of(factory)
    assert {"status"} <= mechanism.READS <= mechanism.COMMANDS


# The caller.


async def test_who_asks_is_told_and_what_was_told_is_told_again(
    way: InProcess, asker: Consultant
) -> None:
    """I8: once each, in their order, behind what was put off before; nobody has to do anything."""
    heard: list[Any] = []
    await asker.ask("add", 1)
    fill_store(way.host)
    with pytest.raises(StorageFull):
        await asker.ask("add", 1000)
    for number in range(20):
        asker.tell("display", "x", number)
        asker.report(heard.append, "add", 1)
        if number % 5 == 0:
            await asyncio.sleep(0.03)
    assert await asker.ask("total") == 1
    assert heard == []
    empty_store(way.host)
    await until(lambda: len(heard) == 20)
    assert heard == [Sum(total) for total in range(2, 22)]
    await until(lambda: asker.view.get("x") == 19)


async def test_a_restart_while_it_is_full_loses_nothing_that_was_told(
    way: InProcess, asker: Consultant, tmp_path: Path
) -> None:
    """I8: out of step, the caller begins anew, and each is counted once."""
    heard: list[Any] = []
    await asker.ask("add", 1)
    for _ in range(3):
        fill_store(way.host)
        asker.report(heard.append, "add", 1)
        await until(lambda: len(asker.put_off) > 0)
        restart(way, tmp_path / "counter.sqlite")
        await until(lambda: not asker.put_off and not asker._in_flight and not asker._queue)
    assert heard == [Sum(2), Sum(3), Sum(4)]


async def test_what_is_put_off_is_bounded(
    way: InProcess, asker: Consultant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks is refused when too much waits to be told."""
    monkeypatch.setattr("actors.consultant._MAX_QUEUED", 3)
    await asker.ask("add", 1)
    fill_store(way.host)
    for _ in range(3):
        asker.tell("add", 1)
    await until(lambda: len(asker.put_off) == 3)
    with pytest.raises(Overloaded):
        await asker.ask("total")
    empty_store(way.host)
    await until(lambda: not asker.put_off and not asker._in_flight and not asker._queue)
    assert await asker.ask("total") == 4


async def test_closing_on_a_full_disk_ends_in_time(way: InProcess) -> None:
    """Whoever reported something hears that it was not delivered."""
    asker = Consultant("counter", way)
    asker.start()
    await asker.ask("add", 1)
    fill_store(way.host)
    heard: list[Any] = []
    asker.report(heard.append, "add", 1)
    await asyncio.wait_for(asker.close(0.1), 5)
    assert [type(one).__name__ for one in heard] == ["SingletonUnavailable"]


async def test_the_dead_are_looked_after_once_there_is_room(tmp_path: Path) -> None:
    """I3: a call that could not be settled stays on its outbox until it was."""
    host = Host("tests.actors.holdings:Holdings", str(tmp_path / "ledger.sqlite"), "claim")
    way = InProcess(host)
    box = Outbox(tmp_path / "outbox")
    life = Life(box.owner, "node", "machine", str(box.path))
    box.started("charge", ("reserved", 5))
    os.close(box._lock)

    @asynccontextmanager
    async def singletons() -> AsyncIterator[Mapping[str, Consultant]]:
        asker = Consultant(LEDGER, way)
        asker.start()
        try:
            yield {LEDGER: asker}
        finally:
            await asker.close(0.1)

    fill_store(host)
    with pytest.raises(StorageFull):
        await adopt(life, True, singletons)
    assert os.listdir(tmp_path / "outbox")
    empty_store(host)
    await recovered(way)
    assert await adopt(life, True, singletons) == "buried"
    assert not os.listdir(tmp_path / "outbox")
    async with singletons() as askers:
        said = await askers[LEDGER].ask("said")
    assert [one[0] for one in said] == ["post", "bury"]
    host.close()


# A file system that is really full.


async def test_a_full_file_system_refuses_and_recovers(tmp_path: Path) -> None:
    """I8: as above, but the kernel says ENOSPC; after a kill the store is whole."""
    with small_disk(tmp_path / "disk", 2) as disk:
        way = InProcess(Host(FACTORY, str(disk.path / "counter.sqlite"), "claim"))
        asker = Consultant("counter", way)
        asker.start()
        done = 0
        await asker.ask("add", 1)
        done += 1
        for _ in range(3):
            disk.fill()
            refused = 0
            while refused < 5:
                try:
                    await asker.ask("add", 1)
                    done += 1
                except StorageFull:
                    refused += 1
            assert await asker.ask("total") == done
            asker.tell("add", 1)
            done += 1
            disk.empty()
            await recovered(way)
            await asker.ask("add", 1)
            done += 1
            await until(lambda: not asker.put_off and not asker._in_flight and not asker._queue)
        disk.fill()
        assert await asker.ask("total") == done
        disk.empty()
        await recovered(way)
        await asker.close()
        restart(way, disk.path / "counter.sqlite")
        assert pickle.loads(await way.watch(pickle.dumps(("c", (0, 0), 0)))).views == []
        assert await send(way, 1, ("total",), caller="new") == [done]
        way.host.close()


async def test_a_host_that_starts_on_a_full_file_system_waits_for_room(tmp_path: Path) -> None:
    """And then it is what it was."""
    with small_disk(tmp_path / "disk", 2) as disk:
        path = disk.path / "counter.sqlite"
        way = InProcess(Host(FACTORY, str(path), "claim"))
        await send(way, 1, ("add", 5))
        way.host.close()
        disk.fill()
        starting = asyncio.create_task(asyncio.to_thread(Host, FACTORY, str(path), "claim"))
        await asyncio.sleep(0.3)
        assert not starting.done()
        disk.empty()
        way.host = await asyncio.wait_for(starting, 10)
        assert await send(way, 2, ("total",)) == [5]
        way.host.close()
