import asyncio
import time
from typing import Any

import pytest

from actors import watchers as module
from actors.mechanism import Result, Row
from actors.watchers import News, Watchers

pytestmark = pytest.mark.anyio

MINE = (1, 0)
S = 1_000_000_000


class Shown:
    """Watchers of a dictionary."""

    def __init__(self, **entries: Any) -> None:
        self.entries = entries
        self.watchers = Watchers()
        self.watchers.changed(entries)

    async def ask(
        self,
        cursor: int = 0,
        caller: str = "a",
        theirs: tuple[int, int] = MINE,
        patience_s: float = 0.02,
    ) -> News:
        return await self.watchers.news(caller, MINE, theirs, cursor, patience_s, self.entries.get)

    async def known(self, caller: str = "a") -> int:
        """The cursor of a caller that has seen everything."""
        return (await self.ask(0, caller, (0, 0))).cursor

    def set(self, key: str, value: Any) -> None:
        self.entries[key] = value
        self.watchers.changed([key])
        self.watchers.wake()


def acknowledged(shown: Shown) -> list[str]:
    """Keys of the rows that have been forgotten since the last time."""
    return [key for table, key, value in shown.watchers.take_acknowledged() if value is None]


async def test_first_watch_is_a_snapshot_at_once() -> None:
    """All entries, and the word that there are no others."""
    shown = Shown(x=1, y=2)
    news = await shown.ask(theirs=(0, 0), patience_s=60)
    assert dict(news.views) == {"x": 1, "y": 2}
    assert news.snapshot
    assert news.incarnation == MINE


async def test_a_later_watch_brings_only_what_changed() -> None:
    """Deltas, and None for what is gone."""
    shown = Shown(x=1, y=2, z=3)
    cursor = await shown.known()
    shown.set("y", 5)
    shown.set("z", None)
    news = await shown.ask(cursor)
    assert dict(news.views) == {"y": 5, "z": None}
    assert not news.snapshot


async def test_nothing_new_is_told_after_the_patience_only() -> None:
    """A watch parks, and returns empty."""
    shown = Shown()
    cursor = await shown.known()
    began = time.monotonic()
    news = await shown.ask(cursor, patience_s=0.05)
    assert time.monotonic() - began >= 0.04
    assert (news.views, news.results, news.snapshot) == ([], [], False)


async def test_a_parked_watch_returns_when_something_changes() -> None:
    """It need not wait for its patience."""
    shown = Shown(x=1)
    cursor = await shown.known()
    parked = asyncio.create_task(shown.ask(cursor, patience_s=60))
    await asyncio.sleep(0)
    shown.set("x", 2)
    assert dict((await asyncio.wait_for(parked, 5)).views) == {"x": 2}


async def test_a_result_wakes_only_its_caller() -> None:
    """Others stay parked, and are not told."""
    shown = Shown()
    one = asyncio.create_task(shown.ask(await shown.known("a"), "a", patience_s=60))
    other = asyncio.create_task(shown.ask(await shown.known("b"), "b", patience_s=0.05))
    await asyncio.sleep(0)
    shown.watchers.answer("a", "id", "reply")
    shown.watchers.wake()
    assert (await asyncio.wait_for(one, 5)).results == [("id", "reply")]
    assert (await other).results == []


async def test_results_are_told_until_the_cursor_acknowledges_them() -> None:
    """A lost reply loses nothing; what has arrived is forgotten, on disk as well."""
    shown = Shown()
    cursor = await shown.known()
    shown.watchers.answer("a", "1", "x")
    assert (await shown.ask(cursor)).results == [("1", "x")]
    shown.watchers.answer("a", "2", "y")
    news = await shown.ask(cursor)
    assert news.results == [("1", "x"), ("2", "y")]
    assert acknowledged(shown) == []
    assert (await shown.ask(news.cursor)).results == []
    assert acknowledged(shown) == ["a|1", "a|2"]
    assert acknowledged(shown) == []


async def test_an_id_that_comes_twice_is_forgotten_with_its_second_result() -> None:
    """The first one's arrival leaves the row, which is the second one's by then."""
    shown = Shown()
    shown.watchers.answer("a", "recall x", 1)
    news = await shown.ask()
    shown.watchers.answer("a", "recall x", 2)
    news = await shown.ask(news.cursor)
    assert news.results == [("recall x", 2)]
    assert acknowledged(shown) == []
    await shown.ask(news.cursor)
    assert acknowledged(shown) == ["a|recall x"]


async def test_a_second_watch_of_one_caller_ends_the_first() -> None:
    """A resend after a lost reply leaves nothing parked for ever."""
    shown = Shown()
    cursor = await shown.known()
    first = asyncio.create_task(shown.ask(cursor, patience_s=60))
    await asyncio.sleep(0)
    second = asyncio.create_task(shown.ask(cursor, patience_s=60))
    await asyncio.wait_for(first, 5)
    shown.set("x", 1)
    assert dict((await asyncio.wait_for(second, 5)).views) == {"x": 1}


