"""Where a silent process is looked for. The visits themselves: tests/cluster/test_death.py."""

import asyncio
import time

import pytest

from actors import undertaker as module
from actors.adopter import Outcome
from actors.life import Life
from actors.registry import Home
from actors.undertaker import LOST_NS, Search, Undertaker, Visit

pytestmark = pytest.mark.anyio

S = 1_000_000_000
LIFE = Life("o", "n1", "machine-1", "/outbox/o.calls")
HOME = Visit("n1", "home")
LOST = Visit("here", "lost")


def test_a_process_is_looked_for_on_its_node() -> None:
    """Nowhere else while that lives, whatever else runs on the same machine."""
    assert Search().visits(LIFE, {"n1": "machine-1", "n2": "machine-1"}, "here", 0) == [HOME]


def test_without_its_node_it_is_looked_for_on_its_machine() -> None:
    """A cluster that was started anew has new nodes, and may find the files of the old one."""
    machines = {"n2": "machine-2", "n3": "machine-1", "n4": "machine-1"}
    found = Search().visits(LIFE, machines, "here", 0)
    assert found == [Visit("n3", "perhaps"), Visit("n4", "perhaps")]


def test_it_is_lost_when_its_node_has_been_gone_for_long() -> None:
    """Counted from when that was seen first; its machine is asked before, all the same."""
    search = Search()
    assert search.visits(LIFE, {"n2": "machine-2"}, "here", 7 * S) == []
    assert search.visits(LIFE, {"n2": "machine-2"}, "here", 7 * S + LOST_NS - 1) == []
    assert search.visits(LIFE, {"n2": "machine-2"}, "here", 7 * S + LOST_NS) == [LOST]
    other = LIFE._replace(owner="p", host="machine-2")
    assert search.visits(other, {"n2": "machine-2"}, "here", 99 * S) == [
        Visit("n2", "perhaps"),
        LOST,
    ]


def test_a_node_that_comes_back_was_not_lost() -> None:
    """Each time it is gone counts anew."""
    search = Search()
    search.visits(LIFE, {}, "here", 0)
    assert search.visits(LIFE, {"n1": "machine-1"}, "here", LOST_NS) == [HOME]
    assert search.visits(LIFE, {}, "here", LOST_NS + 1) == []


def test_what_is_remembered_of_nodes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At worst one is taken for lost later."""
    monkeypatch.setattr(module, "_MAX_GONE", 10)
    search = Search()
    for number in range(1_000):
        search.visits(LIFE._replace(node=str(number)), {}, "here", 0)
    assert len(search._gone_ns) <= 10


class Sent(Undertaker):
    """Notes where it would go, or send whom. says: what is found there; on: may they arrive.

    visits: (owner, visit, whether it would go itself).
    """

    def __init__(self) -> None:
        super().__init__("gateway", Home("here", "", "", ()), ())
        self.visits: list[tuple[str, Visit, bool]] = []
        self.says: dict[str, Outcome | Exception] = {}
        self.on = asyncio.Event()
        self.on.set()

    async def _go(self, life: Life, visit: Visit) -> Outcome:
        return await self._note(life, visit, True)

    async def _send(self, life: Life, visit: Visit) -> Outcome:
        return await self._note(life, visit, False)

    async def _note(self, life: Life, visit: Visit, self_: bool) -> Outcome:
        self.visits.append((life.owner, visit, self_))
        await self.on.wait()
        outcome = self.says.get(visit.node, "buried")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def done(self) -> list[tuple[str, Visit, bool]]:
        """What was visited since the last time, when all are back."""
        while self._under_way:
            await asyncio.gather(*self._under_way.values())
        visits, self.visits = self.visits, []
        return visits


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The cluster's living nodes, as they are to be."""
    nodes: dict[str, str] = {"n2": "machine-1", "n3": "machine-1"}
    monkeypatch.setattr(module, "_cluster", lambda: ("here", nodes))
    return nodes


async def test_it_goes_on_until_somebody_has_word(machines: dict[str, str]) -> None:
    """And buries as lost only where nobody has, and time enough has passed."""
    sent = Sent()
    sent.says["n2"] = "missing"
    sent(LIFE)
    assert [visit.node for _, visit, _ in await sent.done()] == ["n2", "n3"]
    sent.says["n2"] = "alive"
    sent(LIFE)
    assert [visit.node for _, visit, _ in await sent.done()] == ["n2"]


async def test_nobody_is_sent_where_we_are(machines: dict[str, str]) -> None:
    """A process of this very node is looked at from here."""
    machines["here"] = "machine-1"
    sent = Sent()
    sent(LIFE._replace(node="here"))
    assert await sent.done() == [("o", Visit("here", "home"), True)]


async def test_the_lost_are_buried_from_here(
    machines: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once their node has been gone for as long as it takes, and no machine has their files."""
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    sent = Sent()
    sent.says = dict.fromkeys(machines, "missing")
    sent(LIFE)
    assert len(await sent.done()) == 2
    now += LOST_NS
    sent(LIFE)
    assert (await sent.done())[-1] == ("o", LOST, True)
    assert "lost" in caplog.text


async def test_one_at_a_time_for_each_owner(machines: dict[str, str]) -> None:
    """A second call while the first is under way is none; another owner is another matter."""
    machines["n1"] = "machine-1"
    sent = Sent()
    sent.on.clear()
    for _ in range(3):
        sent(LIFE)
        sent(LIFE._replace(owner="p"))
    await asyncio.sleep(0.02)
    sent.on.set()
    assert sorted(await sent.done()) == [("o", HOME, False), ("p", HOME, False)]
    sent(LIFE)
    assert await sent.done() == [("o", HOME, False)]


async def test_a_visit_that_fails_is_made_again(
    machines: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """When the host asks again; until then it is logged."""
    machines["n1"] = "machine-1"
    sent = Sent()
    sent.says["n1"] = OSError("no worker")
    sent(LIFE)
    assert await sent.done() == [("o", HOME, False)]
    assert "no worker" in caplog.text
    sent.says.clear()
    sent(LIFE)
    assert await sent.done() == [("o", HOME, False)]
