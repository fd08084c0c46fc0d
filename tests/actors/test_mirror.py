import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import mirror, storage_trouble, wire
from actors.errors import StorageFull
from actors.host import Host
from actors.mechanism import Row
from actors.terms import Copy, Lost, Standing, choose, copies, standing_of
from tests.actors.counter import CALENDAR, Sum
from tests.actors.mirror_world import MirrorWorld, Primary, until
from tests.full_disk import empty_store, fill_store

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby that was lost is looked for again soon."""
    monkeypatch.setattr(mirror, "_AGAIN_S", 0.005)
    monkeypatch.setattr(mirror, "_PING_S", 0.02)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MirrorWorld]:
    """See `MirrorWorld`."""
    made = MirrorWorld(tmp_path)
    yield made
    made.standby.close()


async def joined(world: MirrorWorld) -> Primary:
    """A primary that has a standby."""
    primary = world.primary()
    await until(lambda: world.term.standby is not None)
    await until(lambda: primary.mirror.protection.startswith("standby"))
    return primary


def rows(store: Any) -> dict[tuple[str, str], Any]:
    """All live rows but what is new with each life."""
    return {(row.table, row.key): row.value for row in store.load() if row.table != "_meta"}


async def test_a_standby_comes_to_where_its_primary_is(world: MirrorWorld) -> None:
    """What was there before it, and what is done while it is brought up."""
    assert world.line is not None
    line, world.line = world.line, None
    primary = world.primary()
    for n in range(50):
        await primary.add(1)
        primary.send("d", n + 1, ("display", f"key {n}", n))
    world.line = line
    while world.term.standby is None:
        await primary.add(1)
    total = (await primary.add(0))[0].total
    copy = world.standby._fed["counter"].store
    assert rows(copy) == rows(primary.host.store)
    assert copy.load()
    assert total >= 50
    await primary.kill()


async def test_nothing_is_told_before_the_standby_has_it(world: MirrorWorld) -> None:
    """I8: the reply waits, and comes with the standby's answer."""
    primary = await joined(world)
    assert world.line is not None
    world.line.gate.clear()
    told = primary.add(5)
    await asyncio.sleep(0.05)
    assert not told.done()
    world.line.gate.set()
    assert await told == [Sum(5)]
    await primary.kill()


async def test_a_standby_that_is_lost_is_done_without(world: MirrorWorld) -> None:
    """And a new one is found when there is one."""
    primary = await joined(world)
    assert world.line is not None
    world.line.cut = True
    assert await primary.add(5) == [Sum(5)]
    assert world.term.standby is None
    assert primary.mirror.protection == "store only"
    world.line.cut = False
    await until(lambda: world.term.standby is not None)
    assert await primary.add(1) == [Sum(6)]
    await primary.kill()


async def test_a_standby_that_was_put_in_charge_ends_the_primary(world: MirrorWorld) -> None:
    """I10: what the old one does from then on is told to nobody."""
    primary = await joined(world)
    assert await primary.add(5) == [Sum(5)]
    assert world.promote()
    told = primary.add(100)
    await until(lambda: primary.over)
    assert not told.done()
    await primary.kill()
    successor = world.primary()
    assert await successor.send("new", 1, ("total",)) == [5]
    await successor.kill()


async def test_who_goes_on_alone_first_can_not_be_replaced(world: MirrorWorld) -> None:
    """I10: the other half of the same."""
    primary = await joined(world)
    before = world.term
    assert world.line is not None
    world.line.cut = True
    assert await primary.add(5) == [Sum(5)]
    assert before.standby is not None
    assert world.terms.follow("counter", before, before.standby, None) is None
    await primary.kill()


async def test_a_restarted_primary_keeps_its_standby(world: MirrorWorld) -> None:
    """What it had committed and not sent arrives there before anything is told."""
    primary = await joined(world)
    assert world.line is not None
    world.line.gate.clear()
    lost = primary.add(5)
    await primary.kill()
    assert not lost.done()
    number = world.term.number
    again = world.primary()
    repeated = again.send("c", 1, ("add", 5))
    await asyncio.sleep(0.02)
    assert not repeated.done()
    world.line.gate.set()
    assert await repeated == [Sum(5)]
    assert world.term.number == number
    assert rows(world.standby._fed["counter"].store) == rows(again.host.store)
    await again.kill()