async def test_an_unknown_caller_gets_a_snapshot_whatever_its_cursor() -> None:
    """What it has missed may have been forgotten since."""
    shown = Shown(x=1)
    news = await shown.ask(10**6, "stranger")
    assert news.snapshot
    assert dict(news.views) == {"x": 1}


async def test_entries_that_all_know_to_be_gone_are_forgotten() -> None:
    """A thousand entries that come and go leave nothing behind."""
    shown = Shown()
    cursor = await shown.known("a")
    for number in range(1000):
        shown.set(str(number), 1)
        shown.set(str(number), None)
    await shown.known("b")
    assert len(shown.watchers._changed) == 1000
    gone = await shown.ask(cursor, "a")
    assert dict(gone.views) == {str(number): None for number in range(1000)}
    await shown.ask(gone.cursor, "a")
    await shown.ask(gone.cursor, "b")
    snapshot = await shown.ask(0, "c")
    assert (snapshot.snapshot, snapshot.views) == (True, [])
    assert len(shown.watchers._changed) == 0


# Barriers.


async def test_barrier_waits_until_every_watcher_asks_from_a_later_cursor() -> None:
    """The change is everywhere when the last one has asked again."""
    shown = Shown(x=1)
    a, b = await shown.known("a"), await shown.known("b")
    shown.set("x", 2)
    shown.watchers.barrier("a", "all", 60 * S)
    told = await shown.ask(a, "a")
    assert told.results == []
    assert (await shown.ask(told.cursor, "a")).results == []
    told_b = await shown.ask(b, "b")
    assert dict(told_b.views) == {"x": 2}
    await shown.ask(told_b.cursor, "b")
    assert (await shown.ask(told.cursor, "a")).results == [("all", True)]


async def test_barrier_is_lifted_when_views_have_died() -> None:
    """A watcher that is silent holds it up no longer than its view may be trusted."""
    shown = Shown(x=1)
    cursor = await shown.known("a")
    await shown.known("silent")
    shown.set("x", 2)
    cursor = (await shown.ask(cursor, "a")).cursor
    began = time.monotonic()
    shown.watchers.barrier("a", "all", S // 20)
    news = await shown.ask(cursor, "a", patience_s=60)
    assert news.results == [("all", True)]
    assert 0.04 < time.monotonic() - began < 5


async def test_barrier_with_nobody_to_wait_for_is_lifted_at_once() -> None:
    """No watchers, or watchers that know everything."""
    shown = Shown(x=1)
    shown.watchers.barrier("a", "1", 60 * S)
    shown.watchers.lift_barriers()
    news = await shown.ask(0, "a")
    assert news.results == [("1", True)]
    await shown.ask(news.cursor, "a")
    shown.watchers.barrier("a", "2", 60 * S)
    shown.watchers.lift_barriers()
    assert (await shown.ask(news.cursor, "a")).results == [("2", True)]


async def test_barrier_of_a_restarted_host_waits_for_views_of_its_earlier_life() -> None:
    """Watchers that have not found it yet may still trust what they have."""
    shown = Shown(x=1)
    shown.watchers.settle(S // 20)
    cursor = await shown.known()
    shown.watchers.barrier("a", "all", 60 * S)
    assert (await shown.ask(cursor, patience_s=0.001)).results == []
    await asyncio.sleep(0.06)
    assert (await shown.ask(cursor)).results == [("all", True)]


# Bounds.


async def test_a_dead_caller_and_its_results_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it ever asked or not; I12: their rows go as well."""
    shown = Shown(x=1)
    await shown.known("asked")
    shown.watchers.answer("asked", "1", "x")
    shown.watchers.answer("never", "2", "y")
    monkeypatch.setattr(module, "_FORGOTTEN_NS", S // 100)
    await asyncio.sleep(0.02)
    await shown.known("live")
    assert shown.watchers._watchers.keys() == {"live"}
    assert sorted(acknowledged(shown)) == ["asked|1", "never|2"]
    shown.set("x", 2)


async def test_results_of_one_caller_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not fetch them loses the oldest."""
    monkeypatch.setattr(module, "_MAX_RESULTS_PER_CALLER", 3)
    shown = Shown()
    for number in range(5):
        shown.watchers.answer("a", str(number), number)
    assert [id for id, _ in (await shown.ask()).results] == ["2", "3", "4"]
    assert acknowledged(shown) == ["a|0", "a|1"]


# After state was read anew.


async def test_reread_state_is_told_where_it_may_not_have_been() -> None:
    """Entries that came, changed or went; results that are stored but were never queued."""
    shown = Shown(x=1, y=2)
    cursor = await shown.known()
    shown.watchers.answer("a", "told", 1)
    shown.entries = {"x": 3, "z": 4}
    results = [Result("a", "told", 1), Result("a", "not|told", 2)]
    rows = [module.row(result, result.reply) for result in results]
    shown.watchers.reread(shown.entries, [Row("shown", "a|other", 3), *rows])
    news = await shown.ask(cursor)
    assert dict(news.views) == {"x": 3, "y": None, "z": 4}
    assert news.results == [("told", 1), ("not|told", 2)]
