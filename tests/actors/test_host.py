import asyncio
import pickle
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors import callers, clock, wire
from actors import host as module
from actors.errors import Conflict, InvalidRequest, RaygateError
from actors.host import Host
from actors.limits import Take
from actors.mechanism import Gone, Pending, Row
from actors.replies import OutOfStep, aged
from actors.transport import InProcess, TransportError
from actors.watchers import News
from tests.actors.counter import CALENDAR, FACTORY, Page, Sum

pytestmark = pytest.mark.anyio

S = 1_000_000_000
HOUR = 3600 * S


class World:
    """One host on one path, which can be restarted; callers number their batches by hand."""

    def __init__(self, folder: Path, factory: str = FACTORY) -> None:
        self.path = folder / "counter.sqlite"
        self.factory = factory
        self.numbers: dict[str, int] = {}
        self.host = Host(factory, str(self.path), "claim")

    def restart(self, claim: str = "claim") -> None:
        self.host.close()
        self.host = Host(self.factory, str(self.path), claim)

    async def send(self, caller: str, number: int, *items: tuple[Any, ...]) -> Any:
        """The replies to a batch of (command, *args)."""
        payload = wire.pack_batch(caller, number, [(name, tuple(args)) for name, *args in items])
        reply = wire.unpack_reply(await InProcess(self.host).consult(payload))
        return reply.replies

    async def ask(self, *items: tuple[Any, ...], caller: str = "c") -> Any:
        """The replies to the caller's next batch."""
        self.numbers[caller] = self.numbers.get(caller, 0) + 1
        return await self.send(caller, self.numbers[caller], *items)

    async def watch(
        self, cursor: int = 0, incarnation: tuple[int, int] = (0, 0), caller: str = "c"
    ) -> News:
        payload = pickle.dumps((caller, incarnation, cursor))
        news: News = pickle.loads(await InProcess(self.host).watch(payload))
        return news

    def stored(self, table: str) -> dict[str, Any]:
        """The rows of one table, as a second reader would find them after a kill."""
        return {row.key: row.value for row in self.host.store.load() if row.table == table}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """See `World`."""
    made = World(tmp_path)
    yield made
    made.host.close()


