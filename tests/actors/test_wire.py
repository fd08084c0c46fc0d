import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import wire
from actors.charges import Exhausted, Facts, Reserved, Usage
from actors.cost_tracker import CostTracker
from actors.errors import Conflict, InvalidRequest
from actors.limits import Admitted, LimitState, Refused, Take
from actors.mechanism import Gone, Pending
from actors.rate_limiter import RateLimiter
from actors.replies import OutOfStep, Reply

HOT = {**wire.readers(RateLimiter), **wire.readers(CostTracker)}
FACTS = Facts("key", "team", "user", "model", "target", "1", {"a": "b"})
STATE = LimitState("l", "s", "tokens", 2**62, 3, 0)

_COMMANDS = st.one_of(
    st.tuples(st.just("settle"), st.tuples(st.text(), st.one_of(st.none(), st.integers()))),
    st.tuples(st.just("undo"), st.tuples(st.text())),
    st.tuples(st.just("void"), st.tuples(st.text())),
    st.tuples(
        st.just("post"),
        st.tuples(st.text(), st.integers(), st.builds(Usage, st.integers(0, 9)), st.booleans()),
    ),
    st.tuples(st.sampled_from(["add", "configure"]), st.tuples(st.text(), st.binary())),
)


@given(items=st.lists(_COMMANDS))
def test_commands_arrive_as_they_were_sent(items: list[Any]) -> None:
    """In their order, types included, also what only pickle can carry (2**64, half a letter)."""
    caller, number, found = wire.unpack_batch(wire.pack_batch("me", 7, items), HOT)
    assert (caller, number, found) == ("me", 7, items)
    usages = [args[2] for command, args in found if command == "post"]
    assert all(type(usage) is Usage for usage in usages)


def test_nested_types_of_commands_arrive() -> None:
    """Takes and facts are what the mechanisms' annotations say."""
    acquire = ("take", (Take("l", "s", 1),), 1, 0, False)
    reserve = ("charge", (("b", "s"),), 5, 0, FACTS)
    sent: list[Any] = [("acquire", acquire), ("reserve", reserve)]
    _, _, found = wire.unpack_batch(wire.pack_batch("me", 1, sent), HOT)
    assert found == sent
    assert type(found[0][1][1][0]) is Take
    assert type(found[1][1][4]) is Facts


def test_arguments_may_be_left_to_their_defaults() -> None:
    """As with any call."""
    _, _, found = wire.unpack_batch(wire.pack_batch("me", 1, [("post", ("c", 1, Usage()))]), HOT)
    assert found == [("post", ("c", 1, Usage(), False))]


def test_what_a_command_does_not_take_is_refused_alone() -> None:
    """The others of its kind are read; it is answered with what is wrong with it."""
    sent: list[Any] = [("undo", ("a",)), ("undo", (5,)), ("undo", ()), ("undo", ("b",))]
    _, _, found = wire.unpack_batch(wire.pack_batch("me", 1, sent), HOT)
    assert [found[0], found[3]] == [sent[0], sent[3]]
    for command, args in found[1:3]:
        with pytest.raises(InvalidRequest, match="undo"):
            wire.refuse(command, args)
    _, _, found = wire.unpack_batch(wire.pack_batch("me", 1, sent), {})
    assert [command for command, _ in found] == ["undo"] * 4


_REPLIES = st.one_of(
    st.none(),
    st.booleans(),
    st.text(),
    st.integers(),
    st.builds(Pending, st.one_of(st.none(), st.integers(0, 2**62))),
    st.just(Gone()),
    st.just(Reserved("2026-01-01", ("a|b|c",), 1)),
    st.just(Exhausted("b", "s", 1, 0, None)),
    st.just(Admitted(1, (STATE, STATE))),
    st.just(Refused("l", "s", "requests", None, 1, 1, (STATE,))),
    st.just(Refused("l", "\ud800", "requests", None, 1, 1, ())),
)


@given(replies=st.lists(_REPLIES))
def test_replies_arrive_as_they_were_given(replies: list[Any]) -> None:
    """In their order and of their types."""
    found = wire.unpack_reply(wire.pack_reply(Reply(3, 1, replies)))
    assert found == Reply(3, 1, replies)
    assert [type(one) for one in found.replies] == [type(one) for one in replies]


def test_errors_and_out_of_step_arrive() -> None:
    """What is raised at the caller is what the mechanism raised."""
    [found] = wire.unpack_reply(wire.pack_reply(Reply(1, 0, [Conflict("no", "code")]))).replies
    assert isinstance(found, Conflict)
    assert (str(found), found.code) == ("no", "code")
    out = Reply(1, 2, OutOfStep(4))
    assert wire.unpack_reply(wire.pack_reply(out)) == out


def test_what_cannot_be_pickled_is_said_so() -> None:
    """By the packing, before anything is sent."""
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        wire.pack_batch("me", 1, [("add", (lambda: None,))])
