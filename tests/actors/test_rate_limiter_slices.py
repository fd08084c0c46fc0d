"""Slices: what is lent, reported, returned, recalled, and buried. Known answers."""

from typing import Any

import pytest

from actors.errors import InvalidRequest
from actors.limits import HIGH, Admitted, Lent, LimitState, Refused, Wish
from actors.mechanism import Pending
from tests.actors.rate_limiter_world import Caller, S, ns, requests, slots, tokens


def test_half_a_burst_is_lent_at_most() -> None:
    """Burst 100: of what is lacking or lent, 50 in all, whoever asks; the rest is for askers."""
    c = Caller(requests("r", 10, 100))
    assert c.exchange(0, "r", more=80).granted == 50
    assert c.exchange(0, "r", more=80).granted == 0
    assert c.exchange(0, "r", more=80, caller="b.1").granted == 0
    assert c.remaining(0, "r") == 50
    c.exchange(0, "r", back=30)
    assert isinstance(c.acquire(0, ("r", 10)), Admitted)
    assert c.exchange(0, "r", more=80, caller="b.1").granted == 20
    assert c.exchange(0, "r", back=50, more=12).granted == 12


def test_an_odd_burst_is_halved_downwards() -> None:
    """And part of a unit that is lacking counts as a whole one."""
    c = Caller(requests("r", 1, 5), requests("one", 1, 1))
    assert c.exchange(0, "one", more=1).granted == 0
    c.acquire(0, ("r", 1))
    assert c.exchange(0.5, "r", more=9).granted == 1


def test_the_answer_tells_the_state_with_what_is_lent_as_used() -> None:
    """Burst 100 at 10/s; 20 used and 30 lent leave 50, and 2 s until nothing is lacking."""
    c = Caller(requests("r", 10, 100))
    c.exchange(0, "r", more=50)
    lent = c.exchange(0, "r", used=20, takes=20)
    assert lent == Lent(0, lent.mark, 0, LimitState("r", "", "requests", 100, 50, 2 * S))
    assert lent.mark > 0
    assert c.exchange(0, "r", back=30) == Lent(
        0, 0, 0, LimitState("r", "", "requests", 100, 80, 2 * S)
    )


def test_no_time_brings_back_what_is_lent() -> None:
    """Neither lacking nor there, for as long as it takes; reported, it lacks from then on."""
    c = Caller(requests("r", 10, 100))
    c.exchange(0, "r", more=50)
    c.restart()
    c.until(10**6)
    assert c.remaining(10**6, "r") == 50
    lent = c.exchange(10**6, "r", used=40)
    assert lent.at_ns == ns(10**6)
    assert lent.state[4:] == (50, 4 * S)
    c.exchange(10**6, "r", back=10)
    assert c.remaining(10**6 + 4, "r") == 100


def test_what_is_lent_can_be_taken_by_nobody_else() -> None:
    """50 lent of 100: 50 go at once, the next needs the lent ones or a tenth of a second."""
    c = Caller(requests("r", 10, 100))
    c.exchange(0, "r", more=50)
    assert isinstance(c.acquire(0, ("r", 50)), Admitted)
    assert c.acquire(0, ("r", 1), wait=10) == Pending(0)
    assert c.until(0.1)["2"][0] == 0.1


def test_used_units_are_corrected_by_their_mark() -> None:
    """80 in two takes, one of them too much by 20, the other too little by 5."""
    c = Caller(tokens("t", 10, 200))
    c.exchange(0, "t", more=100)
    mark = c.exchange(0, "t", used=80, takes=2, back=20).mark
    assert c.remaining(0, "t") == 120
    c.restart()
    assert c.exchange(0, "t", closes=((mark, 1, 20),)).state.remaining == 140
    assert c.status(0)["slices"] == 1
    assert c.exchange(0, "t", closes=((mark, 1, -5),)).state.remaining == 135
    assert c.status(0)["slices"] == 0
    assert c.exchange(0, "t", closes=((mark, 1, 30), (mark, 0, -5))).state.remaining == 130


def test_a_correction_gives_back_at_most_what_is_still_lacking() -> None:
    """Burst 20 at 1/s: 10 used by 0, made good by 20, so nothing of it comes back at 20.1."""
    c = Caller(tokens("t", 1, 20))
    c.exchange(0, "t", more=10)
    mark = c.exchange(0, "t", used=10, takes=1).mark
    c.acquire(20, ("t", 10))
    assert c.exchange(20.1, "t", closes=((mark, 1, 10),)).state.reset_ns == ns(9.9)


