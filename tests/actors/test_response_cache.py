"""Who leads, who waits, and who may see what: known answers, one claim each."""

from typing import Any

import pytest

from actors import response_cache
from actors.cache_entries import Entry
from actors.cache_flights import Hit, Lead, Unanswered
from actors.errors import IdempotencyMismatch, InvalidRequest, Overloaded
from actors.mechanism import Gone, Pending
from actors.repeats import Forgotten
from actors.response_cache import ResponseCache
from tests.actors.response_cache_world import WAIT, Caller, S, entry, ns


def test_ten_concurrent_callers_make_one_load() -> None:
    """I5: the first leads, nine wait, and one fill answers all."""
    c = Caller()
    replies = [c.claim(0) for _ in range(10)]
    assert replies == [Lead("r1", 0)] + [Pending()] * 9
    assert c.cache.waiting(0, "c", "k") == 9
    assert c.fill(1, replies[0])
    hit = Hit(entry(), 0, False, None, 300 * S)
    assert c.late() == {f"r{number}": hit for number in range(2, 11)}
    assert c.claim(1) == hit


def test_500_calls_over_6_keys_make_6_loads() -> None:
    """I5: one leader for each key, whatever the order of calls."""
    c = Caller()
    leads = [(key, c.claim(0, key)) for key in (f"k{call % 6}" for call in range(500))]
    loads = [(key, lead) for key, lead in leads if isinstance(lead, Lead)]
    assert len(loads) == 6
    for key, lead in loads:
        c.fill(0, lead, key)
    assert len(c.late()) == 494
    assert all(isinstance(c.claim(1, key), Hit) for key, _ in leads)


def test_a_leader_that_fails_hands_over_to_the_next_waiter() -> None:
    """The first in line leads, and is told so; the others go on waiting."""
    c = Caller()
    for _ in range(3):
        c.claim(0)
    c.leave(1, "r1")
    assert c.late() == {"r2": Lead("r2", 0)}
    c.leave(2, "r2")
    assert c.late() == {"r3": Lead("r3", 0)}
    c.leave(3, "r3")
    assert c.late() == {}
    assert c.claim(4) == Lead("r4", 0)


def test_a_waiters_cancel_never_cancels_the_leader() -> None:
    """It just goes: it is not told anything any more, and the next in line moves up."""
    c = Caller()
    lead, *_ = [c.claim(0) for _ in range(3)]
    c.leave(1, "r2")
    assert c.cache.waiting(ns(1), "c", "k") == 1
    assert c.fill(2, lead)
    assert list(c.late()) == ["r3"]


def test_a_waiter_cannot_fill() -> None:
    """Only who leads brings the answer."""
    c = Caller()
    c.claim(0)
    c.claim(0)
    assert not c.fill(0, Lead("r2", 0))
    assert c.status() | {"leaders": 1, "waiters": 1, "size": 0} == c.status()


def test_leaving_is_idempotent_and_a_no_op_for_the_unknown() -> None:
    """A caller says it after a cancel without knowing whether it ever claimed."""
    c = Caller()
    c.leave(0, "never")
    c.claim(0)
    c.leave(0, "r1", key="another")
    assert c.status()["leaders"] == 1
    c.leave(0, "r1")
    c.leave(0, "r1")
    assert c.status()["leaders"] == 0


def test_a_leader_is_replaced_when_its_owner_is_buried() -> None:
    """I5: and not before, however long it takes; what it brings afterwards is dropped."""
    c = Caller()
    lead = c.claim(0, caller="dead.1")
    c.claim(1, caller="alive.1", max_wait_ns=10**18)
    assert c.cache.advance(10**15) == 10**18 + S
    assert c.late() == {}
    assert set(c.cache.owners()) == {"dead", "alive"}
    assert c.cache.bury(10**15, "c", "dead", lost=False) == 1
    assert c.cache.bury(10**15, "c", "dead", lost=False) == 0
    assert c.late() == {"r2": Lead("r2", 0)}
    assert set(c.cache.owners()) == {"alive"}
    assert not c.fill(1_000_001, lead, body=b"late")
    assert isinstance(c.claim(1_000_001), Pending)


def test_a_dead_owners_waiters_go_and_do_not_inherit() -> None:
    """Its lead passes over them to the first who lives, and leads beside leaders end too."""
    c = Caller()
    for caller in ("dead.1", "dead.2", "alive.1", "dead.1", "alive.2"):
        c.claim(0, caller=caller)
    c.claim(0, caller="dead.3", lookup=False)
    c.claim(0, "other", caller="dead.1")
    assert c.cache.bury(S, "c", "dead", lost=True) == 5
    assert c.late() == {"r3": Lead("r3", 0)}
    assert c.status(1) | {"leaders": 1, "waiters": 1} == c.status(1)
    c.leave(2, "r3")
    assert c.late() == {"r5": Lead("r5", 0)}


def test_what_is_run_once_is_buried_too() -> None:
    """A dead process's idempotency keys are done; see the tests of repeats."""
    cache = ResponseCache()
    cache.repeat_begin(0, "dead.1", "a", "k", b"d", WAIT)
    assert set(cache.owners()) == {"dead"}
    assert cache.bury(S, "c", "dead", lost=False) == 1
    assert cache.repeat_begin(S, "c", "b", "k", b"d", WAIT) == Forgotten()
    assert set(cache.owners()) == set()


def test_a_waiter_is_refused_when_its_patience_ends() -> None:
    """Nobody waits longer than the stated maximum, and no fill comes after the refusal."""
    c = Caller()
    lead = c.claim(0)
    c.claim(0, max_wait_ns=2 * S)
    assert c.cache.advance(2 * S) is None
    assert c.late() == {"r2": Unanswered("max_wait")}
    c.fill(3, lead)
    assert c.late() == {}


