"""How long answers live, and how much room they have: known answers, one claim each."""

from typing import Any

import pytest

from actors.cache_flights import Hit, Lead
from actors.errors import InvalidRequest
from actors.mechanism import Pending
from tests.actors.response_cache_world import Caller, S, entry, ns

# Time to live, staleness.


def test_time_to_live() -> None:
    """TTL 2: at t=1 a hit, at t=2 a miss."""
    c = Caller()
    c.put(0, "k", ttl=2)
    assert c.claim(1) == Hit(entry(), S, False, None, S)
    assert isinstance(c.claim(2), Lead)


def test_stale_while_revalidate() -> None:
    """TTL 600 and 30 more: at 599 fresh, at 615 stale and one refresh, at 631 a miss."""
    c = Caller()
    c.put(0, "k", ttl=600, swr=30)
    assert c.claim(599) == Hit(entry(), 599 * S, False, None, S)
    assert c.claim(615) == Hit(entry(), 615 * S, True, Lead("r3", 0))
    assert c.claim(615) == Hit(entry(), 615 * S, True, None)
    c.leave(616, "r3")
    refresh = c.claim(617)
    assert refresh.lead == Lead("r5", 0)
    assert c.fill(618, refresh.lead, body=b"new", ttl=10)
    assert c.claim(619).entry.body == b"new"
    assert isinstance(c.claim(631), Lead)


def test_past_staleness_others_wait_for_the_refresh() -> None:
    """A refresh that outlives the stale answer is the one leader."""
    c = Caller()
    c.put(0, "k", ttl=600, swr=30)
    refresh = c.claim(615)
    assert c.claim(631) == Pending()
    c.fill(632, refresh.lead)
    assert list(c.late()) == ["r3"]


def test_a_stale_claim_again_keeps_its_refresh() -> None:
    """A resend does not lose the duty, or give it to two."""
    c = Caller()
    c.put(0, "k", ttl=1, swr=30)
    assert c.claim(2).lead == Lead("r2", 0)
    assert c.claim(2, lead_id="r2").lead == Lead("r2", 0)
    assert c.claim(2).lead is None


@pytest.mark.parametrize(
    ("at", "stale_ok", "stale"),
    [
        (9, False, False),
        (9, True, False),
        (10, False, None),
        (10, True, True),
        (69, True, True),
        (70, True, None),
    ],
)
def test_stale_if_error(at: int, stale_ok: bool, stale: bool | None) -> None:
    """TTL 10 and 60 more when the provider is down; only those who say so get it."""
    c = Caller()
    c.put(0, "k", ttl=10, sie=60)
    hit = c.lookup(at, stale_ok=stale_ok)
    fresh_ns = max(0, 10 - at) * S
    assert hit == (None if stale is None else Hit(entry(), at * S, stale, None, fresh_ns))


def test_stale_if_error_alone_is_a_miss_to_a_claim() -> None:
    """Without revalidation the asker leads, fails, and only then looks for the stale answer."""
    c = Caller()
    c.put(0, "k", ttl=10, sie=60)
    assert isinstance(c.claim(20), Lead)
    c.leave(21, "r2")
    assert c.lookup(21, stale_ok=True).stale


@pytest.mark.parametrize(("at", "hit"), [(4, True), (5, False)])
def test_a_clients_max_age(at: int, hit: bool) -> None:
    """An answer of that age or above is a miss for this client, and for no other."""
    c = Caller()
    c.put(0, "k", ttl=60)
    assert isinstance(c.claim(at, max_age_ns=5 * S), Hit) is hit
    assert isinstance(c.claim(at), Hit)
    assert (c.lookup(at, max_age_ns=5 * S) is not None) is hit


# Bounds.


def test_least_recently_used_goes_first() -> None:
    """Room for 2: put 1, 2, 3 → 1 is gone, read 2, put 4 → 3 is gone."""
    c = Caller(max_entries=2)
    for key in "123":
        c.put(0, key)
    assert c.lookup(0, "1") is None
    assert c.lookup(0, "2")
    c.put(0, "4")
    assert [bool(c.lookup(0, key)) for key in "1234"] == [False, True, False, True]
    assert c.status()["evictions"] == 2


