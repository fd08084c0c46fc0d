"""Admission, refusal, correction and holds: known answers, one claim each."""

from typing import Any

import pytest

from actors.errors import InvalidRequest
from actors.limits import HIGH, Admitted, LimitState, Refused, Take
from tests.actors.rate_limiter_world import Caller, S, ns, requests, slots, tokens

# Burst 5 at 1/s, from the tests of `throttled`:
# (at s, quantity, limited, remaining, reset s, retry s; None: never, or nothing to retry)
THROTTLED = [
    (0, 6, True, 5, 0, None),
    (0, 1, False, 4, 1, None),
    (0, 1, False, 3, 2, None),
    (0, 1, False, 2, 3, None),
    (0, 1, False, 1, 4, None),
    (0, 1, False, 0, 5, None),
    (0, 1, True, 0, 5, 1),
    (3.0, 1, False, 2, 3.0, None),
    (3.1, 1, False, 1, 3.9, None),
    (4.0, 1, False, 1, 4.0, None),
    (8.0, 1, False, 4, 1.0, None),
    (9.5, 1, False, 4, 1.0, None),
    (9.5, 0, False, 4, 1.0, None),
    (9.5, 2, False, 2, 3.0, None),
    (9.5, 5, True, 2, 3.0, 3),
    (15, 6, True, 5, 0, None),
]


@pytest.mark.parametrize("restarts", [False, True], ids=["lived", "restarted"])
@pytest.mark.parametrize("steps", range(1, len(THROTTLED) + 1))
def test_throttled_known_answers(steps: int, restarts: bool) -> None:
    """The last of so many steps of the table is as stated, with restarts in between too."""
    c = Caller(requests("r", 1, 5))
    reply: Any = None
    for at, quantity, *_ in THROTTLED[:steps]:
        if restarts:
            c.restart()
        reply = c.acquire(at, ("r", quantity))
    at, quantity, limited, remaining, reset, retry = THROTTLED[steps - 1]
    state = LimitState("r", "", "requests", 5, remaining, ns(reset))
    if limited:
        retry_ns = None if retry is None else ns(retry)
        assert reply == Refused("r", "", "requests", retry_ns, quantity, 5, (state,))
    else:
        assert reply == Admitted(ns(at), (state,))


def test_a_quantity_above_the_burst_is_refused_for_ever() -> None:
    """However long the caller would wait: no ticket, no time to come back, nothing taken."""
    c = Caller(requests("r", 1, 5), tokens("t", 1, 100))
    refused = c.acquire(0, ("r", 1), ("t", 101), wait=10**6, priority=HIGH)
    assert isinstance(refused, Refused)
    assert refused[:6] == ("t", "", "tokens", None, 101, 100)
    assert c.status(0)["waiting"] == 0
    assert c.remaining(0, "r") == 5


def test_the_token_limit_refuses_and_the_request_limit_is_unchanged() -> None:
    """I7: a refusal names its limit and consumes from none."""
    c = Caller(requests("r", 1, 5), tokens("t", 10, 100), slots("s", 3))
    c.acquire(0, ("t", 80))
    refused = c.acquire(0, ("r", 1), ("t", 50), ("s", 1))
    assert isinstance(refused, Refused)
    assert refused[:6] == ("t", "", "tokens", 3 * S, 50, 100)
    assert [state.remaining for state in refused.states] == [5, 20, 3]
    assert [c.remaining(0, name) for name in "rts"] == [5, 20, 3]


def test_the_refusal_names_the_limit_with_the_longest_wait() -> None:
    """Coming back for the shortest one would only be refused again."""
    c = Caller(requests("quick", 10, 1), requests("slow", 1, 1))
    c.acquire(0, ("quick", 1), ("slow", 1))
    refused = c.acquire(0, ("quick", 1), ("slow", 1))
    assert (refused.limit, refused.retry_after_ns) == ("slow", S)


def test_subjects_of_a_scope_have_a_bucket_each() -> None:
    """Team a's use is not team b's; the same limit named twice counts twice."""
    c = Caller(requests("team", 1, 2, scope="team"))
    assert isinstance(c.acquire(0, ("team", 1, "a"), ("team", 1, "a")), Admitted)
    assert isinstance(c.acquire(0, ("team", 1, "a")), Refused)
    assert isinstance(c.acquire(0, ("team", 1, "b")), Admitted)


