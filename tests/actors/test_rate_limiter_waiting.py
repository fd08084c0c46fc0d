"""Tickets: whose turn it is, who is held up by whom, and for how long at most."""

from typing import Any

import pytest

from actors import obstacles
from actors.errors import Overloaded
from actors.limits import HIGH, LOW, NORMAL, Admitted, Refused
from actors.mechanism import Pending
from tests.actors.rate_limiter_world import Caller, S, ns, requests, slots, tokens


def admitted_at(came: dict[str, tuple[float, object]]) -> dict[str, float]:
    """{id: second of the admission} of those that were admitted."""
    return {
        id: at
        for id, (at, reply) in came.items()
        if isinstance(reply, Admitted) and reply.at_ns == ns(at)
    }


def test_a_ticket_waits_for_its_turn_and_takes_only_then() -> None:
    """Sleeping for a token and then not taking it is the textbook's defect."""
    c = Caller(requests("r", 1, 2))
    c.acquire(0, ("r", 2))
    assert c.acquire(0, ("r", 1), wait=10) == Pending(S)
    assert c.acquire(0.5, ("r", 1), wait=10) == Pending(ns(1.5))
    assert c.look(0.5, "r").reset_ns == ns(1.5)
    assert admitted_at(c.until(2)) == {"2": 1, "3": 2}
    assert c.look(2, "r").reset_ns == 2 * S


def test_equal_tickets_are_served_in_order_of_arrival() -> None:
    """I11: one by one as the limit brings them, across a restart too."""
    c = Caller(requests("r", 2, 1))
    c.acquire(0, ("r", 1))
    for at in (0, 0.1, 0.2, 0.2):
        c.acquire(at, ("r", 1), wait=10)
    assert admitted_at(c.until(1)) == {"2": 0.5, "3": 1}
    c.restart()
    assert admitted_at(c.until(9)) == {"4": 1.5, "5": 2}


def test_priority_goes_before_arrival() -> None:
    """High before normal before low, each in order of arrival."""
    c = Caller(requests("r", 1, 1))
    c.acquire(0, ("r", 1))
    for priority in (LOW, NORMAL, HIGH, LOW, NORMAL, HIGH):
        assert isinstance(c.acquire(0, ("r", 1), priority=priority, wait=10), Pending)
    assert list(admitted_at(c.until(9))) == ["4", "7", "3", "6", "2", "5"]


def test_high_priority_at_the_bound_of_its_debt_waits_first_in_line() -> None:
    """And a normal one gets nothing before the debt is paid."""
    c = Caller(requests("r", 1, 1, debt=1))
    c.acquire(0, ("r", 1))
    assert c.acquire(0, ("r", 1), wait=10) == Pending(S)
    assert isinstance(c.acquire(0, ("r", 1), priority=HIGH), Admitted)
    assert c.acquire(0, ("r", 1), priority=HIGH, wait=10) == Pending(S)
    assert admitted_at(c.until(9)) == {"4": 1, "2": 3}


def test_a_newcomer_does_not_overtake_those_who_wait_for_the_same_limit() -> None:
    """A small take would fit, but a large one was there first; a high one goes before both."""
    c = Caller(tokens("t", 10, 100))
    c.acquire(0, ("t", 100))
    assert c.acquire(0, ("t", 60), wait=10) == Pending(6 * S)
    assert c.acquire(3, ("t", 10)).retry_after_ns == 4 * S
    assert isinstance(c.acquire(3, ("t", 10), priority=HIGH), Admitted)
    assert admitted_at(c.until(9)) == {"2": 7}


def test_nobody_waits_for_a_limit_that_he_does_not_fall_under() -> None:
    """Only the limits that refuse are held up: team b passes, and so does the open limit."""
    c = Caller(requests("all", 10, 5), requests("team", 1, 1, scope="team"))
    c.acquire(0, ("all", 1), ("team", 1, "a"))
    assert isinstance(c.acquire(0, ("all", 1), ("team", 1, "a"), wait=9), Pending)
    assert isinstance(c.acquire(0, ("all", 1), ("team", 1, "b")), Admitted)
    assert isinstance(c.acquire(0, ("all", 1)), Admitted)
    assert isinstance(c.acquire(0, ("all", 1), ("team", 1, "a")), Refused)


def test_every_limit_that_refuses_is_held_up() -> None:
    """One who waits for two limits loses neither to smaller takes.

    At 2 s x has the 20 that the first wants, so it is not held up, and 10 of it may go.
    """
    c = Caller(tokens("x", 10, 100), tokens("y", 10, 100))
    c.acquire(0, ("x", 100), ("y", 100))
    c.acquire(0, ("x", 20), ("y", 50), wait=9)
    c.acquire(0, ("x", 10), wait=9)
    c.acquire(0, ("y", 10), wait=9)
    assert admitted_at(c.until(9)) == {"3": 2, "2": 5, "4": 6}


def test_a_cancelled_ticket_simply_goes() -> None:
    """Nothing was taken, its id gets no reply, those behind it move up."""
    c = Caller(tokens("t", 10, 100))
    c.acquire(0, ("t", 100))
    c.acquire(0, ("t", 90), wait=10)
    c.acquire(0, ("t", 10), wait=10)
    c.undo(2, "2")
    late = c.late()
    assert list(late) == ["3"]
    assert late["3"].at_ns == 2 * S
    assert c.status(2)["waiting"] == 0
    assert c.remaining(2, "t") == 10


