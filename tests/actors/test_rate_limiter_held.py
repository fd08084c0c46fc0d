"""What is only held as yet: taken from everybody, debited with `use`, given back whole."""

from typing import Any

import pytest

from actors.limits import NORMAL, Admitted, Refused
from actors.mechanism import Pending
from tests.actors.rate_limiter_world import Caller, ns, requests, slots, takes, tokens


class Holder(Caller):
    """A caller who only holds what it takes."""

    def hold(self, at: float, *named: tuple[str, int], id: str, wait: float = 0) -> Any:
        """Acquire with `held`."""
        now = self.clock(at)
        return self.limiter.acquire(now, "c", id, takes(*named), NORMAL, ns(wait), True)

    def use(self, at: float, id: str) -> None:
        """Use."""
        self.limiter.use(self.clock(at), "c", id)


def test_no_time_brings_back_what_is_held_and_it_is_debited_when_it_is_used() -> None:
    """Burst 5 at 1/s: 3 held at 0 still lack at 100, and used then they lack until 103."""
    c = Holder(requests("r", 1, 5))
    assert c.hold(0, ("r", 3), id="h").states[0].remaining == 2
    assert c.remaining(100, "r") == 2
    c.use(100, "h")
    assert [c.remaining(100 + passed, "r") for passed in (0, 1, 2, 3)] == [2, 3, 4, 5]


def test_an_undo_before_the_use_returns_all_of_it() -> None:
    """Whoever waits for it is served at once; after the use what still lacks is returned."""
    c = Holder(requests("r", 1, 5))
    c.hold(0, ("r", 5), id="h")
    assert isinstance(c.acquire(50, ("r", 5), id="w", wait=10), Pending)
    c.undo(50.1, "h")
    assert c.late()["w"].at_ns == ns(50.1)
    c.undo(50.1, "w")
    c.hold(60, ("r", 5), id="used")
    c.use(60, "used")
    c.undo(62, "used")
    assert c.remaining(62, "r") == 5
    assert c.status(62)["holds"] == 0


def test_all_or_nothing_holds_for_what_is_held() -> None:
    """One limit of two refuses: nothing of the other is held."""
    c = Holder(requests("r", 1, 5), tokens("t", 1, 10))
    assert isinstance(c.hold(0, ("r", 1), ("t", 11), id="h"), Refused)
    assert (c.remaining(0, "r"), c.remaining(0, "t")) == (5, 10)


def test_a_turn_that_was_waited_for_is_held_too() -> None:
    """What a ticket gets is debited with its use, and not before."""
    c = Holder(requests("r", 1, 2))
    c.acquire(0, ("r", 2))
    assert isinstance(c.hold(0, ("r", 1), id="h", wait=5), Pending)
    assert c.until(1)["h"][0] == 1
    assert c.remaining(10, "r") == 1
    c.undo(10, "h")
    assert c.remaining(10, "r") == 2


def test_who_is_stopped_by_what_is_held_waits_a_moment_for_it() -> None:
    """It may come back at any time: nobody is refused for it before 250 ms are over."""
    c = Holder(requests("r", 1, 2))
    c.hold(0, ("r", 2), id="h")
    assert isinstance(c.acquire(0, ("r", 1), id="a"), Pending)
    assert isinstance(c.acquire(0, ("r", 1), id="b"), Pending)
    c.undo(0.1, "h")
    assert list(c.late()) == ["a", "b"]
    assert isinstance(c.acquire(0.1, ("r", 1), id="c"), Refused)


@pytest.mark.parametrize("end", ["use", "settle", "bury"])
def test_what_was_held_counts_as_used_whatever_ends_it_but_an_undo(end: str) -> None:
    """A holder that settles without a use, or is dead, may have used it."""
    c = Holder(requests("r", 1, 5), slots("s", 2))
    c.hold(0, ("r", 3), ("s", 1), id="h")
    assert c.remaining(100, "s") == 1
    if end == "bury":
        assert c.bury(100, "c") == 1
    elif end == "settle":
        c.settle(100, "h")
    else:
        c.use(100, "h")
    assert c.remaining(100, "r") == 2
    assert c.remaining(100, "s") == (1 if end == "use" else 2)
    c.settle(100, "h")
    assert c.remaining(100, "s") == 2


def test_used_tokens_are_corrected_like_any_other() -> None:
    """10 held and used, 4 in truth: 6 come back."""
    c = Holder(tokens("t", 1, 20))
    c.hold(0, ("t", 10), id="h")
    c.use(30, "h")
    c.use(31, "h")
    c.settle(31, "h", 4)
    assert c.remaining(31, "t") == 17


def test_a_restart_remembers_what_is_held() -> None:
    """As a hold, and as a ticket whose turn has yet to come."""
    c = Holder(requests("r", 1, 5), slots("s", 2))
    c.hold(0, ("r", 4), ("s", 1), id="h")
    c.acquire(0, ("r", 1))
    c.hold(0, ("r", 1), id="w", wait=5)
    c.restart()
    assert c.until(1)["w"][0] == 1
    c.restart()
    assert (c.remaining(100, "r"), c.remaining(100, "s")) == (0, 1)
    c.undo(100, "w")
    c.use(100, "h")
    assert (c.remaining(100, "r"), c.remaining(101, "r")) == (1, 2)
    c.restart()
    c.settle(101, "h")
    assert (c.remaining(104, "r"), c.remaining(104, "s")) == (5, 2)


def test_a_policy_may_change_under_what_is_held() -> None:
    """A larger burst leaves it held, and so does the limit's going and coming back.

    Otherwise somebody else would be given the same units, and both would use them.
    """
    c = Holder(requests("r", 1, 5))
    c.hold(0, ("r", 3), id="h")
    c.policy(1, requests("r", 1, 10))
    assert c.remaining(1, "r") == 7
    c.policy(2, requests("other", 1, 1))
    c.policy(3, requests("r", 1, 10))
    assert c.remaining(3, "r") == 7
    c.restart()
    assert c.remaining(3, "r") == 7
    c.use(4, "h")
    assert c.remaining(4, "r") == 7
    c.hold(5, ("r", 1), id="gone")
    c.policy(6, requests("other", 1, 1))
    c.use(6, "gone")
    c.undo(6, "gone")
    assert c.status(6)["holds"] == 1


def test_who_asks_again_for_what_he_holds_gets_his_stamp_again() -> None:
    """And holds no more than before."""
    c = Holder(requests("r", 1, 5))
    first = c.hold(0, ("r", 3), id="h")
    again = c.hold(7, ("r", 3), id="h")
    assert isinstance(again, Admitted)
    assert again.at_ns == first.at_ns
    assert c.remaining(7, "r") == 2