async def test_a_primary_whose_disk_has_lost_something_makes_way(world: MirrorWorld) -> None:
    """I8: the standby is ahead, so it is put in charge."""
    primary = await joined(world)
    await primary.add(1)
    await primary.kill()
    path = world.folder / "primary" / "counter.sqlite"
    old = path.read_bytes()
    wal = path.with_name("counter.sqlite-wal")
    assert not wal.exists() or not wal.stat().st_size
    later = world.primary()
    later.number = 1
    await until(lambda: later.mirror.protection.startswith("standby"))
    assert await later.add(10) == [Sum(11)]
    await later.kill()
    path.write_bytes(old)
    behind = world.primary()
    unsafe = behind.send("x", 1, ("total",))
    await until(lambda: behind.over)
    assert not unsafe.done()
    await behind.kill()
    world.standby.release("counter")
    assert world.term.primary == Copy("s", "standby", "counter.1.sqlite")
    successor = world.primary()
    assert await successor.send("y", 1, ("total",)) == [11]
    await successor.kill()


async def test_a_standby_joins_a_primary_that_never_rests(world: MirrorWorld) -> None:
    """While it gets what it lacks there is always something more."""
    primary = world.primary()
    async with asyncio.timeout(5.0):
        while world.term.standby is None:
            primary.add(1)
            await asyncio.sleep(0)
    total = (await primary.add(0))[0].total
    assert total == primary.number - 1
    assert rows(world.standby._fed["counter"].store) == rows(primary.host.store)
    await primary.kill()