def test_a_ticket_that_has_waited_too_long_is_refused() -> None:
    """I11: at its `max_wait`, with the time to come back; those behind it move up."""
    c = Caller(tokens("t", 10, 100))
    c.acquire(0, ("t", 100))
    c.acquire(0, ("t", 50), wait=5)
    c.acquire(0.5, ("t", 5), wait=6)
    assert isinstance(c.acquire(1, ("t", 10), priority=HIGH), Admitted)
    came = c.until(9)
    at, reply = came["2"]
    assert isinstance(reply, Refused)
    assert (at, reply.limit, reply.retry_after_ns) == (5, "t", ns(1.5))
    assert admitted_at(came) == {"3": 5}


def test_who_would_wait_longer_than_he_may_is_refused_at_once() -> None:
    """The estimate counts those ahead; the refusal says when to come back."""
    c = Caller(requests("r", 1, 1))
    c.acquire(0, ("r", 1))
    assert [c.acquire(0, ("r", 1), wait=3) for _ in range(3)] == [
        Pending(S),
        Pending(2 * S),
        Pending(3 * S),
    ]
    refused = c.acquire(0, ("r", 1), wait=3)
    assert (refused.retry_after_ns, c.status(0)["waiting"]) == (4 * S, 3)
    assert c.acquire(0, ("r", 1)).retry_after_ns == 4 * S


def test_a_late_host_admits_nobody_whose_time_is_over() -> None:
    """A restart that took long must not take for those who have gone; on the dot is in time."""
    c = Caller(requests("r", 1, 1))
    c.acquire(0, ("r", 1))
    c.acquire(0, ("r", 1), wait=2)
    c.acquire(0, ("r", 1), wait=3)
    c.restart()
    c.advance(3)
    assert [type(reply) for reply in c.late().values()] == [Refused, Admitted]


def test_a_freed_slot_goes_to_the_first_in_line() -> None:
    """At once, with the settle that freed it; nobody can tell the wait before."""
    c = Caller(slots("s", 1), requests("r", 10, 10))
    c.acquire(0, ("s", 1), ("r", 1))
    assert c.acquire(0, ("s", 1), ("r", 1), wait=10) == Pending(None)
    assert c.acquire(0, ("s", 1), ("r", 1), wait=10) == Pending(None)
    c.settle(1, "1")
    assert list(c.late()) == ["2"]
    c.undo(1, "2")
    assert list(c.late()) == ["3"]
    assert c.remaining(1, "r") == 9


def test_a_correction_lets_those_who_wait_go_at_once() -> None:
    """I13: what comes back early is not left lying until the estimated time."""
    c = Caller(tokens("t", 1, 100))
    c.acquire(0, ("t", 100))
    assert c.acquire(0, ("t", 40), wait=60) == Pending(40 * S)
    c.settle(1, "1", tokens=50)
    assert c.late()["2"].at_ns == S


def test_a_waiting_id_that_asks_again_keeps_its_place() -> None:
    """One ticket, one reply."""
    c = Caller(requests("r", 1, 1))
    c.acquire(0, ("r", 1))
    c.acquire(0, ("r", 1), id="a", wait=10)
    c.acquire(0, ("r", 1), id="b", wait=10)
    assert c.acquire(0.5, ("r", 1), id="a", wait=10) == Pending(S // 2)
    assert admitted_at(c.until(9)) == {"a": 1, "b": 2}


def test_the_waiting_room_is_bounded() -> None:
    """One too many meets Overloaded and changes nothing; a refusal needs no room."""
    c = Caller(requests("r", 1, 1), max_tickets=2)
    c.acquire(0, ("r", 1))
    c.acquire(0, ("r", 1), wait=10)
    c.acquire(0, ("r", 1), wait=10)
    with pytest.raises(Overloaded):
        c.acquire(0, ("r", 1), wait=10)
    assert isinstance(c.acquire(0, ("r", 1)), Refused)
    assert c.status(0)["waiting"] == 2


def test_nothing_is_withheld_under_saturating_demand() -> None:
    """I13 and I1: burst 50 at 20/s, always somebody waiting: 50 + 20 · 60 within a minute."""
    c = Caller(requests("r", 20, 50))
    count = sum(isinstance(c.acquire(0, ("r", 1), wait=10), Admitted) for _ in range(60))
    for second in range(60):
        for _ in range(20):
            c.acquire(second, ("r", 1), wait=10)
        count += len(admitted_at(c.until(second + 1)))
    assert count == 50 + 20 * 60


def test_a_long_line_is_not_walked_for_each_that_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """10,000 tickets of 5,000 users behind one limit: two looks for each that is served."""
    c = Caller(requests("r", 1000, 1), requests("u", 1, 1, scope="user"))
    c.acquire(0, ("r", 1))
    for number in range(10_000):
        c.acquire(0, ("r", 1), ("u", 1, f"u{number % 5000}"), wait=10)
    assert c.status(0)["waiting"] == 10_000
    looks = 0

    def counted(*args: Any) -> list[obstacles.Obstacle]:
        nonlocal looks
        looks += 1
        return met(*args)

    met = obstacles.met
    monkeypatch.setattr(obstacles, "met", counted)
    assert len(admitted_at(c.until(0.5))) == 500
    assert looks == 1000


@pytest.mark.parametrize("restarted", [False, True])
def test_who_has_asked_again_under_another_name_is_answered_by_it(restarted: bool) -> None:
    """A caller that had to begin anew keeps its place in the line."""
    c = Caller(requests("r", 1, 1))
    c.acquire(0, ("r", 1))
    for id in ("moved", "other"):
        c.acquire(0, ("r", 1), id=id, wait=10, caller="p.old")
    assert c.acquire(0.5, ("r", 1), id="moved", wait=10, caller="p.new") == Pending(ns(0.5))
    if restarted:
        c.late()
        c.restart()
    c.limiter.advance(ns(1))
    [result] = c.limiter.take_changes().results
    assert (result.caller, result.id) == ("p.new", "moved")
