"""Requests that come again under a key of their client's."""

import pytest

from actors.cache_entries import Entry
from actors.cache_flights import Unanswered
from actors.errors import IdempotencyMismatch, Overloaded
from actors.mechanism import Gone, Pending, Row
from actors.repeats import Begun, Forgotten, Repeated
from actors.response_cache import ResponseCache
from tests.actors.repeats_world import DAY, REPLY, WAIT, S, World


def test_repeats_follow_the_first_and_get_its_reply() -> None:
    """While it runs they wait; its reply comes late to them, and at once to those after it."""
    w = World()
    assert w.begin(0, "a") == Begun("a")
    assert [w.begin(1, id) for id in "bc"] == [Pending(), Pending()]
    w.finish(2, "a")
    assert w.late == {"b": Repeated(REPLY), "c": Repeated(REPLY)}
    assert w.begin(3, "d") == Repeated(REPLY)


def test_another_request_under_the_same_key_is_a_mismatch() -> None:
    """While the first runs, when it is done, and when its reply is forgotten."""
    w = World()
    w.begin(0, "a")
    for end in (lambda: None, lambda: w.finish(1, "a"), w.start):
        end()
        with pytest.raises(IdempotencyMismatch):
            w.begin(2, "b", digest=b"other")


def test_a_key_is_remembered_for_a_day() -> None:
    """From when it was done; after that it is a new one."""
    w = World()
    w.begin(0, "a")
    w.finish(5, "a")
    assert w.begin(5 + 24 * 3600 - 1, "b") == Repeated(REPLY)
    assert w.begin(5 + 24 * 3600, "c") == Begun("c")


def test_whoever_leaves_hands_over_to_the_first_follower() -> None:
    """In order of arrival; the last one leaves a free key."""
    w = World()
    for id in "abc":
        w.begin(0, id)
    w.leave(1, "a")
    assert w.late == {"b": Begun("b")}
    w.leave(1, "b")
    assert w.late == {"c": Begun("c")}
    w.leave(1, "c")
    assert not w.live
    assert w.begin(2, "d") == Begun("d")


def test_a_follower_that_leaves_is_told_nothing() -> None:
    """Neither the reply nor that it should run."""
    w = World()
    for id in "abc":
        w.begin(0, id)
    w.leave(1, "b")
    w.leave(1, "a")
    assert w.late == {"c": Begun("c")}
    w.finish(2, "c")
    assert not w.late


def test_a_first_whose_process_died_may_have_been_charged() -> None:
    """At the burial its key is done, and nobody runs it again; no time before that does it."""
    w = World()
    w.begin(0, "a", caller="dead.1")
    w.begin(1, "b", wait=10**7)
    w.pass_to(10**6)
    assert set(w.repeats.owners()) == {"dead", "c"}
    assert w.bury(10**6, "dead") == 1
    assert w.late == {"b": Forgotten()}
    assert w.begin(10**6, "c") == Forgotten()
    assert w.bury(10**6, "dead") == 0
    assert set(w.repeats.owners()) == set()


def test_a_dead_process_follows_nobody() -> None:
    """What it waits for is told to others only, and it inherits nothing."""
    w = World()
    w.begin(0, "a", caller="alive.1")
    for id, caller in (("b", "dead.1"), ("c", "alive.2"), ("d", "dead.2")):
        w.begin(0, id, caller=caller)
    assert w.bury(1, "dead") == 2
    w.leave(2, "a")
    assert w.late == {"c": Begun("c")}
    w.finish(3, "c")
    assert not w.late


def test_what_was_handed_over_is_the_heirs() -> None:
    """The death of who left it means nothing, that of the heir ends it."""
    w = World()
    w.begin(0, "a", caller="one.1")
    w.begin(0, "b", caller="two.1")
    w.leave(1, "a")
    assert w.bury(2, "one") == 0
    w.start()
    assert w.bury(2, "two") == 1
    assert w.begin(3, "c") == Forgotten()


def test_a_late_end_still_counts() -> None:
    """Buried, a first that lives after all may bring its reply, or that it cost nothing."""
    w = World()
    for key in "kl":
        w.begin(0, "a" + key, key, caller="dead.1")
    assert w.bury(100, "dead") == 2
    w.finish(101, "ak", key="k")
    w.leave(101, "al", "l")
    assert w.begin(102, "b", "k") == Repeated(REPLY)
    assert w.begin(102, "c", "l") == Begun("c")