def test_a_take_of_an_unknown_limit_is_passed_over() -> None:
    """A caller whose policy is newer or older than ours is not turned away for it."""
    c = Caller(requests("r", 1, 5))
    admitted = c.acquire(0, ("gone", 1), ("r", 1))
    assert [state.limit for state in admitted.states] == ["r"]
    assert c.acquire(0, ("gone", 1)) == Admitted(0, ())
    assert c.limiter.look(0, "c", (Take("gone", "", 0),)) == ()


def test_the_same_id_gets_the_same_reply_and_takes_once() -> None:
    """Also after a restart, and even when the limit would refuse; its state is of now."""
    c = Caller(requests("r", 1, 1))
    first = c.acquire(0, ("r", 1), id="x")
    assert c.acquire(0, ("r", 1), id="x") == first
    now = Admitted(0, (LimitState("r", "", "requests", 1, 0, S // 2),))
    assert c.acquire(0.5, ("r", 1), id="x") == now
    c.restart()
    assert c.acquire(0.5, ("r", 1), id="x") == now


def test_a_clock_that_steps_back_never_gives_tokens() -> None:
    """What is spent at t = 100 is not there again at t = 40."""
    c = Caller(requests("r", 1, 5))
    assert isinstance(c.acquire(100, ("r", 5)), Admitted)
    assert isinstance(c.acquire(40, ("r", 1)), Refused)
    assert isinstance(c.acquire(100.5, ("r", 1)), Refused)
    assert isinstance(c.acquire(101, ("r", 1)), Admitted)


def test_a_correction_gives_back_at_most_what_is_still_lacking() -> None:
    """Burst 10 at 1/s: 10 at 0, 10 at 20, the first refunded at 20.1: nothing comes back."""
    c = Caller(tokens("t", 1, 10))
    c.acquire(0, ("t", 10))
    c.acquire(20, ("t", 10))
    c.settle(20.1, "1", tokens=0)
    assert c.look(20.1, "t").reset_ns == ns(9.9)


@pytest.mark.parametrize(
    ("actual", "remaining"), [(30, 70), (None, 40), (60, 40), (80, 20), (100, 0)]
)
def test_settling_corrects_the_estimate_of_tokens(actual: int | None, remaining: int) -> None:
    """60 estimated of 100; requests stay as they are, the slot comes back."""
    c = Caller(requests("r", 1, 5), tokens("t", 1, 100), slots("s", 3))
    c.acquire(0, ("r", 1), ("t", 60), ("s", 1))
    c.settle(0, "1", actual)
    assert [c.remaining(0, name) for name in "rts"] == [4, remaining, 3]


@pytest.mark.parametrize(("at", "lack"), [(0, 250), (5, 200), (1000, 200)])
def test_more_tokens_than_estimated_may_go_below_empty(at: int, lack: int) -> None:
    """The bill came: later takes wait, even if the bucket was full (and forgotten) by then."""
    c = Caller(tokens("t", 10, 100))
    c.acquire(0, ("t", 50))
    c.until(at)
    c.settle(at, "1", tokens=250)
    assert c.look(at, "t").reset_ns == lack * S // 10
    assert c.acquire(at, ("t", 1)).retry_after_ns == (lack + 1 - 100) * S // 10


def test_undo_gives_back_everything() -> None:
    """I12: requests, tokens and slots, once; again, or for an unknown id, changes nothing."""
    c = Caller(requests("r", 1, 5), tokens("t", 10, 100), slots("s", 3))
    c.acquire(0, ("r", 1), ("t", 60), ("s", 1))
    for id in ("1", "1", "never"):
        c.undo(0, id)
        c.settle(0, id, tokens=1000)
        assert [c.remaining(0, name) for name in "rts"] == [5, 100, 3]
    assert c.status(0)["holds"] == 0


def test_slots_are_held_until_their_holder_settles() -> None:
    """No time frees a slot; a restart forgets none."""
    c = Caller(slots("s", 2))
    c.acquire(0, ("s", 1))
    c.acquire(0, ("s", 1))
    c.restart()
    refused = c.acquire(10**6, ("s", 1))
    assert refused[:6] == ("s", "", "concurrent", None, 1, 2)
    c.settle(10**6, "1")
    assert isinstance(c.acquire(10**6, ("s", 1)), Admitted)


def test_high_priority_goes_into_debt_down_to_its_bound() -> None:
    """Burst 2, debt 3: five at once, and the long-run rate still holds for all."""
    c = Caller(requests("r", 1, 2, debt=3))
    replies = [c.acquire(0, ("r", 1), priority=HIGH) for _ in range(6)]
    assert [type(reply) for reply in replies] == [Admitted] * 5 + [Refused]
    assert replies[5].retry_after_ns == S
    assert c.acquire(3, ("r", 1)).retry_after_ns == S
    assert isinstance(c.acquire(4, ("r", 1)), Admitted)


def test_the_debt_is_one_burst_unless_policy_says_otherwise() -> None:
    """And there is none for tokens: high priority waits for those."""
    plain = requests("r", 1, 3)
    del plain["debt"]
    c = Caller(plain, tokens("t", 1, 10))
    assert sum(isinstance(c.acquire(0, ("r", 1), priority=HIGH), Admitted) for _ in range(9)) == 6
    c.acquire(0, ("t", 10), priority=HIGH)
    assert isinstance(c.acquire(0, ("t", 1), priority=HIGH), Refused)


def test_idle_buckets_are_forgotten() -> None:
    """I12: full again, a subject takes no memory and no row, and stands as it did."""
    c = Caller(requests("u", 1, 2, scope="user"), slots("s", 1, scope="user"))
    for user in range(50):
        c.acquire(0, ("u", 2, f"u{user}"), ("s", 1, f"u{user}"))
        c.settle(0, str(user + 1))
    c.late()
    assert len(c.stored) == 1 + 50
    assert len(c.status(1)["limits"]) == 100
    c.until(10)
    assert c.status(10)["limits"] == []
    assert [table for table, _ in c.stored] == ["policy"]
    assert c.look(10, "u", "u1") == LimitState("u", "u1", "requests", 2, 2, 0)


def test_status_shows_the_clusters_limits_always() -> None:
    """Unused, used, with others; waiting and holds are counted."""
    c = Caller(requests("r", 1, 2), slots("s", 1, scope="team"))
    full = {"name": "r", "subject": "", "unit": "requests", "burst": 2}
    assert c.status(0) == {
        "limits": [{**full, "remaining": 2, "reset_ns": 0, "waiting": 0, "lent": 0}],
        "waiting": 0,
        "holds": 0,
        "slices": 0,
    }
    c.acquire(0, ("r", 2), ("s", 1, "a"))
    c.acquire(0, ("r", 1), ("s", 1, "b"), wait=5)
    status = c.status(0)
    assert (status["waiting"], status["holds"]) == (1, 1)
    assert status["limits"][0].items() >= {"remaining": 0, "reset_ns": 2 * S, "waiting": 1}.items()
    assert [(x["subject"], x["remaining"]) for x in status["limits"][1:]] == [("a", 0), ("b", 1)]


@pytest.mark.parametrize(
    ("named", "priority", "param"),
    [
        (("r", -1), 1, "quantity of limit r"),
        (("r", 1), 3, "priority"),
        (("r", 1), -1, "priority"),
        (("u", 1, "x" * 1001), 1, "subject of limit u"),
        (("u", 1, "\ud800"), 1, "subject of limit u"),
    ],
)
def test_a_bad_acquire_is_refused_by_name(named: Any, priority: int, param: str) -> None:
    """What no row could hold, or no limit could count, changes nothing."""
    c = Caller(requests("r", 1, 2), requests("u", 1, 2, scope="user"))
    with pytest.raises(InvalidRequest) as caught:
        c.acquire(0, named, priority=priority)
    assert caught.value.param == param
    assert c.remaining(0, "r") == 2


def test_a_negative_number_of_tokens_is_refused() -> None:
    """And the hold is still there to be settled."""
    c = Caller(tokens("t", 1, 10))
    c.acquire(0, ("t", 5))
    with pytest.raises(InvalidRequest, match="tokens"):
        c.settle(0, "1", tokens=-1)
    assert c.status(0)["holds"] == 1
