"""Limits on several shards: still all or nothing, still exact."""

from collections.abc import Iterator

import pytest

from actors.errors import InvalidRequest
from actors.limits import Admitted, Refused, Take
from actors.rendezvous import limit_key, shard_of
from tests.actors.limiter_shards_world import World
from tests.actors.rate_limiter_world import S, requests, slots, tokens

SHARDS = 3


def named(shard: int, prefix: str = "limit") -> str:
    """The name of a limit of the cluster that lives on this shard."""
    names = (f"{prefix}{number}" for number in range(100))
    return next(name for name in names if shard_of(limit_key(name, ""), SHARDS) == shard)


A, B, C = named(0), named(1), named(2)
ALSO_A = named(0, "also")
LIMITS = [
    requests(A, rate=2, burst=3),
    requests(B, rate=1, burst=2),
    tokens(C, rate=10, burst=100),
    slots(ALSO_A, burst=2),
]


@pytest.fixture
def world() -> Iterator[World]:
    """Three shards, each with at least one limit."""
    made = World(SHARDS, *LIMITS)
    yield made
    made.close()


def both(a: int = 1, b: int = 1) -> list[tuple[str, str, int]]:
    """Takes of a limit on the first shard and of one on the second."""
    return [(A, "", a), (B, "", b)]


def nothing_is_held(world: World) -> None:
    """No hold, no ticket, no lent unit anywhere (I12)."""
    status = world.ask_now("status")
    assert (status["holds"], status["waiting"], status["slices"]) == (0, 0, 0)
    assert [one["lent"] for one in status["limits"]] == [0] * len(status["limits"])


def test_limits_of_one_shard_are_asked_there_and_nowhere_else(world: World) -> None:
    """One command goes out for them, and one at the end."""
    asked = world.ask([(A, "", 1), (ALSO_A, "", 1)])
    assert isinstance(world.now_of(asked), Admitted)
    world.end(asked, "settle", None)
    world.settle()
    ran = [desk.ran for desk in world.desks]
    assert ran == [["configure", "acquire", "settle"], ["configure"], ["configure"]]


def test_a_take_over_two_shards_takes_from_both(world: World) -> None:
    """The states are in the order of the takes, and each is as it was right after."""
    asked = world.ask([(B, "", 1), (A, "", 2)])
    reply = world.now_of(asked)
    assert [(state.limit, state.remaining) for state in reply.states] == [(B, 1), (A, 1)]
    assert (world.left(A), world.left(B)) == (1, 1)
    assert world.desks[0].ran[:3] == ["configure", "acquire", "use"]
    world.end(asked, "settle", None)
    world.settle()
    nothing_is_held(world)
    assert (world.left(A), world.left(B)) == (1, 1)


def test_its_stamp_is_that_of_the_last_grant_however_late(world: World) -> None:
    """I1: what the first shard gave is not refilled before its use, which the stamp precedes."""
    asked = world.ask(both(a=3))
    world.do(world.desks[0].deliver)
    world.pass_time(5)
    assert isinstance(world.now_of(asked), Admitted)
    assert asked.future.result().at_ns == 5 * S
    assert world.left(A) == 0


def test_a_refusal_by_one_shard_consumes_from_none(world: World) -> None:
    """I7; the refusal says which limit it was and when to come back, and how all stand."""
    world.now_of(world.ask([(B, "", 2)]))
    refused = world.now_of(world.ask(both()))
    assert isinstance(refused, Refused)
    assert (refused.limit, refused.retry_after_ns) == (B, S)
    assert [state.limit for state in refused.states] == [A, B]
    assert world.left(A) == 3
    assert world.ask_now("status")["holds"] == 1


def test_more_than_a_burst_is_refused_for_ever_without_a_wait(world: World) -> None:
    """Whatever its patience, and whatever else refuses it."""
    world.now_of(world.ask([(A, "", 3)]))
    refused = world.now_of(world.ask(both(b=3), wait=60))
    assert (refused.limit, refused.quantity, refused.retry_after_ns) == (B, 3, None)
    nothing_is_held_but(world, 1)


def nothing_is_held_but(world: World, holds: int) -> None:
    """So many holds, and no ticket."""
    status = world.ask_now("status")
    assert (status["holds"], status["waiting"]) == (holds, 0)


def test_it_waits_at_the_shard_that_is_full_and_holds_nothing_meanwhile(world: World) -> None:
    """Nobody is refused by the first limit for what waits at the second."""
    world.now_of(world.ask([(B, "", 2)]))
    waiting = world.ask(both(), wait=10)
    assert world.now_of(waiting) is None
    assert world.waits == [waiting.id]
    assert world.limiter.pending == 1
    assert isinstance(world.now_of(world.ask([(A, "", 3)])), Admitted)
    world.pass_time(2)
    reply = world.now_of(waiting)
    assert isinstance(reply, Admitted)
    assert reply.at_ns == 2 * S
    assert world.limiter.pending == 0


