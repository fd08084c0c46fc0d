"""What a restart remembers."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.cache_entries import Entry
from actors.errors import InvalidRequest
from actors.response_cache import ResponseCache
from tests.actors.response_cache_world import (
    MODELS,
    POLICY,
    TENANTS,
    Rows,
    T,
    keys,
    owners,
    purges,
    spans,
)


def test_waiters_keep_their_turn_over_restarts() -> None:
    """Those from before a restart lead before those from after it, each in order of arrival."""
    cache, store, led = ResponseCache(), Rows(), list[str]()
    names = ["lead", "z", "a", "m", "b", "y"]
    for number, name in enumerate(names):
        cache.claim(0, "c", name, "k1", "t1", "m1", 9 * T)
        store.commit(cache.take_changes())
        if number >= 3:
            cache = store.restart()
    for name in names[:-1]:
        cache.leave(0, "c", "k1", name)
        changes = cache.take_changes()
        store.commit(changes)
        led += [result.id for result in changes.results]
        cache = store.restart()
    assert led == names[1:]


def test_what_is_over_at_once_is_over_in_order_after_a_restart() -> None:
    """Waiters whose patience ends at the same instant are refused in order of arrival."""
    cache, store = ResponseCache(), Rows()
    for name in ("lead", "z", "a", "m"):
        cache.claim(0, "c", name, "k1", "t1", "m1", 4 * T)
    store.commit(cache.take_changes())
    for at_hand in (cache, store.restart()):
        at_hand.advance(4 * T)
        assert [result.id for result in at_hand.take_changes().results] == ["z", "a", "m"]


ids = st.sampled_from([f"r{number}" for number in range(8)])
commands = st.one_of(
    st.tuples(st.just("claim"), ids, keys, spans, owners, st.booleans()),
    st.tuples(st.just("repeat"), ids, keys, spans, owners),
    st.tuples(st.just("bury"), owners),
    st.tuples(st.just("fill"), ids, keys, st.integers(0, 2)),
    st.tuples(st.just("leave"), ids, keys),
    st.tuples(st.just("purge"), purges),
    st.tuples(st.just("advance"), st.integers(1, 8)),
)


def run(cache: ResponseCache, now: int, command: tuple[Any, ...]) -> Any:
    """One command's reply, an error as its class."""
    name, *args = command
    try:
        if name == "claim":
            id, key, wait, owner, lookup = args
            tenant, model = TENANTS[key], MODELS[key]
            return cache.claim(now, f"{owner}.1", id, key, tenant, model, wait, lookup)
        if name == "repeat":
            id, key, wait, owner = args
            return cache.repeat_begin(now, f"{owner}.1", id, key, b"d", wait)
        if name == "bury":
            return cache.bury(now, "c", args[0], False)
        if name == "fill":
            id, key, generation = args
            entry = Entry(id.encode(), "sse", {})
            return cache.fill(now, "c", key, id, generation, entry, 8 * T, 4 * T, 4 * T)
        if name == "leave":
            return cache.leave(now, "c", args[1], args[0])
        if name == "purge":
            return cache.purge(now, "c", *args[0])
        return cache.advance(now)
    except InvalidRequest as error:
        return type(error)


def remembered(cache: ResponseCache, now: int) -> dict[str, Any]:
    """What status says of the state that a restart keeps."""
    forgotten = {"hits", "misses", "waits", "evictions", "hit_rate", "size", "bytes"}
    status = cache.status(now, "c")
    kept = {name: value for name, value in status.items() if name not in forgotten}
    return {**kept, "owners": set(cache.owners())}


@settings(deadline=None)
@given(st.lists(commands, max_size=30), st.lists(commands, max_size=30))
def test_what_is_loaded_behaves_as_what_lived(
    before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]
) -> None:
    """load(rows) equals the state that lived, bodies aside: every later reply is the same."""
    now, store, lived = 0, Rows(), ResponseCache()
    lived.configure(0, "c", "first", POLICY)
    store.commit(lived.take_changes())
    for command in before:
        now += command[1] * T if command[0] == "advance" else 0
        run(lived, now, command)
        store.commit(lived.take_changes())
    loaded = store.restart()
    assert remembered(loaded, now) == remembered(lived, now)
    store.commit(lived.take_changes())
    loaded.take_changes()
    for revision, policy in (("none", {"max_entries": 0}), ("again", POLICY)):
        lived.configure(now, "c", revision, policy)
        loaded.configure(now, "c", revision, policy)
    for command in after:
        now += command[1] * T if command[0] == "advance" else 0
        assert run(loaded, now, command) == run(lived, now, command)
        theirs, ours = lived.take_changes(), loaded.take_changes()
        assert (ours.results, ours.views) == (theirs.results, theirs.views)
        assert sorted(row[:2] for row in ours.rows) == sorted(row[:2] for row in theirs.rows)
        assert remembered(loaded, now) == remembered(lived, now)