def test_without_patience_nobody_waits() -> None:
    """A maximum of zero is answered at once, and leaves nothing behind."""
    c = Caller()
    c.claim(0)
    assert c.claim(0, max_wait_ns=0) == Unanswered("max_wait")
    assert c.status()["waiters"] == 0


def test_no_cache_displaces_nobody_and_its_fill_is_kept() -> None:
    """Beside a leader it fetches for itself; alone it leads as anybody would."""
    c = Caller()
    assert c.claim(0, lookup=False) == Lead("r1", 0)
    assert c.claim(0, lookup=False) == Lead("r2", 0)
    assert c.claim(0) == Pending()
    c.leave(1, "r1")
    assert c.late() == {"r3": Lead("r3", 0)}
    assert c.claim(1) == Pending()
    assert c.fill(1, Lead("r2", 0))
    assert list(c.late()) == ["r4"]
    assert isinstance(c.claim(1), Hit)
    assert c.status(1)["leaders"] == 1


def test_no_cache_skips_a_fresh_answer() -> None:
    """It asks the provider anew, while others go on being served the old answer."""
    c = Caller()
    c.put(0, "k", body=b"old")
    lead = c.claim(1, lookup=False)
    assert c.claim(1).entry.body == b"old"
    assert c.fill(2, lead, body=b"new")
    assert c.claim(2).entry.body == b"new"


def test_the_same_claim_again_gets_the_same_reply() -> None:
    """A resend, even under the caller's new name, takes nothing twice."""
    c = Caller()
    c.claim(0)
    c.claim(0)
    c.claim(0, lookup=False)
    assert c.claim(1, lead_id="r1") == Lead("r1", 0)
    assert c.claim(1, lead_id="r3") == Lead("r3", 0)
    assert c.cache.claim(S, "new name", "r2", "k", "t", "m", WAIT) == Pending()
    assert set(c.cache.owners()) == {"c", "new name"}
    c.leave(1, "r1")
    assert c.cache.take_changes().results == [("new name", "r2", Lead("r2", 0))]
    assert c.status()["leaders"] == 2


def test_an_id_holds_one_key() -> None:
    """An id that comes again for another key is an error, and changes nothing."""
    c = Caller()
    c.claim(0)
    with pytest.raises(IdempotencyMismatch):
        c.claim(0, "other", lead_id="r1")
    assert c.status()["leaders"] == 1


def test_claims_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound a claim is refused, while answers that are there are still given."""
    monkeypatch.setattr(response_cache, "MAX_CLAIMS", 2)
    c = Caller()
    c.put(0, "stale", ttl=1, swr=10)
    c.claim(0)
    c.claim(0)
    with pytest.raises(Overloaded):
        c.claim(0, "other")
    assert c.claim(5, "stale") == Hit(entry(), 5 * S, True, None)
    assert c.claim(5, lead_id="r2") == Lead("r2", 0)


# Tenants.


def test_a_key_of_two_tenants_is_an_error_and_no_answer() -> None:
    """I6: keys are digests over the tenant; one that two share is refused, entry or flight."""
    c = Caller()
    lead = c.claim(0)
    with pytest.raises(InvalidRequest):
        c.claim(0, tenant="other")
    c.fill(0, lead)
    with pytest.raises(InvalidRequest):
        c.claim(0, tenant="other")
    assert c.lookup(0, tenant="other") is None
    assert c.lookup(0, tenant="t")


def test_what_one_tenant_fetched_answers_no_waiter_of_another() -> None:
    """I6, even under a key that both hold: the other's waiter goes on waiting for its own."""
    c = Caller()
    c.claim(0, tenant="a")
    beside = c.claim(0, tenant="a", lookup=False)
    c.leave(0, "r1")
    own = c.claim(0, tenant="b")
    assert c.claim(0, tenant="b") == Pending()
    c.fill(1, beside, body=b"a's")
    assert c.late() == {}
    c.fill(2, own, body=b"b's")
    assert c.late()["r4"].entry.body == b"b's"


# What a host sees.


def test_bodies_are_not_kept_for_a_resend() -> None:
    """Whoever meets Gone claims again; small replies are kept as they are."""
    cache = ResponseCache()
    assert cache.keep(Hit(entry(), 0, False, None)) == Gone()
    assert cache.keep(Lead("r", 0)) == Lead("r", 0)


def test_status_counts() -> None:
    """Hits among all lookups, those that had to wait included."""
    c = Caller(max_entries=5, max_bytes=1000)
    lead = c.claim(0)
    c.claim(0)
    c.fill(0, lead)
    c.claim(0)
    c.claim(0)
    c.claim(0, "other")
    assert c.status() == {
        "size": 1,
        "max_size": 5,
        "bytes": 9,
        "max_bytes": 1000,
        "hits": 2,
        "misses": 2,
        "waits": 1,
        "evictions": 0,
        "hit_rate": 0.4,
        "leaders": 1,
        "waiters": 0,
        "generation": 0,
        "repeats": dict.fromkeys(("keys", "running", "followers", "replies", "bytes"), 0),
    }


def test_a_hit_writes_no_row() -> None:
    """Reading costs the store nothing, and an entry is no row either."""
    c = Caller()
    c.put(0, "k")
    c.cache.take_changes()
    c.claim(1)
    assert c.cache.take_changes().rows == []
    c.put(1, "l")
    assert [row.value for row in c.cache.take_changes().rows] == [None]


def test_only_json_and_streams_are_entries() -> None:
    """Another kind is refused before the lead is closed."""
    c = Caller()
    lead = c.claim(0)
    odd: Any = Entry(b"", "text", {})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        c.cache.fill(0, "c", "k", *lead, odd, S, 0, 0)
    assert c.status()["leaders"] == 1