def test_patience_ends() -> None:
    """A follower waits no longer than it said; without patience it does not wait at all."""
    w = World()
    w.begin(0, "a")
    w.begin(0, "b", wait=5)
    assert w.begin(0, "c", wait=0) == Unanswered("max_wait")
    w.pass_to(5)
    assert w.late == {"b": Unanswered("max_wait")}
    w.finish(6, "a")
    assert not w.late


def test_asking_again_changes_nothing() -> None:
    """The same id gets the same word, while it runs and while it follows, by any name."""
    w = World()
    for caller in ("c", "d"):
        assert w.begin(0, "a", caller=caller) == Begun("a")
        assert w.begin(0, "b", caller=caller) == Pending()
    assert set(w.repeats.owners()) == {"d"}
    assert w.repeats.status()["followers"] == 1
    with pytest.raises(IdempotencyMismatch):
        w.begin(0, "b", "another key")


@pytest.mark.parametrize("id", ["b", "nobody"])
def test_only_who_runs_a_key_ends_it(id: str) -> None:
    """A follower's or a stranger's finish is nothing, nor is a second end of the first."""
    w = World()
    w.begin(0, "a")
    w.begin(0, "b")
    w.finish(1, id)
    assert w.begin(1, "c", wait=0) == Unanswered("max_wait")
    w.finish(1, "a")
    w.leave(2, "a")
    w.finish(2, "a", None)
    assert w.begin(2, "d") == Repeated(REPLY)


def test_a_restart_forgets_replies_and_nothing_else() -> None:
    """Done keys are Forgotten, running ones run on, followers keep their place."""
    w = World()
    w.begin(0, "a", "done")
    w.finish(0, "a", key="done")
    for id in "bcd":
        w.begin(0, id, "running")
    w.start()
    assert w.begin(1, "e", "done") == Forgotten()
    w.leave(1, "b", "running")
    assert w.late == {"c": Begun("c")}
    w.finish(2, "c", key="running")
    assert w.late == {"d": Repeated(REPLY)}


def test_replies_are_bounded_and_the_least_wanted_goes_first() -> None:
    """An evicted reply is Forgotten; one too large is told to followers, and not kept."""
    big = Entry(b"x" * 40, "json", {})
    w = World(max_bytes=100)
    for key in "123":
        w.begin(0, key, key)
        w.finish(0, key, big, key)
        assert w.begin(0, "again", "1") == Repeated(big)
    assert w.begin(1, "again", "2") == Forgotten()
    assert w.repeats.status()["bytes"] <= 100
    huge = Entry(b"x" * 101, "json", {})
    w.begin(2, "a")
    w.begin(2, "b")
    w.finish(2, "a", huge)
    assert w.late == {"b": Repeated(huge)}
    assert w.begin(2, "c") == Forgotten()


def test_keys_and_followers_are_bounded() -> None:
    """Keys done for longest make room; where all run, and for followers, it is Overloaded."""
    w = World(max_keys=2, max_followers=1)
    w.begin(0, "a", "1")
    w.finish(0, "a", key="1")
    w.begin(0, "b", "2")
    assert w.begin(0, "c", "3") == Begun("c")
    with pytest.raises(Overloaded):
        w.begin(0, "d", "4")
    w.begin(0, "e", "2")
    with pytest.raises(Overloaded):
        w.begin(0, "f", "2")
    assert w.repeats.status() == {
        "keys": 2,
        "running": 2,
        "followers": 1,
        "replies": 0,
        "bytes": 0,
    }


def test_the_response_cache_hosts_it() -> None:
    """Its commands, its timer, its rows, and no reply stored with a body."""
    cache = ResponseCache()
    assert cache.repeat_begin(0, "c", "a", "k", b"d", WAIT) == Begun("a")
    assert cache.repeat_begin(0, "c", "b", "k", b"d", WAIT) == Pending()
    assert cache.advance(0) == WAIT
    cache.repeat_leave(0, "c", "k", "b")
    cache.repeat_finish(S, "c", "k", "a", REPLY)
    assert cache.advance(S) == S + DAY
    assert cache.keep(Repeated(REPLY)) == Gone()
    again = ResponseCache()
    again.load(Row(t, k, v) for t, k, v in cache.take_changes().rows if v is not None)
    assert again.repeat_begin(2 * S, "c", "c", "k", b"d", WAIT) == Forgotten()
    assert again.status(0, "c")["repeats"]["keys"] == 1