def test_bytes_are_bounded() -> None:
    """What no longer fits pushes the oldest out; sizes count body, key and meta."""
    c = Caller(max_bytes=300)
    for key in "123":
        assert c.put(0, key, body=b"x" * 97)
    assert (c.status()["size"], c.status()["bytes"]) == (3, 300)
    c.put(0, "4", body=b"x" * 98)
    assert (c.status()["size"], c.status()["bytes"]) == (2, 201)


@pytest.mark.parametrize("policy", [{"max_entry_bytes": 50}, {"max_bytes": 50}, {"max_entries": 0}])
def test_what_is_too_large_to_keep_still_answers_waiters(policy: dict[str, int]) -> None:
    """It is dropped, displaces nothing, and those who waited for it have it."""
    c = Caller(**policy)
    lead = c.claim(0)
    c.claim(0)
    assert not c.fill(0, lead, body=b"x" * 51)
    assert c.late()["r2"].entry.body == b"x" * 51
    assert c.status()["bytes"] == 0


def test_an_answer_that_asked_not_to_be_kept_still_answers_waiters() -> None:
    """A time to live of zero keeps nothing."""
    c = Caller()
    lead = c.claim(0)
    c.claim(0)
    assert not c.fill(0, lead, ttl=0, swr=10, sie=10)
    assert isinstance(c.late()["r2"], Hit)
    assert c.lookup(0, stale_ok=True) is None


def test_dead_entries_leave_by_themselves() -> None:
    """At the first whole second after their last use, at the latest."""
    c = Caller()
    c.put(0, "k", ttl=1.5, swr=1)
    c.put(0, "l", ttl=10)
    assert c.cache.advance(ns(2.9)) == ns(3)
    assert c.status(2.9)["size"] == 2
    assert c.cache.advance(ns(3)) == ns(10)
    assert c.status(3)["size"] == 1


def test_what_is_gone_wakes_nobody() -> None:
    """An entry that was purged has no time left at which anything is due."""
    c = Caller()
    c.put(0, "k")
    assert c.cache.advance(0) == 300 * S
    c.cache.purge(0, "c", "all")
    assert c.cache.advance(0) is None


def test_a_new_policy_evicts_and_keeps_the_rest() -> None:
    """Applied in place: what fits stays, the same revision again changes nothing."""
    c = Caller()
    c.put(0, "large", body=b"x" * 1000)
    for key in "123":
        c.put(0, key)
    c.cache.configure(0, "c", "2", {"max_entries": 2, "max_entry_bytes": 500})
    assert [bool(c.lookup(0, key)) for key in ("large", "1", "2", "3")] == [False] * 2 + [True] * 2
    c.cache.configure(0, "c", "2", {"max_entries": 1})
    assert c.status()["max_size"] == 2


@pytest.mark.parametrize(
    "policy", [{"max_bytes": -1}, {"max_bytes": 1.5}, {"max_entries": True}, {"size": 1}]
)
def test_an_invalid_policy_changes_nothing(policy: dict[str, Any]) -> None:
    """The last good one stays in force, and the error names the field."""
    c = Caller(max_entries=7)
    with pytest.raises(InvalidRequest) as caught:
        c.cache.configure(0, "c", "2", policy)
    assert caught.value.param == next(iter(policy))
    assert c.status()["max_size"] == 7


def test_copies_that_were_served_count_as_uses() -> None:
    """Room for two: the one that was read elsewhere stays; of unknown ones only hits are kept."""
    c = Caller(max_entries=2)
    c.put(0, "1")
    c.put(0, "2")
    c.cache.seen(S, "c", (("1", 5), ("unknown", 2)))
    assert c.status(1)["hits"] == 7
    c.put(1, "3")
    assert [key for key in "123" if c.lookup(1, key)] == ["1", "3"]
    assert c.cache.take_changes().views == set()