def test_no_take_gives_back_more_than_it_took() -> None:
    """Whatever its holder says: 10 were used by this mark, and 30 by others."""
    c = Caller(tokens("t", 1, 100))
    c.exchange(0, "t", more=10)
    mark = c.exchange(0, "t", used=10, takes=3).mark
    c.acquire(0, ("t", 30))
    assert c.exchange(0, "t", closes=((mark, 1, 7),)).state.remaining == 67
    assert c.exchange(0, "t", closes=((mark, 1, 40),)).state.remaining == 70
    assert c.exchange(0, "t", closes=((mark, 1, 40),)).state.remaining == 70


def test_what_is_used_beyond_the_slice_is_debited_all_the_same() -> None:
    """The host may have forgotten the slice; the units are spent."""
    c = Caller(requests("r", 1, 10))
    c.exchange(0, "r", more=2)
    assert c.exchange(0, "r", used=4, back=9).state[4:] == (6, 4 * S)
    assert c.exchange(0, "r", used=9, caller="b.1").state[4:] == (0, 13 * S)
    assert c.status(0)["slices"] == 0


def test_an_unknown_limit_lends_nothing() -> None:
    """Its state is empty, and its neighbours in the exchange are served."""
    c = Caller(requests("r", 1, 10))
    wishes = (Wish("gone", "x", 3, 3, 3, 3, ((1, 1, 1),)), Wish("r", "", 0, 0, 0, 3, ()))
    gone, known = c.limiter.exchange(0, "a.1", wishes)
    assert gone == Lent(0, 0, 0, LimitState("gone", "x", "requests", 0, 0, 0))
    assert known.granted == 3


def test_wishes_are_served_in_their_order() -> None:
    """The second of two for one limit finds what the first has left."""
    c = Caller(requests("r", 1, 10))
    wish = Wish("r", "", 0, 0, 0, 3, ())
    assert [lent.granted for lent in c.limiter.exchange(0, "a.1", (wish, wish))] == [3, 2]


def test_lent_slots_come_back_from_their_holder_only() -> None:
    """Of 10 slots 3 are taken and 2 lent; used and taken make half."""
    c = Caller(slots("s", 10))
    c.acquire(0, ("s", 3))
    assert c.exchange(0, "s", more=9).granted == 2
    c.restart()
    assert c.exchange(10**6, "s", used=2, takes=1, closes=((1, 1, 5),)).state.remaining == 5
    assert c.exchange(10**6, "s", back=1).state.remaining == 6
    c.settle(10**6, "1")
    assert c.remaining(10**6, "s") == 9


def test_who_is_stopped_by_slices_only_has_them_recalled() -> None:
    """Even one who does not wait; admitted with the exchange that returns them."""
    c = Caller(requests("r", 1, 10))
    c.exchange(0, "r", more=5, caller="a.old")
    c.exchange(0, "r", caller="a.new")
    c.acquire(0, ("r", 5))
    assert c.acquire(0, ("r", 1)) == Pending(0)
    assert c.recalled() == [("a.new", "r", "")]
    assert c.until(0.2) == {}
    c.exchange(0.2, "r", used=4, back=1, caller="a.new")
    assert c.late() == {"2": Admitted(ns(0.2), (LimitState("r", "", "requests", 10, 0, ns(9.8)),))}
    assert c.status(0.2)["slices"] == 0


def test_who_does_not_hear_of_his_slices_in_time_is_refused() -> None:
    """250 ms after the recall, with the time to come back as if they were used up."""
    c = Caller(requests("r", 1, 10))
    c.exchange(0, "r", more=5)
    c.acquire(0, ("r", 5))
    c.acquire(0, ("r", 2))
    c.restart()
    came = c.until(9)
    [(at, reply)] = came.values()
    assert (at, type(reply), reply.retry_after_ns) == (0.25, Refused, ns(1.75))


def test_a_slice_is_recalled_once_until_its_holder_speaks() -> None:
    """Two newcomers, two slices, two recalls; who keeps something is told again."""
    c = Caller(requests("r", 1, 20))
    c.exchange(0, "r", more=4, caller="a.1")
    c.exchange(0, "r", more=4, caller="b.1")
    c.acquire(0, ("r", 12))
    c.acquire(0, ("r", 8), wait=60)
    c.acquire(0, ("r", 1), wait=60)
    assert sorted(c.recalled()) == [("a.1", "r", ""), ("b.1", "r", "")]
    c.restart()
    c.acquire(0, ("r", 1), wait=60)
    assert c.recalled() == []
    c.exchange(0, "r", back=1, caller="a.2")
    assert c.recalled() == [("a.2", "r", "")]
    c.exchange(0, "r", back=3, caller="a.2")
    assert c.recalled() == []


