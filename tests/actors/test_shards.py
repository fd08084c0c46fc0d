"""Several consultants that are asked as one."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from actors.cache_entries import Entry
from actors.cache_flights import Hit, Lead
from actors.cache_shards import CacheShards, share
from actors.consultant import Consultant
from actors.errors import InvalidRequest, Overloaded, RaygateError
from actors.host import Host
from actors.limits import Wish
from actors.rendezvous import limit_key, shard_of
from actors.sharded import as_one, shard_names, singleton_of
from actors.shards import Shards, each, total
from actors.transport import InProcess
from tests.actors.limiter_shards_world import World
from tests.actors.rate_limiter_world import requests

pytestmark = pytest.mark.anyio

S = 1_000_000_000
SHARDS = 3
KEYS = [f"key {number}" for number in range(30)]


def test_one_host_has_no_shards_in_front_of_it() -> None:
    """K = 1 costs nothing: it is the consultant itself."""
    one = cast(Consultant, object())
    assert as_one("rate_limiter", [one]) is one
    assert as_one("key_store", [one]) is one
    assert each(one) == (one,)


def test_shards_have_all_that_a_consultant_has() -> None:
    """Whoever asks can't tell, whatever a consultant learns to do."""
    public = {name for name in vars(Consultant("x", cast(Any, None))) if name[0] != "_"}
    public |= {name for name, _ in inspect.getmembers(Consultant) if name[0] != "_"}
    shards = CacheShards([Consultant(f"x{n}", cast(Any, None)) for n in range(2)])
    assert [name for name in sorted(public) if not hasattr(shards, name)] == []
    for name in sorted(public):
        mine, theirs = getattr(Shards, name, None), getattr(Consultant, name, None)
        if inspect.isfunction(mine) and inspect.isfunction(theirs):
            assert inspect.signature(mine) == inspect.signature(theirs), name


def test_the_names_of_hosts() -> None:
    """The first shard keeps the singleton's own name, and with it its store."""
    names = ["rate_limiter", "rate_limiter-1", "rate_limiter-2"]
    assert shard_names("rate_limiter", 3) == names
    assert {singleton_of(name) for name in names} == {"rate_limiter"}
    assert [singleton_of(name) for name in ("key_store", "key_store-1", "rate_limiter-x")] == [
        *("key_store", "key_store-1", "rate_limiter-x"),
    ]


@pytest.mark.parametrize(
    ("replies", "whole"),
    [
        ([], None),
        ([None, None], None),
        ([3, 4], 7),
        ([True, True], True),
        ([True, False], False),
        ([0.5, 0.25], 0.75),
        ([[1], [2, 3]], [1, 2, 3]),
        ([(1,), ()], (1,)),
        (
            [{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3, "d": "x"}}],
            {"a": 2, "b": {"c": 5, "d": "x"}},
        ),
    ],
)
def test_what_several_say_is_joined(replies: list[Any], whole: Any) -> None:
    """Known answers."""
    assert total(replies) == whole


# Slices.


@pytest.fixture
def world() -> Iterator[World]:
    """Three shards of a limiter, in virtual time."""
    with closing(World(SHARDS, requests("r", rate=10, burst=20, scope="key"))) as made:
        yield made


def wish(subject: str, **more: int) -> Wish:
    """A wish of the limit `r`."""
    fields: dict[str, Any] = {"used": 0, "takes": 0, "back": 0, "more": 0, "closes": ()}
    return Wish("r", subject, **(fields | more))


def test_wishes_go_where_their_limits_live_and_are_answered_in_their_order(world: World) -> None:
    """As many as there are keys, of all shards, in one exchange."""
    assert {shard_of(limit_key("r", key), SHARDS) for key in KEYS} == set(range(SHARDS))
    wishes = tuple(wish(key, more=1 + number % 10) for number, key in enumerate(KEYS))
    lent = world.ask_now("exchange", wishes)
    assert [(one.state.subject, one.granted) for one in lent] == [
        (key, 1 + number % 10) for number, key in enumerate(KEYS)
    ]
    assert [desk.ran.count("exchange") for desk in world.desks] == [1, 1, 1]
    assert world.ask_now("status")["slices"] == len(KEYS)
    assert world.ask_now("bury", "owner", True) == len(KEYS)


