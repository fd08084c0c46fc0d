"""Policy: what is allowed, and what a change in place does to use, holds and tickets."""

from typing import Any

import pytest

from actors.errors import InvalidRequest
from actors.limits import Admitted, Refused, read_limits
from tests.actors.rate_limiter_world import Caller, S, ns, requests, slots, tokens

GOOD = requests("r", 1, 5)


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"rate": 0}, "limits[1].rate"),
        ({"rate": -1}, "limits[1].rate"),
        ({"rate": 1.5}, "limits[1].rate"),
        ({"rate": True}, "limits[1].rate"),
        ({"rate": 2**63}, "limits[1].rate"),
        ({"rate": None}, "limits[1].rate"),
        ({"period_ns": 0}, "limits[1].period_ns"),
        ({"burst": 0}, "limits[1].burst"),
        ({"debt": -1}, "limits[1].debt"),
        ({"name": "two words"}, "limits[1].name"),
        ({"name": ""}, "limits[1].name"),
        ({"name": None}, "limits[1].name"),
        ({"name": "first"}, "limits[1].name"),
        ({"scope": "planet"}, "limits[1].scope"),
        ({"unit": "bytes"}, "limits[1].unit"),
        ({"unit": ["tokens"]}, "limits[1].unit"),
        ({"brust": 5}, "limits[1].brust"),
    ],
)
def test_a_bad_limit_is_named_by_its_path(changed: dict[str, Any], param: str) -> None:
    """A rate of zero is a configuration error, and so is all else that makes no sense."""
    with pytest.raises(InvalidRequest) as caught:
        read_limits({"limits": [requests("first", 1, 1), GOOD | changed]})
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("policy", "param"),
    [({"limits": {}}, "limits"), ({"limits": [3]}, "limits[0]"), ({"limit": []}, "limit")],
)
def test_a_bad_policy_is_named_by_its_path(policy: dict[str, Any], param: str) -> None:
    """Not a list, not a mapping, a word that policies do not have."""
    with pytest.raises(InvalidRequest) as caught:
        read_limits(policy)
    assert caught.value.param == param


def test_concurrency_needs_no_rate() -> None:
    """Its burst is the number of slots."""
    assert read_limits({"limits": [slots("s", 3) | {"rate": 0}]})["s"].burst == 3


def test_a_bad_policy_leaves_the_last_good_one_in_force() -> None:
    """Nothing is changed before all of it is found to be good."""
    c = Caller(GOOD)
    c.acquire(0, ("r", 2))
    with pytest.raises(InvalidRequest):
        c.policy(0, requests("r", 1, 50), requests("r", 1, 50))
    assert c.remaining(0, "r") == 3
    c.policy(0, requests("r", 1, 50))
    assert c.remaining(0, "r") == 48


def test_the_same_revision_changes_nothing() -> None:
    """Every replica configures at its start; only the first one has an effect."""
    c = Caller(GOOD)
    c.late()
    c.policy(0, GOOD)
    assert c.limiter.take_changes().rows == []


def test_a_limit_changed_in_place_keeps_what_was_used() -> None:
    """8 of 10 used: 12 of 20 left, at the new rate; below what is used: nothing is left."""
    c = Caller(tokens("t", 1, 10))
    c.acquire(0, ("t", 8))
    c.policy(0, tokens("t", 4, 20))
    assert c.look(0, "t")[3:] == (20, 12, 2 * S)
    c.restart()
    assert c.look(0, "t")[3:] == (20, 12, 2 * S)
    c.policy(0, tokens("t", 1, 5))
    assert c.look(0, "t")[3:] == (5, 0, 8 * S)
    c.settle(0, "1", tokens=0)
    assert c.look(0, "t")[3:] == (5, 5, 0)


def test_slots_in_use_stay_in_use() -> None:
    """Also when there are fewer than that now, or when the limit was away for a while."""
    c = Caller(slots("s", 4))
    for _ in range(3):
        c.acquire(0, ("s", 1))
    c.policy(0, slots("s", 2))
    c.settle(0, "1")
    assert isinstance(c.acquire(0, ("s", 1)), Refused)
    c.policy(0, GOOD)
    c.settle(0, "2")
    c.policy(0, slots("s", 3))
    assert c.remaining(0, "s") == 2
    c.settle(0, "3")
    assert c.remaining(0, "s") == 3


def test_a_raised_limit_lets_those_who_wait_go() -> None:
    """I13: with the policy, not at the time that was estimated under the old one."""
    c = Caller(requests("r", 1, 1))
    c.acquire(0, ("r", 1))
    c.acquire(0, ("r", 1), wait=10)
    c.acquire(0, ("r", 1), wait=10)
    c.policy(0.5, requests("r", 1, 2))
    assert list(c.late()) == ["2"]
    assert list(c.until(1.5)) == ["3"]


def test_who_waits_for_a_limit_that_is_gone_waits_no_longer() -> None:
    """Wholly, or for what remains of its limits; across a restart too."""
    c = Caller(requests("r", 1, 1), slots("s", 1))
    c.acquire(0, ("r", 1), ("s", 1))
    c.acquire(0, ("r", 1), wait=10)
    c.acquire(0, ("r", 1), ("s", 1), wait=10)
    c.policy(0, slots("s", 1))
    assert c.late()["2"] == Admitted(0, ())
    c.restart()
    c.settle(0, "1")
    assert [state.limit for state in c.late()["3"].states] == ["s"]


def test_who_waits_for_more_than_a_lowered_burst_is_refused_for_ever() -> None:
    """It could never be served."""
    c = Caller(tokens("t", 1, 100))
    c.acquire(0, ("t", 100))
    c.acquire(0, ("t", 60), wait=90)
    c.policy(1, tokens("t", 1, 50))
    assert c.late()["2"][:6] == ("t", "", "tokens", None, 60, 50)
    assert c.status(1)["waiting"] == 0


def test_a_limit_that_counts_something_else_now_starts_anew() -> None:
    """Slots are not tokens; holds of the old kind give nothing back to the new one."""
    c = Caller(slots("x", 3))
    c.acquire(0, ("x", 3))
    c.policy(0, tokens("x", 1, 3))
    assert c.remaining(0, "x") == 3
    c.acquire(0, ("x", 3))
    c.settle(0, "1")
    c.restart()
    assert c.look(ns(0), "x")[3:] == (3, 0, 3 * S)
