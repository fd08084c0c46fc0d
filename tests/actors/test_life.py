"""Owners of holds: how a host knows them, misses them, and lets go of them."""

import asyncio
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from actors import wire
from actors.consultant import Consultant
from actors.errors import InvalidRequest, SingletonUnavailable
from actors.host import Host
from actors.life import SILENCE_NS, TABLE, Life, Lives
from actors.mechanism import Row, owner_of
from actors.replies import OutOfStep
from actors.transport import InProcess
from tests.actors.holdings import FACTORY

pytestmark = pytest.mark.anyio

S = 1_000_000_000


def a_life(owner: str = "") -> Life:
    """Of a process on some node."""
    return Life(owner or secrets.token_hex(16), "node", "machine", "/outbox")


# In virtual time.


class Watch:
    """Lives on a clock that the test moves. called: whom the undertaker was told of."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1_000 * S
        patch.setattr(time, "monotonic_ns", lambda: self.now)
        self.called: list[str] = []
        self.holding: list[str] = []
        self.lives = Lives(self._call, lambda: self.holding)

    def _call(self, life: Life) -> None:
        self.called.append(life.owner)
        if life.owner == "trouble":
            raise OSError("no undertaker")

    def hello(self, owner: str) -> None:
        self.lives.hello(a_life(owner))
        self.lives.heard(f"{owner}.1")

    def pass_s(self, seconds: float, heard: str = "") -> list[str]:
        """Look twice a second, as a host does; whom the undertaker was told of meanwhile."""
        self.called = []
        for _ in range(round(seconds * 2)):
            self.now += S // 2
            if heard:
                self.lives.heard(f"{heard}.1")
            self.lives.look(self.now)
        return self.called


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """See `Watch`."""
    return Watch(monkeypatch)


def test_who_holds_something_and_is_silent_is_looked_after(watch: Watch) -> None:
    """After three seconds, and every five from then; who is heard of is not."""
    for owner in ("dead", "alive"):
        watch.hello(owner)
    watch.holding = ["dead", "alive"]
    assert watch.pass_s(2.5, heard="alive") == []
    assert watch.pass_s(0.5, heard="alive") == ["dead"]
    assert watch.pass_s(4.5, heard="alive") == []
    assert watch.pass_s(0.5, heard="alive") == ["dead"]
    assert watch.lives.silent(watch.now) == ["dead"]
    watch.lives.heard("dead.2")
    assert watch.pass_s(2.5, heard="alive") == []


def test_who_holds_nothing_is_looked_after_in_the_end(watch: Watch) -> None:
    """It is in nobody's way, but what it has left is to be cleared away."""
    watch.hello("idle")
    assert watch.pass_s(14.5) == []
    assert watch.pass_s(0.5) == ["idle"]


def test_who_never_said_hello_is_counted_only(watch: Watch) -> None:
    """Nobody knows where to look for it."""
    watch.holding = ["stranger"]
    assert watch.pass_s(100) == []
    assert watch.lives.silent(watch.now) == ["stranger"]


def test_a_host_that_was_away_does_not_take_the_others_for_silent(watch: Watch) -> None:
    """They have spoken, perhaps, while it did not listen."""
    watch.hello("a")
    watch.holding = ["a"]
    watch.now += 10 * S
    watch.lives.look(watch.now)
    assert watch.called == []
    assert watch.pass_s(2.5) == []
    assert watch.pass_s(0.5) == ["a"]


def test_one_funeral_that_fails_is_not_the_next_ones_matter(watch: Watch) -> None:
    """And it is tried again."""
    for owner in ("trouble", "dead"):
        watch.hello(owner)
    watch.holding = ["trouble", "dead"]
    assert watch.pass_s(3) == ["trouble", "dead"]
    assert watch.pass_s(5) == ["trouble", "dead"]


def test_lives_survive_as_rows(watch: Watch) -> None:
    """Each change of one is a row, and what is said again is none."""
    watch.hello("a")
    watch.hello("b")
    rows = watch.lives.take_rows()
    assert rows == [Row(TABLE, owner, tuple(a_life(owner))) for owner in "ab"]
    watch.hello("a")
    watch.lives.forget("b")
    watch.lives.forget("c")
    assert watch.lives.take_rows() == [Row(TABLE, "b", None)]
    again = Watch(pytest.MonkeyPatch())
    again.lives.load([Row(TABLE, "a", [*a_life("a")]), Row("another", "x", 1)])
    again.holding = ["a"]
    assert again.pass_s(3) == ["a"]
    assert again.lives.take_rows() == []


