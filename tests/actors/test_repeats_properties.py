"""Repeats under any sequence of commands."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.cache_entries import Entry
from actors.errors import IdempotencyMismatch, Overloaded
from actors.mechanism import owner_of
from actors.repeats import Begun, Forgotten, Repeated
from tests.actors.repeats_world import DAY, S, World

ids = st.sampled_from([f"r{number}" for number in range(8)])
keys = st.sampled_from(["k1", "k2", "k3"])
entries = st.none() | st.integers(0, 60).map(lambda size: Entry(b"x" * size, "json", {}))
owners = st.sampled_from(["one", "two"])
commands = st.one_of(
    st.tuples(
        st.just("begin"),
        ids,
        keys,
        st.sampled_from([b"d", b"d", b"e"]),
        st.integers(0, 9),
        owners.map(lambda owner: f"{owner}.1"),
    ),
    st.tuples(st.just("bury"), owners),
    st.tuples(st.just("finish"), ids, keys, entries),
    st.tuples(st.just("leave"), ids, keys),
    st.tuples(st.just("time"), st.integers(1, 60)),
    st.tuples(st.just("time"), st.just(30_000)),
)
histories = st.lists(commands, max_size=30)


def run(w: World, now: float, command: tuple[Any, ...]) -> Any:
    """One command's reply, an error as its class."""
    name, *args = command
    try:
        if name == "begin":
            return w.begin(now, *args)
        if name == "bury":
            return w.bury(now, *args)
        if name == "finish":
            return w.finish(now, args[0], args[2], args[1])
        return w.leave(now, *args) if name == "leave" else w.pass_to(now)
    except (IdempotencyMismatch, Overloaded) as error:
        return type(error)


@settings(deadline=None)
@given(histories, histories)
def test_what_is_loaded_behaves_as_what_lived(
    before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]
) -> None:
    """load(rows) equals the state that lived, replies aside (here none is kept)."""
    bounds = {"max_keys": 2, "max_followers": 3, "max_bytes": 0}
    lived, now = World(**bounds), 0
    for command in before:
        now += command[1] if command[0] == "time" else 0
        run(lived, now, command)
    loaded = World(**bounds)
    loaded.live = dict(lived.live)
    loaded.start()
    for command in after:
        now += command[1] if command[0] == "time" else 0
        assert run(loaded, now, command) == run(lived, now, command)
        assert loaded.late == lived.late
        assert loaded.live.keys() == lived.live.keys()
        assert loaded.repeats.status() == lived.repeats.status()
        assert loaded.repeats.next_ns() == lived.repeats.next_ns()
        assert set(loaded.repeats.owners()) == set(lived.repeats.owners())


@settings(deadline=None)
@given(st.lists(commands | st.just(("restart",)), max_size=40))
def test_one_runs_at_a_time_and_none_after_it_was_done(history: list[tuple[Any, ...]]) -> None:
    """I3 for keys: nobody is told to run a key that runs, or was done within the day.

    I12: when all are buried and a day has passed, nothing is left of any key.
    """
    w, now = World(max_bytes=100), 0
    runs: dict[str, str] = {}
    done: dict[str, int] = {}
    wants: dict[str, str] = {}
    whose: dict[str, str] = {}

    def told(id: str, reply: Any) -> None:
        key = wants[id]
        if isinstance(reply, Begun):
            assert reply.id == id
            assert key not in runs or runs[key] == id, "two run the same key"
            assert done.get(key, -DAY) + DAY <= now * S, "it was done already"
            runs[key] = id
        elif isinstance(reply, Repeated | Forgotten):
            assert key in done

    for number, command in enumerate(history):
        name, *args = command
        if name == "restart":
            w.start()
            continue
        now += args[0] if name == "time" else 0
        if name == "begin":
            # Ids are minted: each request has one of its own.
            args[0] = f"{args[0]}.{number}"
            wants[args[0]], whose[args[0]] = args[1], owner_of(args[4])
            told(args[0], run(w, now, (name, *args)))
        elif name in ("finish", "leave"):
            args[0] = runs.get(args[1], args[0])
            held = runs.pop(args[1], None)
            if held is not None and name == "finish":
                done[args[1]] = now * S
            run(w, now, (name, *args))
        elif name == "bury":
            for key, id in list(runs.items()):
                if whose[id] == args[0]:
                    done[key] = now * S
                    del runs[key]
            run(w, now, command)
            assert args[0] not in w.repeats.owners()
        else:
            run(w, now, command)
        for id, reply in w.late.items():
            assert name != "bury" or whose[id] != args[0], "the dead are told nothing"
            told(id, reply)
        w.late = {}
    for owner in ("one", "two"):
        w.bury(now, owner)
    for _ in range(3):
        now += 24 * 3600 + 100
        w.pass_to(now)
    assert not w.live
    assert not any(w.repeats.status().values())
    assert w.repeats.next_ns() is None
