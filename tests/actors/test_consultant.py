import asyncio
import contextlib
import logging
import pickle
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from actors import batches, wire
from actors import consultant as module
from actors.consultant import Consultant
from actors.errors import Conflict, Overloaded, RaygateError, SingletonUnavailable
from actors.host import VIEW_NS, Host
from actors.mechanism import Pending
from actors.replies import Reply
from actors.transport import InProcess, TransportError
from actors.watchers import News
from tests.actors.counter import FACTORY, Page, Sum

pytestmark = pytest.mark.anyio

S = 1_000_000_000
HOUR = 3600 * S


class Line:
    """A way to a host that can be restarted. sent: the commands of each consult that arrived.

    consults, watches: hold them back (Event not set), or let them pass.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "counter.sqlite"
        self.host = Host(FACTORY, str(self.path), "claim")
        self.sent: list[list[tuple[Any, ...]]] = []
        self.consults, self.replies, self.watches = (
            asyncio.Event(),
            asyncio.Event(),
            asyncio.Event(),
        )
        self.consults.set()
        self.replies.set()
        self.watches.set()

    def restart(self) -> None:
        self.host.close()
        self.host = Host(FACTORY, str(self.path), "claim")

    def lose_everything(self) -> None:
        """The host begins again with an empty store."""
        self.host.close()
        for file in self.path.parent.iterdir():
            file.unlink()
        self.host = Host(FACTORY, str(self.path), "claim")

    async def consult(self, payload: bytes) -> bytes:
        await self.consults.wait()
        self.sent.append([(name, *args) for name, args in wire.unpack_batch(payload, {})[2]])
        reply = await InProcess(self.host).consult(payload)
        await self.replies.wait()
        return reply

    async def watch(self, payload: bytes) -> bytes:
        await self.watches.wait()
        host = self.host
        news = await InProcess(host).watch(payload)
        await self.watches.wait()
        if host is not self.host:
            raise TransportError("it has died meanwhile")
        return news


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """See `Line`; what is lost is sent again without delay."""
    monkeypatch.setattr(module, "_RETRY_S", (0.002,))
    return Line(tmp_path)


@pytest.fixture
async def asker(line: Line) -> AsyncIterator[Consultant]:
    """A consultant on the line."""
    made = Consultant("counter", line)
    made.start()
    yield made
    await made.close(0.2)
    line.host.close()


async def until(true: Callable[[], Any]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 (anything at all is waited for)
            await asyncio.sleep(0.001)


# Batches.


async def test_a_reply_comes_back(asker: Consultant) -> None:
    """Values, refusals and unexpected failures."""
    assert await asker.ask("add", 3) == Sum(3)
    with pytest.raises(Conflict) as caught:
        await asker.ask("refuse")
    assert caught.value.retry_after_s == 2.5
    with pytest.raises(RaygateError, match="break_half_way"):
        await asker.ask("break_half_way")
    assert await asker.ask("total") == 3


async def test_what_comes_while_one_is_in_flight_is_the_next_batch(
    asker: Consultant, line: Line
) -> None:
    """Never more than one consult in flight; everything that waits shares the next."""
    line.replies.clear()
    first = asker.submit("add", 1)
    await until(lambda: len(line.sent) == 1)
    others = [asker.submit("add", 1) for _ in range(100)]
    await asyncio.sleep(0.02)
    assert len(line.sent) == 1
    line.replies.set()
    assert [each.total for each in await asyncio.gather(first, *others)] == list(range(1, 102))
    assert [len(batch) for batch in line.sent] == [1, 100]


async def test_batches_are_bounded_and_none_is_left_behind(asker: Consultant, line: Line) -> None:
    """A crowd is cut into batches; its tail leaves without any new arrival."""
    asks = [asker.submit("add", 1) for _ in range(4_500)]
    async with asyncio.timeout(5):
        await asyncio.gather(*asks)
    assert [len(batch) for batch in line.sent] == [2000, 2000, 500]


async def test_batches_are_bounded_in_bytes(
    asker: Consultant, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large arguments are cut into more batches, in order; one item goes whatever its size."""
    monkeypatch.setattr(batches, "_MAX_BYTES", 10_000)
    sizes = [4_000, 4_000, 4_000, 50_000, 100, 100]
    asks = [asker.submit("wait", f"{i}{'x' * size}", 0) for i, size in enumerate(sizes)]
    async with asyncio.timeout(5):
        await asyncio.gather(*asks)
    assert max(len(pickle.dumps(batch)) for batch in line.sent if len(batch) > 1) < 11_000
    order = [ask[1][0] for batch in line.sent for ask in batch]
    assert order == [str(i) for i in range(len(sizes))]