def test_strangers_do_not_pile_up(watch: Watch) -> None:
    """Callers that come once and never said hello are forgotten."""
    for number in range(5_000):
        watch.lives.heard(f"{number}")
    watch.pass_s(100)
    assert len(watch.lives._heard) == 0


@pytest.mark.parametrize(
    ("caller", "owner"), [("o.1", "o"), ("o.1.2", "o"), ("o", "o"), ("", ""), (".1", "")]
)
def test_owner_of(caller: str, owner: str) -> None:
    """Known answers."""
    assert owner_of(caller) == owner


# At a host.


class Home:
    """A host of things to be held, and the processes that hold them."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "holdings.sqlite")
        self.called: list[Life] = []
        self._askers: list[Consultant] = []
        self.silence_ns = SILENCE_NS
        self.start()

    def start(self) -> None:
        self.host = Host(FACTORY, self._path, "claim", self.called.append, self.silence_ns)

    def restart(self) -> None:
        self.host.close()
        self.start()

    async def consult(self, payload: bytes) -> bytes:
        return await InProcess(self.host).consult(payload)

    async def watch(self, payload: bytes) -> bytes:
        host = self.host
        news = await InProcess(host).watch(payload)
        if host is not self.host:
            return await InProcess(self.host).watch(payload)
        return news

    def process(self, life: Life | None = None) -> Consultant:
        """The consultant of another process."""
        made = Consultant("holdings", self, life)
        made.start()
        self._askers.append(made)
        return made

    async def close(self) -> None:
        for asker in self._askers:
            await asker.close(0.2)
        self.host.close()

    def rows(self, table: str) -> dict[str, Any]:
        return {row.key: row.value for row in self.host.store.load() if row.table == table}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    """See `Home`."""
    made = Home(tmp_path)
    yield made
    await made.close()


async def until(true: Callable[[], Any]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 (anything at all is waited for)
            await asyncio.sleep(0.002)


def kill(asker: Consultant) -> None:
    """It says nothing any more."""
    for task in asker._tasks:
        task.cancel()


async def test_the_first_word_of_a_caller_is_where_it_lives(home: Home) -> None:
    """With its first batch; its name begins with the owner's, and a hold is the owner's."""
    life = a_life()
    asker = home.process(life)
    await asker.ask("take", "thing")
    assert home.rows(TABLE) == {life.owner: [*life]}
    assert owner_of(asker._caller) == life.owner
    assert await asker.ask("held") == {"thing": life.owner}
    await home.process().ask("held")
    assert home.rows(TABLE).keys() == {life.owner}
    assert home.host.info()["owners"] == 1


async def test_who_is_out_of_step_says_hello_again(home: Home) -> None:
    """The host has forgotten it, and where it lives."""
    life = a_life()
    asker = home.process(life)
    await asker.ask("held")
    before = asker._caller
    await home.process().ask("bury", life.owner, False)
    assert home.rows(TABLE) == {}
    assert await asker.ask("take", "thing") is None
    assert asker._caller != before
    assert owner_of(asker._caller) == life.owner
    assert home.rows(TABLE).keys() == {life.owner}


async def test_what_the_buried_said_last_is_not_run(home: Home) -> None:
    """It may come late over the network; a hold that it took then would be nobody's."""
    life = a_life()
    caller = f"{life.owner}.1"

    async def say(number: int, *items: tuple[str, tuple[Any, ...]]) -> Any:
        payload = wire.pack_batch(caller, number, items)
        return wire.unpack_reply(await home.consult(payload)).replies

    first = (("hello", tuple(life)), ("take", ("one",)))
    assert await say(1, *first) == [None, None]
    other = home.process()
    assert await other.ask("bury", life.owner, False) == 1
    assert await say(2, ("take", ("two",))) == OutOfStep(0)
    home.restart()
    assert await say(2, ("take", ("two",))) == OutOfStep(0)
    assert await other.ask("held") == {}
    # A copy of its first words brings itself to notice, and is buried again.
    assert await say(1, *first) == [None, None]
    assert home.rows(TABLE).keys() == {life.owner}