@pytest.fixture
async def calendar(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose mechanism goes by the calendar, durably."""
    made = World(tmp_path, CALENDAR)
    yield made
    made.host.close()


class BrokenDisk:
    """Makes a host's commits (and, if wanted, its reads) fail, as a full disk does."""

    def __init__(self, patch: pytest.MonkeyPatch, host: Host) -> None:
        self._patch, self._store = patch, host.store
        self._commit, self._load = self._store.commit, self._store.load
        self.fails = self.fails_to_read = False
        patch.setattr(self._store, "commit", self.commit)
        patch.setattr(self._store, "load", self.load)

    def commit(self, *args: Any) -> None:
        if self.fails:
            raise sqlite3.OperationalError("database or disk is full")
        self._commit(*args)

    def load(self) -> Any:
        if self.fails_to_read:
            raise sqlite3.OperationalError("disk I/O error")
        return self._load()


# Batches.


async def test_a_reply_is_given_only_after_its_commit(world: World) -> None:
    """I8: what was acknowledged is in the store at that moment."""
    [reply] = await world.ask(("add", 5))
    assert reply == Sum(5)
    assert world.stored("sums") == {"all": 5}


async def test_items_of_a_batch_run_in_order(world: World) -> None:
    """Each sees what those before it did."""
    assert await world.ask(("add", 1), ("add", 2), ("total",)) == [Sum(1), Sum(3), 3]


async def test_what_may_be_asked_again_is_not_stored(tmp_path: Path) -> None:
    """After a kill its reply is Gone, and asking anew under the same id finds the same."""
    world = World(tmp_path, "actors.rate_limiter:RateLimiter")
    limit = {"name": "l", "scope": "key", "unit": "requests"}
    policy = {"limits": [{**limit, "rate": 1, "period_ns": HOUR, "burst": 2}]}
    ask = ("acquire", "t", (Take("l", "s", 1),), 1, 0)
    await world.ask(("configure", "1", policy))
    first = await world.send("c", 2, ask, ("settle", "unknown", None))
    assert await world.send("c", 2, ask, ("settle", "unknown", None)) == first
    world.restart()
    assert await world.send("c", 2, ask, ("settle", "unknown", None)) == [Gone(), None]
    [again] = await world.send("c", 3, ask)
    assert again.at_ns == first[0].at_ns
    world.host.close()


async def test_a_resent_batch_is_answered_from_memory(world: World) -> None:
    """Nothing runs twice, whatever comes in between from others."""
    first = await world.send("c", 1, ("add", 5))
    await world.send("d", 1, ("add", 1))
    assert await world.send("c", 1, ("add", 5)) == first
    assert await world.send("c", 2, ("total",)) == [6]


async def test_a_resent_batch_is_answered_after_a_restart(world: World) -> None:
    """I8: from its row in the same transaction."""
    first = await world.send("c", 1, ("add", 5), ("refuse",), ("total",))
    world.restart()
    again = await world.send("c", 1, ("add", 5), ("refuse",), ("total",))
    assert again[0] == first[0] == Sum(5)
    assert vars(again[1]) == vars(first[1])
    assert await world.send("c", 2, ("total",)) == [5]


async def test_a_reply_too_large_to_keep_is_gone_after_a_restart(world: World) -> None:
    """Before that it is answered from memory; its command has run once either way."""
    first = await world.send("c", 1, ("page", 10))
    assert first == await world.send("c", 1, ("page", 10)) == [Page(bytes(10))]
    world.restart()
    assert await world.send("c", 1, ("page", 10)) == [Gone()]
    assert await world.send("c", 2, ("total",)) == [1]


async def test_durations_in_a_resent_reply_have_aged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait of three seconds, told again two seconds later, is one of one second."""
    assert await world.send("c", 1, ("add", 1, 3 * S)) == [Sum(1, 3 * S)]
    later = time.monotonic_ns() + 2 * S
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    for _ in range(2):
        [reply] = await world.send("c", 1, ("add", 1, 3 * S))
        assert 0.9 * S <= reply.retry_after_ns <= S
        world.restart()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Sum(1, 5), Sum(1, 2)),
        (Sum(1, 2), Sum(1, 0)),
        (Sum(1, None), Sum(1, None)),
        (Pending(10), Pending(7)),
        (7, 7),
        (None, None),
        ((1, 2), (1, 2)),
    ],
)
def test_ageing_touches_durations_only(reply: Any, expected: Any) -> None:
    """Known answers, three nanoseconds later."""
    assert aged(reply, 3) == expected


@pytest.mark.parametrize("number", [0, 2, 7])
async def test_unknown_caller_must_begin_at_one(world: World, number: int) -> None:
    """Its earlier batches, if any, are forgotten: it has to start anew."""
    assert await world.send("c", number, ("add", 1)) == OutOfStep(0)
    assert await world.send("d", 1, ("total",)) == [0]


async def test_a_batch_out_of_its_turn_is_refused(world: World) -> None:
    """Neither an old copy that the network kept back, nor a jump ahead, runs."""
    for number in (1, 2):
        await world.send("c", number, ("add", 1))
    for number in (1, 4, 0):
        assert await world.send("c", number, ("add", 1)) == OutOfStep(2)
    assert await world.send("c", 3, ("total",)) == [2]


# What goes wrong within a batch.


async def test_a_refusal_is_the_reply_of_its_item_alone(world: World) -> None:
    """The error arrives with its fields; its neighbours succeed."""
    one, error, two = await world.ask(("add", 1), ("refuse",), ("add", 1))
    assert (one, two) == (Sum(1), Sum(2))
    assert type(error) is Conflict
    assert (error.code, error.param, error.retry_after_s) == ("no", "amount", 2.5)


@pytest.mark.parametrize(
    "bad",
    [
        ("break_half_way",),
        ("add",),
        ("add", "a word"),
        ("spoil_row",),
        ("spoil_reply",),
        ("everywhere",),
    ],
)
async def test_a_command_that_breaks_is_undone_and_alone(world: World, bad: Any) -> None:
    """Others in its batch succeed; nothing of it is left in memory or in the store."""
    await world.ask(("display", "x", "whole"))
    batch = [("add", 1), bad, ("add", 2), bad, ("total",)]
    one, error, two, other, total = await world.ask(*batch)
    assert (one, two, total) == (Sum(1), Sum(3), 3)
    assert type(error) is type(other) is RaygateError
    assert error.status == 500
    assert bad[0] in str(error)
    assert world.stored("sums") == {"all": 3}
    world.restart()
    assert await world.ask(("total",)) == [3]
    assert (await world.watch()).views == [("x", "whole")]


async def test_an_unknown_command_is_the_callers_mistake(world: World) -> None:
    """Only what a mechanism lists can be called: not its other methods."""
    for command in ("load", "take_changes", "nothing", "_reload"):
        [error] = await world.ask((command,))
        assert type(error) is InvalidRequest


async def test_rows_of_a_mechanisms_tables_can_be_paged(world: World) -> None:
    """And a missing table is an error of that item."""
    await world.ask(("add", 4))
    rows, error = await world.ask(("rows", "sums", "", 10), ("rows", "none", "", 10))
    assert rows == [Row("sums", "all", 4)]
    assert type(error) is InvalidRequest
    world.restart()
    number = world.numbers["c"]
    again = await world.send("c", number, ("rows", "sums", "", 10), ("rows", "none", "", 10))
    assert again == [Gone(), Gone()]


# A disk that fails.


async def test_a_failed_commit_loses_and_doubles_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8: the caller gets no reply, state is as before, and the same batch runs once later."""
    disk = BrokenDisk(monkeypatch, world.host)
    await world.ask(("add", 1), ("display", "x", 1))
    disk.fails = True
    for _ in range(3):
        with pytest.raises(TransportError, match="full"):
            await world.send("c", 2, ("add", 10), ("wait", "t", 0))
        with pytest.raises(TransportError, match="full"):
            await world.send("d", 1, ("add", 100))
    disk.fails = False
    assert await world.send("c", 2, ("add", 10), ("waiting",)) == [Sum(11), []]
    assert await world.send("d", 1, ("add", 100)) == [Sum(111)]
    assert world.stored("sums") == {"all": 111}


async def test_nothing_is_served_before_state_could_be_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk can't be read either, memory holds what was never committed."""
    disk = BrokenDisk(monkeypatch, world.host)
    await world.ask(("add", 1), ("display", "x", 1))
    known = await world.watch()
    disk.fails = disk.fails_to_read = True
    with pytest.raises(TransportError):
        await world.send("c", 2, ("add", 10), ("display", "x", 2))
    disk.fails = False
    for _ in range(2):
        with pytest.raises(TransportError):
            await world.send("d", 1, ("total",))
        with pytest.raises(TransportError):
            await world.watch(0)
    disk.fails_to_read = False
    assert await world.send("d", 1, ("total",)) == [1]
    assert dict((await world.watch(known.cursor, known.incarnation)).views) == {"x": 1}


async def test_a_commit_that_succeeded_but_broke_afterwards_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Say the head could not be written: results and views reach their watchers all the same."""
    await world.ask(("wait", "t", HOUR), ("display", "gone", 1))
    known = await world.watch()
    assert dict(known.views) == {"gone": 1}
    commit = world.host.store.commit

    def commit_and_break(*args: Any) -> None:
        commit(*args)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.host.store, "commit", commit_and_break)
    batch = (("add", 1), ("serve", "t", "served"), ("hide", "gone"), ("display", "new", 2))
    assert await world.send("c", 2, *batch) == [Sum(1), True, None, None]
    monkeypatch.setattr(world.host.store, "commit", commit)
    assert await world.send("c", 2, *batch) == [Sum(1), True, None, None]
    news = await world.watch(known.cursor, known.incarnation)
    assert news.results == [("t", "served")]
    assert dict(news.views) == {"gone": None, "new": 2}


async def test_time_goes_on_after_a_disk_has_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticket whose time comes while nothing can be committed is answered afterwards."""
    monkeypatch.setattr(module, "_RELOAD_PAUSE_S", 0.01)
    disk = BrokenDisk(monkeypatch, world.host)
    await world.ask(("wait", "t", S // 50))
    known = await world.watch()
    disk.fails = disk.fails_to_read = True
    await asyncio.sleep(0.06)
    disk.fails = disk.fails_to_read = False
    news = await asyncio.wait_for(world.watch(known.cursor, known.incarnation), 5)
    assert news.results == [("t", "late")]


# Results and views.


async def test_a_late_result_survives_a_restart_until_it_has_arrived(world: World) -> None:
    """I8: it is told again by the next process, and forgotten once it was acknowledged."""
    assert await world.ask(("wait", "t|1", HOUR), ("serve", "t|1", [1, 2])) == [Pending(HOUR), True]
    assert (await world.watch()).results == [("t|1", [1, 2])]
    world.restart()
    news = await world.watch(99, (1, 0))
    assert news.results == [("t|1", [1, 2])]
    await world.ask(("total",))
    assert len(world.stored("_results")) == 1
    assert (await world.watch(news.cursor, news.incarnation)).results == []
    await world.ask(("total",))
    assert world.stored("_results") == {}


async def test_a_ticket_survives_a_restart(world: World) -> None:
    """And time brings its result, though nobody but its watcher calls."""
    await world.ask(("wait", "t", S // 20))
    world.restart()
    news = await world.watch()
    while not news.results:
        news = await world.watch(news.cursor, news.incarnation)
    assert news.results == [("t", "late")]


async def test_an_id_that_was_acknowledged_may_come_again(world: World) -> None:
    """Its new result is stored, though the old one is dropped by the same transaction."""
    await world.ask(("wait", "t", HOUR), ("serve", "t", 1))
    first = await world.watch()
    await world.watch(first.cursor, first.incarnation)
    await world.ask(("wait", "t", HOUR), ("serve", "t", 2))
    world.restart()
    assert (await world.watch()).results == [("t", 2)]


async def test_watch_returns_well_within_a_views_life(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view never gets too old between a watch and the next: two of them fit, and more."""
    news = await world.watch()
    began = time.monotonic_ns()
    await world.watch(news.cursor, news.incarnation)
    assert 2 * (time.monotonic_ns() - began) < module.VIEW_NS


async def test_a_restarted_host_gives_a_snapshot(world: World) -> None:
    """Of the same entries, under a new incarnation."""
    await world.ask(("display", "x", 1), ("display", "y", 2))
    before = await world.watch()
    world.restart()
    after = await world.watch(before.cursor, before.incarnation)
    assert after.snapshot
    assert sorted(after.views) == sorted(before.views)
    assert (before.incarnation, after.incarnation) == ((1, 0), (1, 1))


async def test_a_barrier_covers_the_batch_that_raised_it(world: World) -> None:
    """A change and `everywhere` in one batch: the barrier is behind the change."""
    await world.ask(("display", "x", 1))
    before = await world.watch(caller="other")
    parked = asyncio.create_task(world.watch(before.cursor, before.incarnation, "other"))
    await asyncio.sleep(0)
    assert await world.ask(("everywhere", "e"), ("display", "x", 2)) == [Pending(2 * S), None]
    mine = await world.watch()
    assert mine.results == []
    told = await parked
    assert dict(told.views) == {"x": 2}
    await world.watch(mine.cursor, mine.incarnation)
    again = asyncio.create_task(world.watch(told.cursor, told.incarnation, "other"))
    assert (await world.watch(mine.cursor, mine.incarnation)).results == [("e", True)]
    await again


async def test_a_barrier_of_a_batch_that_failed_does_not_stand(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised when its batch is committed, once."""
    disk = BrokenDisk(monkeypatch, world.host)
    await world.ask(("total",))
    disk.fails = True
    with pytest.raises(TransportError):
        await world.send("c", 2, ("everywhere", "e"))
    disk.fails = False
    await world.send("d", 1, ("total",))
    assert (await world.watch()).results == []
    await world.send("c", 2, ("everywhere", "e"), ("break_half_way",))
    news = await world.watch()
    while not news.results:
        news = await world.watch(news.cursor, news.incarnation)
    assert news.results == [("e", True)]


async def test_a_barrier_at_a_restarted_host_waits_for_those_who_have_not_found_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their views of its earlier life live on for a while, though it knows no watcher yet."""
    monkeypatch.setattr(module, "VIEW_NS", S // 5)
    await world.ask(("everywhere", "now"))
    assert (await world.watch()).results == [("now", True)]
    world.restart()
    began = time.monotonic()
    await world.ask(("display", "x", 1), ("everywhere", "later"))
    news = await world.watch()
    while not news.results:
        news = await world.watch(news.cursor, news.incarnation)
    assert news.results == [("later", True)]
    assert time.monotonic() - began > 0.15


# Epochs, callers, time.


async def test_a_host_that_is_not_reached_for_a_while_waits_from_then_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successor on another node; the earlier life may have shown something until now."""
    monkeypatch.setattr(module, "VIEW_NS", S // 5)
    world.restart()
    await asyncio.sleep(0.25)
    began = time.monotonic()
    await world.ask(("everywhere", "all"))
    news = await world.watch()
    while not news.results:
        news = await world.watch(news.cursor, news.incarnation)
    assert time.monotonic() - began > 0.15


async def test_restarts_and_epochs_are_counted(world: World) -> None:
    """A new process counts as a restart, a new claim as a new epoch."""
    seen = []
    for claim in ("claim", "claim", "other", "other", "claim"):
        world.restart(claim)
        info = world.host.info()
        seen.append((info["epoch"], info["restarts"]))
    assert seen == [(1, 1), (1, 2), (2, 0), (2, 1), (3, 0)]


async def test_callers_are_bounded_by_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has been silent longest goes first, after a restart as before."""
    monkeypatch.setattr(callers, "_MAX_CALLERS", 3)
    for caller in "zyxw":
        await world.ask(("add", 1), caller=caller)
    world.restart()
    await world.ask(("add", 1), caller="y")
    await world.ask(("add", 1), caller="v")
    await world.ask(("add", 1), caller="y")
    assert world.stored("_callers").keys() <= set("ywvx")
    assert {"v", "y"} <= world.stored("_callers").keys()
    assert isinstance(await world.send("z", 2, ("add", 1)), OutOfStep)


async def test_a_caller_that_was_silent_for_days_is_still_remembered_for_its_last_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch that ends its silence is stored, though the one before was old enough to go."""
    await world.ask(("add", 1))
    later = time.monotonic_ns() + 72 * HOUR
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    assert await world.send("c", 2, ("add", 1)) == [Sum(2)]
    world.restart()
    assert await world.send("c", 2, ("add", 1)) == [Sum(2)]
    assert await world.send("c", 3, ("total",)) == [2]


async def test_silent_callers_are_forgotten_after_two_days(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No deadline can bring them back; their rows go as well."""
    await world.ask(("add", 1), caller="dead")
    later = time.monotonic_ns() + 49 * HOUR
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    await world.ask(("add", 1), caller="live")
    await world.ask(("add", 1), caller="live")
    assert world.stored("_callers").keys() == {"live"}


async def test_a_mechanism_that_is_always_due_does_not_spin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time comes a thousand times a second at most, and costs no commit."""
    commits = 0
    commit = world.host.store.commit

    def counted(*args: Any) -> None:
        nonlocal commits
        commits += 1
        commit(*args)

    monkeypatch.setattr(world.host.store, "commit", counted)
    await world.ask(("spin",))
    before, committed = world.host._mechanism.advanced, commits  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)
    advanced = world.host._mechanism.advanced - before  # type: ignore[attr-defined]
    assert 2 <= advanced <= 500
    assert commits == committed


async def test_an_idle_host_writes_nothing(world: World) -> None:
    """Watching does not wear the disk."""
    news = await world.watch()
    stamp = world.stored("_meta")["now"]
    await world.watch(news.cursor, news.incarnation)
    assert world.stored("_meta")["now"] == stamp


async def test_a_closed_host_answers_nobody_and_has_no_timer(world: World) -> None:
    """Its store is free for the next one at once; closing it again does no harm."""
    await world.ask(("wait", "t", S // 100))
    closed = world.host
    world.restart()
    for verb in (InProcess(closed).consult, InProcess(closed).watch):
        with pytest.raises(TransportError, match="closed"):
            await verb(pickle.dumps(("c", 2, [])))
    closed.close()
    await asyncio.sleep(0.03)
    assert await world.ask(("total",)) == [0]


async def test_stamps_do_not_go_back_when_the_calendar_does(
    calendar: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set back: tickets stand still, nothing breaks; set forward: they come with the next tick."""
    there = time.time_ns()
    today = there
    monkeypatch.setattr(time, "time_ns", lambda: today)
    await calendar.ask(("wait", "t", HOUR))
    today = there - 24 * HOUR
    calendar.restart()
    await calendar.ask(("wait", "u", 2 * HOUR))
    assert calendar.stored("tickets") == {"t": ["c", there + HOUR], "u": ["c", there + 2 * HOUR]}
    today = there + HOUR
    news = await calendar.watch()
    calendar.host.tick()
    news = await calendar.watch(news.cursor, news.incarnation)
    assert news.results == [("t", "late")]
    assert (await calendar.ask(("waiting",))) == [["u"]]


async def test_a_long_sleep_does_not_trust_the_calendar(calendar: World) -> None:
    """However far off the next event is, the host looks once a minute."""
    await calendar.ask(("wait", "t", 1000 * HOUR))
    left_s = calendar.host._alarm.left_s()
    assert left_s is not None
    assert left_s < 61


async def test_steady_time_goes_on_while_the_process_is_restarted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same boot the ticket's time includes the restart; after a reboot it does not."""
    await world.ask(("wait", "t", HOUR), ("wait", "u", 3 * HOUR))
    later = time.monotonic_ns() + 2 * HOUR
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    world.restart()
    assert await world.ask(("waiting",)) == [["u"]]
    later += 2 * HOUR
    monkeypatch.setattr(clock, "boot_id", lambda: "another")
    world.restart()
    assert await world.ask(("waiting",)) == [["u"]]