async def test_a_full_queue_refuses_asks_but_never_tells(
    asker: Consultant, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told gives back what was taken: refusing it would leak."""
    monkeypatch.setattr(module, "_MAX_QUEUED", 10)
    line.consults.clear()
    asks = [asker.submit("add", 1) for _ in range(10)]
    with pytest.raises(Overloaded) as caught:
        asker.submit("add", 1)
    assert caught.value.retry_after_s is not None
    asker.tell("add", 100)
    line.consults.set()
    await asyncio.gather(*asks)
    assert await asker.ask("total") == 110


async def test_a_tell_never_overtakes(asker: Consultant, line: Line) -> None:
    """Everything leaves in the order in which it was said."""
    rng = random.Random(5)
    said: list[int] = []
    for number in range(300):
        said.append(number)
        if rng.random() < 0.5:
            asker.tell("display", "x", number)
        else:
            asker.submit("display", "x", number)
        if rng.random() < 0.1:
            await asyncio.sleep(0.002)
    await asker.ask("total")
    assert [item[2] for batch in line.sent for item in batch if item[0] == "display"] == said


async def test_what_was_told_leaves_within_moments(asker: Consultant, line: Line) -> None:
    """Nobody has to ask something for it to go."""
    asker.tell("add", 1)
    began = time.monotonic()
    await until(lambda: line.sent)
    assert time.monotonic() - began < 1


async def test_what_cannot_be_pickled_fails_alone(
    asker: Consultant, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own future says so; its neighbours and those who come later are served."""
    asker.tell("add", lambda: 0)
    one, bad, two = asker.submit("add", 1), asker.submit("add", lambda: 0), asker.submit("add", 1)
    assert await one == Sum(1)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        await bad
    assert await two == Sum(2)
    assert await asker.ask("total") == 2
    assert "can't be told" in caplog.text


async def test_arguments_are_those_of_the_moment_of_sending(asker: Consultant, line: Line) -> None:
    """A resend is the same batch, whoever changes a list meanwhile."""
    words = ["first"]
    line.replies.clear()
    asked = asker.submit("display", "x", words)
    await until(lambda: line.sent)
    words.append("second")
    line.replies.set()
    await asked
    assert line.sent[0] == [("display", "x", ["first"])]


# Cancelling.


async def test_a_cancelled_ask_that_was_not_sent_is_never_sent(
    asker: Consultant, line: Line
) -> None:
    """The others of its batch are."""
    line.replies.clear()
    first = asker.submit("add", 1)
    await until(lambda: line.sent)
    cancelled, other = asker.submit("add", 10), asker.submit("add", 100)
    cancelled.cancel()
    line.replies.set()
    assert (await first, await other) == (Sum(1), Sum(101))
    assert [("add", 10)] not in line.sent


async def test_what_a_cancelled_ask_took_can_be_given_back_by_a_tell(
    asker: Consultant, line: Line
) -> None:
    """I12: in flight, or already waiting for its result: the tell comes after it."""
    line.replies.clear()
    flying = asker.submit("wait", "flying", HOUR)
    await until(lambda: line.sent)
    flying.cancel()
    asker.tell("serve", "flying", None)
    line.replies.set()
    waiting = asker.submit("wait", "waiting", HOUR)
    await until(lambda: asker._waiting)
    waiting.cancel()
    asker.tell("serve", "waiting", None)
    assert await asker.ask("waiting") == []
    await until(lambda: not asker._waiting)
    assert not asker._early


async def test_nothing_is_left_of_many_cancels(asker: Consultant, line: Line) -> None:
    """I12: after random cancels every dictionary of the consultant is empty."""
    rng = random.Random(11)

    async def one(number: int) -> None:
        id = str(number)
        asked = asker.submit("wait", id, rng.choice([0, S // 200, HOUR]))
        try:
            async with asyncio.timeout(rng.choice([0, 0.001, 0.01])):
                await asked
        except TimeoutError:
            asker.tell("serve", id, None)

    await asyncio.gather(*(one(number) for number in range(300)))
    assert await asker.ask("waiting") == []
    await until(lambda: not asker._waiting and not asker._queue and not asker._in_flight)
    assert not asker._early


# Late results.


async def test_a_pending_command_is_answered_by_watch(asker: Consultant) -> None:
    """`on_pending` is called first, once."""
    told: list[str] = []
    asked = asker.submit("wait", "t", HOUR, on_pending=lambda: told.append("pending"))
    await until(lambda: told)
    assert not asked.done()
    assert await asker.ask("serve", "t", "served")
    assert await asked == "served"
    assert told == ["pending"]


async def test_a_result_may_overtake_the_reply_that_says_pending(
    asker: Consultant, line: Line
) -> None:
    """It is kept until the reply is there, also when that one was lost at first."""
    await asker.ask("total")
    line.replies.clear()
    asked = asker.submit("wait", "t", 0)
    await until(lambda: asker._early)
    line.replies.set()
    assert await asyncio.wait_for(asked, 5) == "late"
    assert not asker._early


async def test_a_refusal_may_come_late(asker: Consultant) -> None:
    """A late result that is an error is raised."""
    asked = asker.submit("wait", "t", HOUR)
    await asker.ask("serve", "t", Conflict("too late"))
    with pytest.raises(Conflict, match="too late"):
        await asked


async def test_a_result_comes_though_the_host_restarts_between(
    asker: Consultant, line: Line
) -> None:
    """I9: before its result is there, or when it is there and was not fetched."""
    one, two = asker.submit("wait", "1", S // 20), asker.submit("wait", "2", HOUR)
    await until(lambda: len(asker._waiting) == 2)
    line.restart()
    assert await asyncio.wait_for(one, 5) == "late"
    line.watches.clear()
    await asker.ask("serve", "2", "served")
    line.restart()
    line.watches.set()
    assert await asyncio.wait_for(two, 5) == "served"


async def test_gone_replies_are_asked_again(asker: Consultant, line: Line) -> None:
    """The reply was lost with the host's memory: the command runs anew."""
    line.replies.clear()
    asked = asker.submit("page", 7)
    await until(lambda: line.sent)
    line.host.close()
    line.replies.set()
    assert await asked == Page(bytes(7))
    # Now the same with the reply lost.
    calls = line.consult

    async def lost(payload: bytes) -> bytes:
        await calls(payload)
        line.restart()
        line.consult = calls  # type: ignore[method-assign]
        raise TransportError("lost")

    line.host = Host(FACTORY, str(line.path), "claim")
    line.consult = lost  # type: ignore[method-assign]
    assert await asker.ask("page", 9) == Page(bytes(9))
    assert [("page", 9)] in line.sent[-1:]


async def test_a_cancelled_ask_whose_reply_is_gone_is_not_asked_again(
    asker: Consultant, line: Line
) -> None:
    """I12: it would take anew what the tell behind it has just given back."""
    calls = line.consult

    async def lost(payload: bytes) -> bytes:
        await calls(payload)
        asked.cancel()
        line.restart()
        line.consult = calls  # type: ignore[method-assign]
        raise TransportError("lost")

    line.consult = lost  # type: ignore[method-assign]
    asked = asker.submit("page", 9)
    with contextlib.suppress(asyncio.CancelledError):
        await asked
    assert await asker.ask("total") == 1


# Losses and restarts.


class Chaos:
    """A line on which calls and replies get lost, old copies arrive late, and hosts restart."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.path = folder / f"chaos-{seed}.sqlite"
        self.host = Host(FACTORY, str(self.path), "claim")
        self.old: list[bytes] = []

    async def consult(self, payload: bytes) -> bytes:
        await self._trouble()
        self.old.append(payload)
        if self.rng.random() < 0.2:
            # A copy that the network kept back: whatever it is answered, it must not run.
            with contextlib.suppress(TransportError):
                await InProcess(self.host).consult(self.rng.choice(self.old[-50:]))
        reply = await InProcess(self.host).consult(payload)
        await self._trouble()
        return reply

    async def watch(self, payload: bytes) -> bytes:
        await self._trouble()
        host = self.host
        news = await InProcess(host).watch(payload)
        if host is not self.host:
            raise TransportError("dead")
        await self._trouble()
        return news

    async def _trouble(self) -> None:
        dice = self.rng.random()
        if dice < 0.03:
            self.host.close()
            self.host = Host(FACTORY, str(self.path), "claim")
        if dice < 0.25:
            raise TransportError("lost")
        if dice < 0.5:
            await asyncio.sleep(self.rng.random() * 0.002)


@pytest.mark.parametrize("seed", range(4))
async def test_everything_runs_exactly_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """I8: the sum is exact, whatever is lost, comes twice or restarts on the way.

    Tickets of the same storm are all answered.
    """
    monkeypatch.setattr(module, "_RETRY_S", (0.0005,))
    chaos = Chaos(tmp_path, seed)
    askers = [Consultant("counter", chaos) for _ in range(3)]
    for asker in askers:
        asker.start()

    async def work(asker: Consultant, worker: int) -> int:
        rng = random.Random(f"{seed} {worker} {asker._caller}")
        done = 0
        for step in range(20):
            if rng.random() < 0.3:
                id = f"{asker._caller} {worker} {step}"
                assert await asker.ask("wait", id, rng.choice([0, S // 500])) == "late"
            elif rng.random() < 0.3:
                asker.tell("add", 1)
                done += 1
            else:
                await asker.ask("add", 1)
                done += 1
        return done

    async with asyncio.timeout(30):
        counts = await asyncio.gather(*(work(a, w) for a in askers for w in range(4)))
        for asker in askers:
            await asker.ask("total")
        totals = [await asker.ask("total") for asker in askers]
        waiting = await askers[0].ask("waiting")
    for asker in askers:
        await asker.close()
    chaos.host.close()
    assert totals == [sum(counts)] * 3
    assert waiting == []


async def test_a_host_that_has_forgotten_us_is_begun_with_anew(
    asker: Consultant, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """OutOfStep: a new caller, the same batch; what waited for a result asks again."""
    await asker.ask("add", 5)
    waiting = asker.submit("wait", "t", HOUR)
    await until(lambda: asker._waiting)
    before = asker._caller
    line.lose_everything()
    assert await asker.ask("add", 1) == Sum(1)
    assert asker._caller != before
    assert "starting anew" in caplog.text
    await until(lambda: asker._waiting)
    assert await asker.ask("serve", "t", "served")
    assert await asyncio.wait_for(waiting, 5) == "served"


async def test_whatever_a_host_raises_is_ridden_through(
    asker: Consultant, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    """I9: a store that is locked for a while fails no ask; it is logged once per batch."""
    store: Any = line.host.store
    commit = store.commit

    def locked(*args: Any) -> None:
        raise sqlite3.OperationalError("database is locked")

    await asker.ask("add", 1)
    store.commit = locked
    asked = asker.submit("add", 1)
    await until(lambda: len(line.sent) >= 5)
    assert not asker.reachable
    store.commit = commit
    assert await asked == Sum(2)
    await until(lambda: asker.reachable)
    warned = [one for one in caplog.records if one.name == module.__name__]
    assert [one.levelno for one in warned] == [logging.WARNING]


# Closing.


async def test_closing_delivers_what_was_told(line: Line) -> None:
    """Also what was told in the very last moment."""
    asker = Consultant("counter", line)
    asker.start()
    await asker.ask("add", 1)
    for _ in range(3_000):
        asker.tell("add", 1)
    await asker.close()
    again = Consultant("counter", line)
    again.start()
    assert await again.ask("total") == 3_001
    await again.close()
    line.host.close()


async def test_closing_leaves_nobody_waiting(line: Line) -> None:
    """Queued, in flight or pending: whoever still waits is told, and closing ends in time."""
    asker = Consultant("counter", line)
    asker.start()
    pending = asker.submit("wait", "t", HOUR)
    await until(lambda: asker._waiting)
    line.consults.clear()
    flying = asker.submit("total")
    await until(lambda: asker._in_flight)
    queued = asker.submit("total")
    await asyncio.wait_for(asker.close(0.05), 5)
    for each in (pending, flying, queued):
        with pytest.raises(SingletonUnavailable):
            await asyncio.wait_for(each, 1)
    line.host.close()


# Views.


async def test_the_view_follows_the_host(asker: Consultant, line: Line) -> None:
    """Snapshot, changes, what is gone; the listener hears of each."""
    heard = 0

    def hear() -> None:
        nonlocal heard
        heard += 1
        raise ValueError("a listener's mistake must not end the watching")

    asker.on_view = hear
    await asker.ask("display", "x", 1)
    await asker.ask("display", "y", 2)
    await until(lambda: asker.view == {"x": 1, "y": 2})
    await asker.ask("display", "x", 3)
    await until(lambda: asker.view == {"x": 3, "y": 2})
    await asker.ask("hide", "y")
    await until(lambda: asker.view == {"x": 3})
    assert heard >= 3
    assert asker.since_ns("x") < 5 * S


async def test_an_entry_that_went_while_the_host_was_away_is_gone(
    asker: Consultant, line: Line
) -> None:
    """After a restart the view is what the new host has, nothing else."""
    await asker.ask("display", "x", 1)
    await asker.ask("display", "y", 2)
    await until(lambda: len(asker.view) == 2)
    assert asker.incarnation == (1, 0)
    line.watches.clear()
    await asker.ask("hide", "y")
    line.restart()
    line.watches.set()
    await until(lambda: asker.incarnation == (1, 1))
    assert asker.view == {"x": 1}


class Script:
    """A transport whose watches return when the test says so."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.news: asyncio.Queue[News] = asyncio.Queue()

    async def consult(self, payload: bytes) -> bytes:
        items = wire.unpack_batch(payload, {})[2]
        return wire.pack_reply(Reply(1, 0, [Pending() for _ in items]))

    async def watch(self, payload: bytes) -> bytes:
        self.asked.set()
        return pickle.dumps(await self.news.get())


async def test_freshness_counts_from_the_sending_of_the_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not from its return: what it says may be as old as its question."""
    now = 1000 * S
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    script = Script()
    asker = Consultant("scripted", script)
    asker.start()
    assert not asker.fresh()
    await script.asked.wait()
    now += VIEW_NS - 1
    script.news.put_nowait(News((1, 0), 1, [], [("x", 1)], True))
    await until(lambda: asker.view)
    assert asker.view_age_ns() == VIEW_NS - 1
    assert asker.fresh()
    now += 1
    assert not asker.fresh()
    await asker.close(0)


async def test_an_idle_view_stays_fresh(asker: Consultant) -> None:
    """Between one watch and the next there is no gap in which everybody has to ask."""
    await until(asker.fresh)
    ages = []
    for _ in range(80):
        await asyncio.sleep(0.02)
        ages.append(asker.view_age_ns())
    assert max(ages) < VIEW_NS


async def test_an_unreachable_host_makes_the_view_stale(
    asker: Consultant, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is fresh again with the first watch that returns."""
    monkeypatch.setattr("actors.viewer.VIEW_NS", S)
    await until(asker.fresh)
    line.watches.clear()
    await until(lambda: not asker.fresh())
    line.watches.set()
    await until(asker.fresh)


# Everywhere.


async def test_everywhere_returns_when_every_watcher_has_the_change(
    asker: Consultant, line: Line
) -> None:
    """At that moment the other's view has it; it takes far less than a view's life."""
    other = Consultant("other", line)
    other.start()
    await until(lambda: other.fresh() and asker.fresh())
    for value in range(5):
        await asker.ask("display", "x", value)
        began = time.monotonic()
        assert await asker.ask("everywhere", f"e{value}") is True
        assert other.view["x"] == value
        assert time.monotonic() - began < VIEW_NS / 1e9
    await other.close()


async def test_everywhere_waits_no_longer_than_a_view_lives(
    asker: Consultant, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent watcher's view has died by then."""
    monkeypatch.setattr("actors.host.VIEW_NS", S // 5)
    silent = Consultant("silent", line)
    silent.start()
    await until(lambda: silent.fresh() and asker.fresh())
    for task in silent._tasks:
        task.cancel()
    began = time.monotonic()
    await asker.ask("display", "x", 1)
    assert await asker.ask("everywhere", "e") is True
    assert 0.15 < time.monotonic() - began < 2


async def test_everywhere_survives_a_restart_of_the_host(
    asker: Consultant, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I9: its barrier falls with the host, and is raised again at the next."""
    monkeypatch.setattr("actors.host.VIEW_NS", S // 5)
    await until(asker.fresh)
    line.watches.clear()
    asked = asker.submit("everywhere", "e")
    await until(lambda: asker._waiting)
    line.restart()
    line.watches.set()
    assert await asyncio.wait_for(asked, 5) is True
    # And where the reply, too, was lost with the host.
    line.replies.clear()
    asked = asker.submit("everywhere", "f")
    sent = len(line.sent)
    await until(lambda: len(line.sent) > sent)
    line.restart()
    line.replies.set()
    assert await asyncio.wait_for(asked, 5) is True