def test_nothing_is_lent_where_somebody_waits_or_did_a_second_ago() -> None:
    """A recall is not answered by lending the same to somebody else."""
    c = Caller(requests("r", 10, 100), requests("other", 10, 100))
    c.exchange(0, "r", more=50)
    c.acquire(0, ("r", 50))
    c.acquire(0, ("r", 1))
    assert c.exchange(0, "r", more=9, caller="b.1").granted == 0
    assert c.exchange(0, "r", back=50, more=50).granted == 0
    assert list(c.late()) == ["2"]
    assert c.exchange(0.9, "r", more=50).granted == 0
    assert c.exchange(0.9, "other", more=50).granted == 50
    assert c.exchange(1, "r", more=50).granted == 9


def test_who_would_be_refused_without_any_slices_is_refused_at_once() -> None:
    """Nobody is disturbed for one whom it would not help."""
    c = Caller(requests("r", 1, 10), requests("full", 1, 1))
    c.exchange(0, "r", more=5)
    c.acquire(0, ("r", 5), ("full", 1))
    refused = c.acquire(0, ("r", 1), ("full", 1), wait=0.5)
    assert (refused.limit, refused.retry_after_ns) == ("r", S)
    assert c.recalled() == []
    assert isinstance(c.acquire(0, ("r", 11), wait=99), Refused)
    assert c.recalled() == []


def test_slices_do_not_count_in_whether_it_is_worth_to_wait() -> None:
    """2 more than there are without slices: 2 s, not 7; within 3 s of patience."""
    c = Caller(tokens("t", 1, 10))
    c.exchange(0, "t", more=5)
    c.acquire(0, ("t", 5))
    assert c.acquire(0, ("t", 7), wait=3) == Pending(2 * S)
    assert c.recalled() == [("a.1", "t", "")]
    c.exchange(0.1, "t", back=5)
    assert list(c.until(2)) == ["2"]


def test_slices_that_stop_somebody_later_are_recalled_then() -> None:
    """At 1 s its other limit lets it go, but of this one the rest has been taken meanwhile.

    It was to be refused at 1.1 s; as slices are all that is in the way, they get their time.
    """
    c = Caller(requests("slow", 1, 1), requests("r", 1, 100))
    c.exchange(0, "r", more=50)
    c.acquire(0, ("slow", 1))
    assert c.acquire(0, ("slow", 1), ("r", 50), wait=1.1) == Pending(S)
    assert c.recalled() == []
    # High goes before it.
    c.acquire(0.5, ("r", 50), priority=HIGH)
    assert c.until(1) == {}
    assert c.recalled() == [("a.1", "r", "")]
    assert c.until(1.2) == {}
    c.exchange(1.2, "r", back=50)
    assert list(c.late()) == ["2"]


def test_a_limit_that_newcomers_close_is_recalled_when_the_others_open() -> None:
    """The tokens are recalled at once; of the slots enough were left, until somebody passed.

    They are recalled when the tokens are back, and the one who waits is given that time too.
    """
    c = Caller(tokens("t", 1, 10), slots("s", 4))
    c.exchange(0, "t", more=5, caller="a.1")
    c.exchange(0, "s", more=2, caller="b.1")
    assert c.acquire(0, ("t", 6), ("s", 2)) == Pending(0)
    assert isinstance(c.acquire(0, ("s", 1)), Admitted)
    assert c.recalled() == [("a.1", "t", "")]
    c.exchange(0.2, "t", back=5, caller="a.1")
    assert c.recalled() == [("b.1", "s", "")]
    assert c.until(0.4) == {}
    c.exchange(0.4, "s", back=2, caller="b.1")
    assert list(c.late()) == ["1"]


def test_the_longest_wait_is_longer_by_one_recall_at_most() -> None:
    """A holder that speaks, but keeps what it has, delays nobody for ever."""
    c = Caller(requests("r", 1, 100))
    c.exchange(0, "r", more=50)
    c.acquire(0, ("r", 50))
    c.acquire(0, ("r", 50), wait=1)
    came: dict[str, Any] = {}
    for step in range(1, 20):
        came |= c.until(step / 10)
        c.exchange(step / 10, "r")
    [(at, reply)] = came.values()
    assert (at, type(reply)) == (1.25, Refused)