def test_who_waits_longer_than_he_would_is_refused(world: World) -> None:
    """At once where that is known, else when his patience is over; nothing is left of him."""
    world.now_of(world.ask([(A, "", 3), (B, "", 2), (ALSO_A, "", 2)]))
    assert isinstance(world.now_of(world.ask(both(b=2), wait=1.9)), Refused)
    slot = world.ask([(ALSO_A, "", 1), (C, "", 1)], wait=3)
    assert world.now_of(slot) is None
    world.pass_time(3)
    assert isinstance(world.now_of(slot), Refused)
    nothing_is_held_but(world, 2)


def test_those_who_wait_at_one_shard_are_served_in_order(world: World) -> None:
    """I11, between takes of one shard and of several."""
    world.now_of(world.ask([(B, "", 2)]))
    takes = [both(), [(B, "", 1)], both(), [(B, "", 1)]]
    line = []
    for take in takes:
        line.append(world.ask(take, wait=10))
        world.settle()
    served = []
    for _ in range(4):
        world.pass_time(1)
        world.settle()
        served.append([one.future.done() for one in line].count(True))
        assert all(one.future.done() for one in line[: served[-1]])
    assert served == [1, 2, 3, 4]


@pytest.mark.parametrize("delivered", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("full", [False, True])
def test_a_cancel_at_any_time_gives_everything_back(
    world: World, delivered: tuple[int, ...], full: bool
) -> None:
    """I7, I12: before anything was sent, between the shards' replies, in the queue."""
    if full:
        world.end(world.ask([(B, "", 2)]), "settle", None)
        world.settle()
    asked = world.ask(both(), wait=5)
    for shard in delivered:
        world.do(world.desks[shard].deliver)
    world.cancel(asked)
    world.settle()
    assert asked.future.done()
    nothing_is_held(world)
    assert (world.left(A), world.left(B)) == (3, 0 if full else 2)


def test_an_undo_without_a_cancel_ends_the_take_all_the_same(world: World) -> None:
    """As it is told where something else went wrong before anybody waited for the reply."""
    asked = world.ask(both())
    world.end(asked, "undo")
    world.settle()
    assert asked.future.cancelled()
    nothing_is_held(world)
    assert (world.left(A), world.left(B)) == (3, 2)


def test_an_error_of_one_shard_gives_the_others_back(world: World) -> None:
    """What can't be a subject is refused by the shard that it belongs to."""
    bad = next(
        subject
        for subject in (f"\ud800{number}" for number in range(100))
        if shard_of(limit_key(B, subject), SHARDS) != 0
    )
    asked = world.ask([(A, "", 1), (B, bad, 1)])
    world.settle()
    with pytest.raises(InvalidRequest):
        asked.future.result()
    nothing_is_held(world)
    assert world.left(A) == 3


def test_what_was_used_is_corrected_and_freed_at_each_shard(world: World) -> None:
    """Tokens on one, a slot on another: `settle` reaches both, once."""
    asked = world.ask([(C, "", 60), (ALSO_A, "", 1)])
    assert isinstance(world.now_of(asked), Admitted)
    assert (world.left(C), world.left(ALSO_A)) == (40, 1)
    world.end(asked, "settle", 10)
    world.end(asked, "settle", 10)
    assert (world.left(C), world.left(ALSO_A)) == (90, 2)
    nothing_is_held(world)


def test_who_asks_again_gets_the_same_reply(world: World) -> None:
    """An id that holds, or waits, takes nothing more."""
    asked = world.ask(both())
    again = world.do(world.limiter.submit, "acquire", asked.id, asked.takes, 1, 0)
    world.settle()
    assert again.result() == asked.future.result()
    assert (world.left(A), world.left(B)) == (2, 1)


def test_an_end_of_an_unknown_take_is_told_to_all(world: World) -> None:
    """It may have been taken long ago; nothing comes of it where it is not known."""
    world.do(world.limiter.tell, "undo", "unknown")
    world.settle()
    assert [desk.ran[-1] for desk in world.desks] == ["undo"] * SHARDS


def test_a_look_and_the_listing_show_each_limit_once_as_its_shard_has_it(world: World) -> None:
    """In the order of the question; the cluster's limits are listed by every shard."""
    world.now_of(world.ask(both(a=2)))
    world.now_of(world.ask([(C, "", 7)]))
    looked = world.ask_now("look", tuple(Take(name, "", 0) for name in (C, "none", A, B, A)))
    assert [(one.limit, one.remaining) for one in looked] == [(C, 93), (A, 1), (B, 1), (A, 1)]
    listed = world.ask_now("status")["limits"]
    assert [(one["name"], one["remaining"]) for one in listed] == [
        *((A, 1), (B, 1), (C, 93), (ALSO_A, 2)),
    ]


def test_a_burial_reaches_every_shard(world: World) -> None:
    """What a dead process only held counts as used, as what it was lent does."""
    world.now_of(world.ask(both()))
    held = world.ask(both())
    world.do(world.desks[0].deliver)
    world.do(world.desks[1].deliver)
    assert world.ask_now("bury", "owner", False) >= 2
    nothing_is_held(world)
    assert (world.left(A), world.left(B)) == (1, 0)
    assert held.future.done()