async def test_a_disk_that_is_full_silences_nobody(
    world: MirrorWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8: neither the batch nor where the copy stands can be written; callers are told so."""
    monkeypatch.setattr(storage_trouble, "PAUSE_S", 0.02)
    primary = await joined(world)
    line, world.line = world.line, None
    draft = world.folder / "primary" / "counter.draft"
    draft.mkdir()
    fill_store(primary.host)
    [refused] = await asyncio.wait_for(primary.add(5), 5.0)
    assert isinstance(refused, StorageFull)
    assert world.term.standby is None
    empty_store(primary.host)
    draft.rmdir()
    world.line = line
    await until(lambda: primary.host.info()["storage"] == "ok")
    await until(lambda: primary.mirror.protection.startswith("standby"))
    assert await primary.add(1) == [Sum(1)]
    await primary.kill()


async def test_what_is_committed_is_shipped_though_its_head_can_not_be_written(
    world: MirrorWorld,
) -> None:
    """I8: the batch counts, and is answered when it comes again."""
    primary = await joined(world)
    store = primary.host.store
    head, store._head = store._head, os.open(world.folder, os.O_RDONLY)
    with pytest.raises(OSError, match="descriptor"):
        store.commit([Row("sums", "all", 7)], (1, "head"))
    assert primary.mirror._sent > primary.mirror._arrived
    os.close(store._head)
    store._head = head
    await until(lambda: primary.mirror._sent == primary.mirror._arrived)
    assert rows(world.standby._fed["counter"].store) == rows(store)
    await primary.kill()


async def test_a_silent_cluster_does_not_fill_the_memory(world: MirrorWorld) -> None:
    """The standby is lost, and nobody lets the primary go on alone: it waits, and keeps little."""
    primary = await joined(world)
    assert world.line is not None
    world.line.cut = True
    follow = world.terms.follow

    def silent(*arguments: Any) -> Any:
        raise TimeoutError

    world.terms.follow = silent  # type: ignore[method-assign]
    told = [primary.add(1 << n) for n in range(20)]
    await until(lambda: primary.mirror._doubtful)
    for n in range(20, 40):
        told.append(primary.add(1 << n))
    await asyncio.sleep(0.02)
    assert not any(one.done() for one in told)
    assert not primary.mirror._unsent
    world.terms.follow = follow  # type: ignore[method-assign]
    assert await told[-1] == [Sum((1 << 40) - 1)]
    world.line.cut = False
    await until(lambda: primary.mirror.protection.startswith("standby"))
    assert rows(world.standby._fed["counter"].store) == rows(primary.host.store)
    await primary.kill()


async def test_a_copy_that_has_a_standby_says_so_before_it_counts(world: MirrorWorld) -> None:
    """I8: else a cluster without memory, where the standby is gone, would begin from it."""
    path = world.folder / "primary" / "counter.sqlite"
    primary = world.primary()
    said: list[Standing] = []
    follow = world.terms.follow

    def dies(*arguments: Any) -> Any:
        said.append(standing_of(path))
        return follow(*arguments)

    world.terms.follow = dies  # type: ignore[method-assign]
    await until(lambda: world.term.standby is not None)
    assert said == [Standing(1, "primary", "standby")]
    await primary.kill()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.sampled_from(
            [
                "add",
                "add",
                "add",
                "cut",
                "deaf",
                "mend",
                "kill",
                "promote",
                "later",
                "restart standby",
            ]
        ),
        max_size=25,
    )
)
async def test_whatever_fails_nothing_acknowledged_is_lost(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """I8, I10: by the sum of what was told, after any order of faults and takeovers.

    Each amount is a bit of its own, so that the sum says exactly what was lost or done twice.
    """
    world = MirrorWorld(tmp_path_factory.mktemp("mirror"))
    line = world.line
    assert line is not None
    primary = world.primary()
    asked: list[tuple[int, asyncio.Future[Any]]] = []
    callers = 0
    moved = False
    for n, step in enumerate(steps):
        match step:
            case "add":
                callers += 1
                asked.append((1 << n, primary.send(f"c{callers}", 1, ("add", 1 << n))))
            case "cut":
                line.cut = True
            case "deaf":
                line.deaf = True
            case "mend":
                line.cut = line.deaf = False
            case "kill":
                await primary.kill()
                primary = world.primary()
            case "restart standby":
                world.standby.close()
            case "promote" if world.term.standby is not None and not moved:
                moved = True
                if world.promote():
                    await primary.kill()
                    primary = world.primary()
                    world.line = None
            case "later":
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)
    line.cut = line.deaf = False
    await asyncio.sleep(0.02)
    total: int = (await asyncio.wait_for(primary.send("last", 1, ("total",)), 5.0))[0]
    told = [amount for amount, future in asked if future.done()]
    assert all(total & amount for amount in told)
    assert total | sum(amount for amount, _ in asked) == sum(amount for amount, _ in asked)
    await primary.kill()
    world.standby.close()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.sampled_from(["add", "add", "cut", "mend", "kill", "promote", "later", "a moment"]),
        max_size=20,
    ),
    st.sampled_from(["nobody", "primary", "standby"]),
)
async def test_a_cluster_without_memory_never_begins_from_what_is_behind(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], missing: str
) -> None:
    """I8: by what is written beside the copies, whenever everything ended; or it waits."""
    world = MirrorWorld(tmp_path_factory.mktemp("mirror"))
    line = world.line
    assert line is not None
    primary = world.primary()
    asked: list[tuple[int, asyncio.Future[Any]]] = []
    for n, step in enumerate(steps):
        match step:
            case "add":
                asked.append((1 << n, primary.send(f"c{n}", 1, ("add", 1 << n))))
            case "cut" | "mend":
                line.cut = step == "cut"
            case "kill":
                await primary.kill()
                primary = world.primary()
            case "promote" if world.term.standby is not None and world.line is not None:
                if world.promote():
                    await primary.kill()
                    primary = world.primary()
                    world.line = None
            case "later":
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)
    told = [amount for amount, future in asked if future.done()]
    await primary.kill()
    world.standby.close()
    found = [
        one
        for machine in {"primary", "standby"} - {missing}
        for one in copies(world.folder / machine, "counter", machine, machine)
    ]
    try:
        chosen = choose(found)
    except Lost:
        return
    if chosen is None:
        assert missing == "primary"
        return
    path = world.folder / chosen.copy.machine / chosen.copy.file
    host = Host(CALENDAR, str(path), "another")
    payload = wire.pack_batch("last", 1, [("total", ())])
    [total] = wire.unpack_reply(host.consult(payload)).replies
    host.close()
    assert all(total & amount for amount in told)