def test_an_owner_has_its_own_slice_recalled() -> None:
    """It asks directly for more than it was lent."""
    c = Caller(tokens("t", 1, 10))
    c.exchange(0, "t", more=5)
    assert c.acquire(0, ("t", 8), caller="a.1") == Pending(0)
    assert c.recalled() == [("a.1", "t", "")]
    c.exchange(0, "t", back=5)
    assert list(c.late()) == ["1"]


def test_lent_slots_are_recalled_too() -> None:
    """Nobody can tell when used ones are free; lent ones are at the next word."""
    c = Caller(slots("s", 4))
    c.acquire(0, ("s", 2))
    assert c.exchange(0, "s", more=2).granted == 0
    c.settle(0, "1")
    assert c.exchange(0, "s", more=2).granted == 2
    assert c.acquire(0, ("s", 3)) == Pending(0)
    assert c.recalled() == [("a.1", "s", "")]
    c.exchange(0.1, "s", back=1)
    assert list(c.late()) == ["2"]
    assert isinstance(c.acquire(0.1, ("s", 1), wait=0), Pending)


def test_high_priority_goes_into_debt_beside_what_is_lent() -> None:
    """Burst 4, debt 4, 2 lent: six for high, and then only the lent ones are missing."""
    c = Caller(requests("r", 1, 4, debt=4))
    c.exchange(0, "r", more=4)
    assert sum(isinstance(c.acquire(0, ("r", 1), priority=HIGH), Admitted) for _ in range(6)) == 6
    assert c.acquire(0, ("r", 1), priority=HIGH) == Pending(0)
    c.exchange(0, "r", back=2)
    assert list(c.late()) == ["7"]


def test_what_the_dead_were_lent_counts_as_used() -> None:
    """Slots come back; takes end with nothing given back; later words of theirs do nothing."""
    c = Caller(requests("r", 1, 10), tokens("t", 1, 100), slots("s", 4))
    c.exchange(0, "r", more=5)
    c.exchange(0, "t", more=50)
    c.exchange(0, "s", more=2)
    mark = c.exchange(0, "t", used=20, takes=1).mark
    c.exchange(0, "r", more=1, caller="b.1")
    c.restart()
    assert c.bury(0, "a") == 3
    assert [c.remaining(0, name) for name in "rts"] == [5, 50, 4]
    assert [c.look(5, name).reset_ns for name in "rt"] == [0, 45 * S]
    assert c.exchange(0, "t", closes=((mark, 1, 20),)).state.remaining == 55
    assert c.bury(0, "a") == 0


def test_what_the_dead_held_directly_ends_too() -> None:
    """Slots come back, tokens stay as estimated, tickets go; of others nothing does."""
    c = Caller(tokens("t", 1, 100), slots("s", 2))
    c.acquire(0, ("t", 60), ("s", 1), caller="a.1")
    c.acquire(0, ("s", 1), caller="a.2")
    c.acquire(0, ("s", 1), caller="a.2", wait=10)
    c.acquire(0, ("s", 1), caller="b.1", wait=10)
    c.acquire(0, ("t", 10), caller="ab.1")
    assert set(c.limiter.owners()) == {"a", "b", "ab"}
    c.restart()
    assert set(c.limiter.owners()) == {"a", "b", "ab"}
    assert c.bury(1, "a") == 3
    assert list(c.late()) == ["4"]
    assert [c.remaining(1, name) for name in "ts"] == [31, 1]
    assert set(c.limiter.owners()) == {"b", "ab"}
    assert c.status(1)["holds"] == 2


def test_owners_are_those_who_hold_anything() -> None:
    """A slice, an open take, a hold, a ticket: until each has ended."""
    c = Caller(tokens("t", 1, 10), slots("s", 1))
    c.exchange(0, "t", more=2)
    mark = c.exchange(0, "t", used=2, takes=1).mark
    c.acquire(0, ("s", 1), caller="plain")
    c.acquire(0, ("s", 1), caller="w.1", wait=5)
    assert set(c.limiter.owners()) == {"a", "plain", "w"}
    c.exchange(0, "t", closes=((mark, 1, 0),))
    c.undo(0, "2")
    c.settle(0, "1")
    assert set(c.limiter.owners()) == set()