def test_where_one_shard_broke_the_others_exchange_is_not_lost(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """What it was to hear was not heard: nothing lent there, nothing debited."""

    def breaks(*_: Any) -> Any:
        raise RaygateError("broken")

    broken = shard_of(limit_key("r", KEYS[0]), SHARDS)
    cast(Any, world.desks[broken].limiter).exchange = breaks
    lent = world.ask_now("exchange", tuple(wish(key, more=5) for key in KEYS[:6]))
    for key, one in zip(KEYS, lent, strict=False):
        there = shard_of(limit_key("r", key), SHARDS) == broken
        assert (one.state.subject, one.granted) == (key, 0 if there else 5)
    assert "nothing was exchanged: broken" in caplog.text
    for desk in world.desks:
        cast(Any, desk.limiter).exchange = breaks
    with pytest.raises(RaygateError, match="broken"):
        world.ask_now("exchange", tuple(wish(key, more=5) for key in KEYS[:6]))


def test_where_one_shard_has_no_room_none_is_asked(world: World) -> None:
    """All or nothing at the queue as well: of a take, of an exchange, of a look at all."""

    def full(*_: Any, **__: Any) -> Any:
        raise Overloaded("too much is queued")

    cast(Any, world.desks[2]).submit = full
    takes = tuple(("r", key, 1) for key in KEYS)
    for command in (
        ("acquire", "id", takes, 1, 0),
        ("exchange", tuple(wish(key, more=1) for key in KEYS)),
        ("status",),
    ):
        with pytest.raises(Overloaded):
            world.do(world.limiter.submit, *command)
        world.settle()
    assert {name for desk in world.desks for name in desk.ran} <= {"configure", "undo"}


def test_recalls_of_all_shards_are_heard(world: World) -> None:
    """As `on_recall` of one consultant; and all of them know the crowd."""
    world.limiter.on_recall = print
    world.limiter.crowd = lambda: 7
    assert {cast(Any, desk).on_recall for desk in world.desks} == {print}
    assert {cast(Any, desk).crowd() for desk in world.desks} == {7}
    assert (world.limiter.on_recall, world.limiter.crowd()) == (print, 7)


# The cache, with real consultants and hosts.


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[list[Host]]:
    """Three hosts of a cache."""
    factory = "actors.response_cache:ResponseCache"
    made = [
        Host(factory, str(tmp_path / f"{name}.sqlite"), "claim")
        for name in shard_names("response_cache", SHARDS)
    ]
    yield made
    for host in made:
        host.close()


@pytest.fixture
async def cache(hosts: list[Host]) -> AsyncIterator[Consultant]:
    """They, asked as one."""
    names = shard_names("response_cache", SHARDS)
    lines = [InProcess(host) for host in hosts]
    made = [Consultant(name, line) for name, line in zip(names, lines, strict=True)]
    found = as_one("response_cache", made)
    found.start()
    yield found
    await found.close(0.5)


async def claim(cache: Consultant, key: str, id: str) -> Any:
    """Claim a key."""
    return await cache.ask("claim", id, key, "tenant", "model", 5 * S)


async def put(cache: Consultant, key: str) -> None:
    """Fill a key."""
    lead = await claim(cache, key, f"lead of {key}")
    assert isinstance(lead, Lead)
    entry = Entry(key.encode(), "json", {})
    assert await cache.ask("fill", key, *lead, entry, 60 * S, 0, 0)


async def test_a_key_has_one_leader_and_one_entry_wherever_it_lives(cache: Consultant) -> None:
    """The second claim waits for the first, is answered by its fill, and all find it after."""
    for key in KEYS:
        lead = await claim(cache, key, f"first of {key}")
        waiting = cache.submit("claim", f"second of {key}", key, "tenant", "model", 5 * S)
        entry = Entry(key.encode(), "json", {})
        cache.tell("fill", key, *lead, entry, 60 * S, 0, 0)
        assert (await waiting).entry == entry
        assert isinstance(await claim(cache, key, f"third of {key}"), Hit)
    status = await cache.ask("status")
    assert (status["size"], status["hits"], status["misses"]) == (len(KEYS), len(KEYS), len(KEYS))
    assert status["hit_rate"] == pytest.approx(status["hits"] / (len(KEYS) * 3))


async def test_a_purge_reaches_all_shards_and_all_views(cache: Consultant) -> None:
    """How many went is the sum; the generation that is shown grows with every purge."""
    for key in KEYS:
        await put(cache, key)
    seen = []
    for by, value, gone in (("key", KEYS[3], 1), ("model", "model", len(KEYS) - 1)):
        assert await cache.ask("purge", by, value) == gone
        assert await cache.ask("everywhere", f"after {by}") is True
        seen.append(cache.view["purges"]["generation"])
    assert seen[0] < seen[1]
    assert cache.fresh()
    assert cache.since_ns("purges") < 60 * S
    assert (await cache.ask("status"))["size"] == 0


async def test_hits_elsewhere_are_told_to_the_shard_that_has_the_key(cache: Consultant) -> None:
    """`seen` is dealt out by key."""
    for key in KEYS:
        await put(cache, key)
    cache.tell("seen", tuple((key, 2) for key in KEYS))
    assert (await cache.ask("status"))["hits"] == 2 * len(KEYS)


async def test_a_policy_is_for_all_shards_together(cache: Consultant, hosts: list[Host]) -> None:
    """Each has a third of the room; a bad policy is refused in the words of one host."""
    await cache.ask("configure", "1", {"max_entries": 9, "max_bytes": 3_000})
    status = await cache.ask("status")
    assert (status["max_size"], status["max_bytes"]) == (9, 3_000)
    for key in KEYS:
        await put(cache, key)
    assert (await cache.ask("status"))["size"] == 9
    with pytest.raises(InvalidRequest, match="max_entries must be an integer"):
        await cache.ask("configure", "2", {"max_entries": "many"})
    assert share({"max_entries": 2}, 3)["max_entries"] == 1
    assert share({"max_entries": 0}, 3)["max_entries"] == 0


async def test_one_silent_shard_shows(cache: Consultant, hosts: list[Host]) -> None:
    """Reachable and fresh is what all of them are."""
    await cache.ask("everywhere", "first")
    assert cache.reachable
    assert cache.incarnation == (1, 0)
    assert cache.view_age_ns() < 5 * S
    hosts[1].close()
    dead = next(key for key in KEYS if shard_of(key, SHARDS) == 1)
    lives = next(key for key in KEYS if shard_of(key, SHARDS) == 0)
    asked = cache.submit("lookup", dead, False)
    assert await cache.ask("lookup", lives, False) is None
    assert not cache.reachable
    assert [one.reachable for one in each(cache)] == [True, False, True]
    asked.cancel()


async def test_a_report_to_several_has_one_reply(cache: Consultant) -> None:
    """When all have answered; an error counts before what others say."""
    heard: list[Any] = []
    cache.report(heard.append, "status")
    cache.report(heard.append, "no such command")
    await cache.ask("status")
    while len(heard) < 2:  # noqa: ASYNC110 (told within some milliseconds)
        await asyncio.sleep(0.002)
    assert heard[0] == await cache.ask("status")
    assert isinstance(heard[1], InvalidRequest)
