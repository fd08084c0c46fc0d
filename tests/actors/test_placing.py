from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors import home, nodes, placing
from actors.home import Home
from actors.nodes import Node
from actors.terms import Copy, Lost, Standing, Term
from tests.actors.counter import CALENDAR
from tests.actors.kv import Kv

CACHE = "actors.response_cache:ResponseCache"


class Cluster:
    """Nodes, each with a folder of its own. silent: of those that don't say what they have."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.alive = [Node("h", "head")]
        self.silent: set[str] = set()
        self.place = Home("h", str(folder), "claim", (1,))
        patch.setattr(home, "KV", Kv())
        patch.setattr(home, "home", lambda name: self.place)
        patch.setattr(nodes, "preferred", lambda: list(self.alive))
        patch.setattr(nodes, "everywhere", self._everywhere)
        patch.setattr(placing, "_LOOK_AGAIN_S", 0.0)

    def _everywhere(
        self, work: Callable[..., Any], at: list[Node], _: float, name: str, folder: str
    ) -> dict[str, Any]:
        answering = [node.id for node in at if node.id not in self.silent]
        return {id: work(name, f"{folder}/{id}") for id in answering}

    def has(self, node: str, file: str, standing: Standing) -> None:
        """A copy on a node."""
        path = self.folder / node / "gw" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        standing.write(path)

    def term(self, host: str, factory: str) -> Term:
        """In which it would be made."""
        return placing.term_of("gw", host, factory, self.place)[0]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """With a head."""
    return Cluster(tmp_path, monkeypatch)


def test_who_does_not_say_what_it_has_may_have_the_ledger(cluster: Cluster) -> None:
    """I8: a node whose answer is late, or that broke, is no proof that there is nothing."""
    cluster.alive.append(Node("a", "machine-a"))
    cluster.has("a", "counter.sqlite", Standing(4, "primary"))
    cluster.silent.add("a")
    with pytest.raises(Lost, match="machine-a"):
        cluster.term("counter", CALENDAR)
    assert [one.host for one in placing.waiting("gw", cluster.place, {"counter": CALENDAR})]
    cluster.silent.clear()
    assert cluster.term("counter", CALENDAR) == Term(5, Copy("a", "machine-a", "counter.sqlite"))


def test_what_nobody_has_begins(cluster: Cluster) -> None:
    """A first start."""
    assert cluster.term("counter", CALENDAR) == Term(1, Copy("h", "head", "counter.sqlite"))


def test_no_life_is_taken_for_an_earlier_one(cluster: Cluster) -> None:
    """I10: a cache that has lived through clusters, and begins anew, has a later epoch still.

    Its epoch has grown with each cluster; one with the number of an earlier term could be it.
    """
    cluster.has("h", "cache.sqlite", Standing(3, "primary"))
    first = cluster.term("cache", CACHE)
    assert first == Term(4, Copy("h", "head", "cache.sqlite"))
    cluster.alive = [Node("b", "machine-b")]
    assert cluster.term("cache", CACHE).number == 5


def test_what_is_adopted_is_later_than_all_that_is_known(cluster: Cluster) -> None:
    """I8: else a cluster without memory would go on from another copy, which is older."""
    assert cluster.term("counter", CALENDAR).number == 1
    cluster.alive = [Node("b", "machine-b"), Node("c", "machine-c")]
    cluster.has("b", "counter.sqlite", Standing(9, "primary", "machine-c"))
    cluster.has("c", "counter.8.sqlite", Standing(9, "standby", "machine-b"))
    with pytest.raises(Lost):
        cluster.term("counter", CALENDAR)
    chosen = Copy("b", "machine-b", "counter.sqlite")
    assert placing.adopt("gw", "counter", chosen) == Term(10, chosen, moved=True)
    assert cluster.term("counter", CALENDAR).number == 10