def test_a_limit_changed_in_place_keeps_what_is_lent() -> None:
    """Of a burst of 20 at another pace; lowered below twice what is lent, it is recalled."""
    c = Caller(requests("r", 1, 10))
    c.exchange(0, "r", more=5)
    c.policy(0, requests("r", 7, 20))
    assert c.remaining(0, "r") == 15
    assert c.exchange(0, "r", more=9).granted == 5
    c.policy(0, requests("r", 7, 12))
    assert c.recalled() == [("a.1", "r", "")]
    assert c.exchange(0, "r", used=6, back=4).state[4] == 6


@pytest.mark.parametrize("now", [slots("r", 10), requests("other", 1, 10)])
def test_slices_of_a_limit_that_is_gone_go_with_it(now: dict[str, Any]) -> None:
    """Or counts something else. Their holder is told, lest it goes on with a new limit."""
    c = Caller(requests("r", 1, 10))
    c.exchange(0, "r", more=5)
    c.policy(0, now)
    assert c.recalled() == [("a.1", "r", "")]
    assert (c.status(0)["slices"], set(c.limiter.owners())) == (0, set())
    c.policy(0, requests("r", 1, 10))
    assert c.exchange(0, "r", back=5).state.remaining == 10
    c.late()
    assert {table for table, _ in c.stored} == {"policy"}


def test_a_gate_is_kept_while_it_is_lent() -> None:
    """And forgotten after that, with all rows."""
    c = Caller(requests("u", 1, 10, scope="user"))
    c.exchange(0, "u", subject="x y", more=3)
    mark = c.exchange(0, "u", subject="x y", used=1, takes=1).mark
    c.until(100)
    c.restart()
    assert c.exchange(100, "u", subject="x y", back=2).state.remaining == 10
    c.until(200)
    assert len(c.status(200)["limits"]) == 1
    c.exchange(200, "u", subject="x y", closes=((mark, 1, 0),))
    c.until(300)
    assert c.status(300)["limits"] == []
    assert {table for table, _ in c.stored} == {"policy"}


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"used": -1}, "wishes[1].used"),
        ({"takes": -1}, "wishes[1].takes"),
        ({"back": -1}, "wishes[1].back"),
        ({"more": 2**63}, "wishes[1].more"),
        ({"used": 1.5}, "wishes[1].used"),
        ({"closes": ((1, -1, 0),)}, "wishes[1].closes"),
        ({"closes": ((1, 1, 2**63),)}, "wishes[1].closes"),
        ({"subject": "x" * 1001}, "subject of limit r"),
    ],
)
def test_a_bad_wish_is_refused_by_name(wish: dict[str, Any], param: str) -> None:
    """And none of those beside it is fulfilled."""
    c = Caller(requests("r", 1, 10))
    good = Wish("r", "", 0, 0, 0, 3, ())
    with pytest.raises(InvalidRequest) as caught:
        c.limiter.exchange(0, "a.1", (good, good._replace(**wish)))
    assert caught.value.param == param
    assert c.remaining(0, "r") == 10


def test_what_comes_and_goes_within_a_batch_is_not_stored() -> None:
    """Of two holds the one that is settled leaves no row."""
    c = Caller(requests("r", 1, 10))
    c.late()
    c.acquire(0, ("r", 1), id="short")
    c.acquire(0, ("r", 1), id="long")
    c.settle(0, "short")
    rows = c.limiter.take_changes().rows
    assert [(row.table, row.key) for row in rows] == [("buckets", "r "), ("holds", "long")]


def test_nothing_is_withheld_where_some_ask_and_others_borrow() -> None:
    """I13 and I1: burst 50 at 20/s, more wanted all the time: 50 + 20 · 60 within a minute.

    Two owners spend what they are lent at once and tell of it 50 ms later; others ask, and
    do not wait. All but the last slices are used, and never more than there is.
    """
    c = Caller(requests("r", 20, 50))
    spent = {"a.1": 0, "b.1": 0}
    lent_used = 0
    for step in range(60 * 20):
        at = step / 20
        for owner in spent:
            granted = c.exchange(at, "r", caller=owner, used=spent[owner], more=10).granted
            spent[owner] = granted
            lent_used += granted
        for _ in range(3):
            c.acquire(at, ("r", 1))
        c.until(at + 0.05)
    admitted = c.status(60)["holds"]
    assert admitted > 0
    assert lent_used > 0
    assert 0.95 * 1250 <= admitted + lent_used <= 1250
