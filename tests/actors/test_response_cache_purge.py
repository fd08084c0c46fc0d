"""What a purge ends: known answers, one claim each."""

import pytest

from actors.cache_flights import Lead
from actors.errors import InvalidRequest
from actors.mechanism import Pending
from tests.actors.response_cache_world import Caller


@pytest.mark.parametrize(
    ("by", "value", "left"),
    [
        ("all", "", []),
        ("key", "a", ["b", "c"]),
        ("model", "m1", ["b"]),
        ("tenant", "t1", ["c"]),
        ("tenant", "unknown", ["a", "b", "c"]),
    ],
)
def test_a_purge_drops_what_it_names(by: str, value: str, left: list[str]) -> None:
    """And says how many; every purge is a new generation, which views show."""
    c = Caller()
    for key, tenant, model in [("a", "t1", "m1"), ("b", "t1", "m2"), ("c", "t2", "m1")]:
        c.fill(0, c.claim(0, key, tenant=tenant, model=model), key)
    c.cache.take_changes()
    assert c.cache.purge(0, "c", by, value) == 3 - len(left)
    assert [key for key in "abc" if c.lookup(0, key)] == left
    assert c.cache.take_changes().views == {"purges"}
    assert list(c.cache.view_keys()) == ["purges"]
    assert c.cache.view("purges", 0) == {"generation": 1}


def test_a_purge_by_an_unknown_word_is_refused() -> None:
    """It purges nothing, rather than what was not meant."""
    c = Caller()
    with pytest.raises(InvalidRequest):
        c.cache.purge(0, "c", "team", "t")
    assert c.status()["generation"] == 0


def test_what_comes_from_before_a_purge_is_dropped() -> None:
    """Its waiters from before the purge still get it; who asked afterwards leads anew."""
    c = Caller()
    lead = c.claim(0)
    c.claim(0)
    c.cache.purge(0, "c", "all")
    assert [c.claim(1), c.claim(1)] == [Pending(), Pending()]
    assert not c.fill(2, lead, body=b"old")
    late = c.late()
    old = late.pop("r2")
    assert (old.entry.body, old.fresh_ns) == (b"old", 0)
    assert late == {"r3": Lead("r3", 1)}
    assert c.fill(3, late["r3"], body=b"new")
    assert c.late()["r4"].entry.body == b"new"


def test_a_lead_beside_the_leader_is_purged_too() -> None:
    """What a no-cache client fetched before the purge is not kept either."""
    c = Caller()
    c.claim(0)
    beside = c.claim(0, lookup=False)
    c.cache.purge(0, "c", "model", "m")
    assert not c.fill(1, beside)
    assert c.lookup(1) is None


def test_a_purge_elsewhere_drops_no_fill() -> None:
    """A purge of another model does not cost this leader its answer."""
    c = Caller()
    lead = c.claim(0)
    c.cache.purge(0, "c", "model", "other")
    assert c.fill(1, lead)


def test_a_fill_of_another_generation_is_dropped() -> None:
    """The generation that came with the lead has to come back with the fill."""
    c = Caller()
    lead = c.claim(0)
    assert not c.fill(0, lead._replace(generation=1))
    assert c.lookup(0) is None


def test_who_leads_after_a_purge_leads_in_its_generation() -> None:
    """A waiter from before the purge that takes over afterwards brings what is kept."""
    c = Caller()
    c.claim(0)
    c.claim(0)
    c.cache.purge(0, "c", "all")
    c.leave(1, "r1")
    late = c.late()
    assert late == {"r2": Lead("r2", 1)}
    assert c.fill(2, late["r2"])