async def test_a_host_notices_silence_and_not_those_who_watch(home: Home) -> None:
    """The undertaker is told of the one that was killed, of nobody else, also after a restart."""
    home.silence_ns = SILENCE_NS // 3
    home.restart()
    dead, alive = a_life(), a_life()
    for life in (dead, alive):
        await home.process(life).ask("take", life.owner)
    kill(home._askers[0])
    await until(lambda: home.called)
    assert home.called == [dead]
    assert await home.process().ask("lives") == {
        "owners": 2,
        "silent": 1,
        "storage": "ok",
        "protection": "",
    }
    home.restart()
    assert home.host.info() | {"owners": 2, "silent": 0} == home.host.info()
    await until(lambda: len(home.called) == 2)
    assert home.called == [dead, dead]


async def test_whoever_ends_is_forgotten_unless_it_holds_something(home: Home) -> None:
    """I12: a graceful end leaves nothing to look after; what is left behind is looked after."""
    clean, leaky, never = a_life(), a_life(), a_life()
    askers = [home.process(life) for life in (clean, leaky, never)]
    for asker in askers[:2]:
        await asker.ask("take", asker._caller)
    askers[0].tell("give", askers[0]._caller)
    for asker in askers:
        await asker.close()
    assert home.rows(TABLE).keys() == {leaky.owner}


async def test_a_bury_that_is_undone_forgets_nobody(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that fails twice: all is as before, and then as wanted."""
    life = a_life()
    await home.process(life).ask("take", "thing")
    kill(home._askers[0])
    store: Any = home.host.store
    commit, failed = store.commit, 0

    def full(*args: Any) -> None:
        nonlocal failed
        failed += 1
        if failed < 3:
            raise sqlite3.OperationalError("database is locked")
        commit(*args)

    other = home.process()
    await other.ask("held")
    monkeypatch.setattr(store, "commit", full)
    assert await other.ask("bury", life.owner, True) == 1
    assert failed >= 3
    assert home.rows(TABLE) == {}
    assert not [caller for caller in home.rows("_callers") if owner_of(caller) == life.owner]
    home.restart()
    assert await other.ask("held") == {}
    assert ["bury", life.owner, True] in await other.ask("said")


async def test_a_host_without_holds_buries_too(tmp_path: Path) -> None:
    """Where the mechanism has no such command, the process is forgotten all the same."""
    host = Host("tests.actors.counter:Counter", str(tmp_path / "c.sqlite"), "claim")
    life = a_life()
    asker, other = (Consultant("counter", InProcess(host), of) for of in (life, None))
    for one in (asker, other):
        one.start()
    await asker.ask("total")
    assert await other.ask("bury", life.owner, False) == 0
    assert host.info()["owners"] == 0
    for one in (asker, other):
        await one.close()
    host.close()


# Recalls and reports.


async def test_a_recall_reaches_its_listener(home: Home) -> None:
    """Nobody asked for it; a listener's mistake does not end the watching."""
    recalled: list[Any] = []
    asker = home.process(a_life())

    def listen(word: Any) -> None:
        recalled.append(word)
        raise ValueError("a listener's mistake")

    await asker.ask("recall", "too early for a listener")
    asker.on_recall = listen
    await asker.ask("recall", "a")
    await until(lambda: "a" in recalled)
    await asker.ask("recall", "b")
    await until(lambda: recalled[-1] == "b")
    assert not asker._early


async def test_a_report_has_a_reply_and_leaves_with_what_is_told(home: Home) -> None:
    """Behind what was told before it, never refused, and delivered by closing."""
    asker = home.process(a_life())
    heard: list[Any] = []
    asker.tell("take", "thing")
    asker.report(heard.append, "held")
    await until(lambda: heard)
    asker.report(heard.append, "give", "thing")
    asker.report(heard.append, "no such command")
    await asker.close()
    assert heard[:2] == [{"thing": owner_of(asker._caller)}, None]
    assert isinstance(heard[2], InvalidRequest)
    assert home.rows(TABLE) == {}


async def test_who_reports_hears_that_nobody_can_be_asked_any_more(home: Home) -> None:
    """Once, instead of the reply."""
    asker = home.process(a_life())
    await asker.ask("held")
    heard: list[Any] = []
    home.host.close()
    asker.report(heard.append, "held")
    await asker.close(patience_s=0.05)
    assert [type(one) for one in heard] == [SingletonUnavailable]
