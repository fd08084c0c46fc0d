"""Another number of hosts: what was used stays used, and the clocks stay one."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors import clock, resharding, store, store_files
from actors.consultant import Consultant
from actors.host import Host
from actors.limits import Take, Wish
from actors.rendezvous import limit_key, shard_of
from actors.repeats import Begun, Forgotten
from actors.resharding import prepare
from actors.sharded import as_one, shard_names
from actors.store import StoreError
from actors.transport import InProcess

pytestmark = pytest.mark.anyio

S = 1_000_000_000
DAY = 86_400 * S
FACTORIES = {
    "rate_limiter": "actors.rate_limiter:RateLimiter",
    "response_cache": "actors.response_cache:ResponseCache",
}
# So slow that no test sees a unit of it come back.
SLOW: dict[str, Any] = {"unit": "requests", "rate": 1, "period_ns": DAY, "burst": 20}
POLICY = {
    "limits": [
        {"name": "all", "scope": "cluster", **SLOW},
        {"name": "each", "scope": "key", **SLOW},
        {"name": "slots", "scope": "key", "unit": "concurrent", "burst": 5},
    ]
}
KEYS = [f"key-{number}" for number in range(12)]


@asynccontextmanager
async def running(folder: Path, singleton: str, shards: int) -> AsyncIterator[Consultant]:
    """The singleton on so many hosts, as they start on a cluster: each by itself."""
    names = shard_names(singleton, shards)
    hosts = []
    for name in names:
        prepare(folder, FACTORIES[singleton], lambda _: names)
        hosts.append(Host(FACTORIES[singleton], str(folder / f"{name}.sqlite"), "claim"))
    consultants = [Consultant(n, InProcess(host)) for n, host in zip(names, hosts, strict=True)]
    found = as_one(singleton, consultants)
    found.start()
    try:
        yield found
    finally:
        await found.close(1.0)
        for host in hosts:
            host.close()


def clocks(folder: Path, shards: int) -> list[tuple[str, int]]:
    """Boot and offset of each host's clock, as its store has them."""
    found = []
    for name in shard_names("rate_limiter", shards):
        opened = store.Store(folder / f"{name}.sqlite", {"_meta": "live"}, False)
        meta = {row.key: row.value for row in opened.load()}
        opened.close()
        found.append((meta["boot"], meta["offset_ns"]))
    return found


async def use(limiter: Consultant) -> None:
    """Units of all kinds, taken in all ways; `left` tells what that leaves."""
    await limiter.ask("configure", "1", POLICY)
    for number, key in enumerate(KEYS):
        takes = (Take("all", "", 1), Take("each", key, number))
        await limiter.ask("acquire", key, takes, 1, 0)
        limiter.tell("settle", key, None)
    await limiter.ask("acquire", "open", (Take("each", "open", 2), Take("slots", "open", 1)), 1, 0)
    await limiter.ask("exchange", (Wish("each", "lent", 0, 0, 0, 5, ()),))
    await limiter.ask("acquire", "first", (Take("slots", "full", 5),), 1, 0)
    waits = limiter.submit("acquire", "waits", (Take("slots", "full", 1),), 1, 10 * S)
    waits.add_done_callback(lambda one: one.cancelled() or one.exception())
    await limiter.ask("status")


async def left(limiter: Consultant) -> dict[tuple[str, str], int]:
    """What is left of each limit."""
    named = [("all", ""), *(("each", key) for key in (*KEYS, "open", "lent"))]
    named += [("slots", "open"), ("slots", "full")]
    states = await limiter.ask("look", tuple(Take(*one, 0) for one in named))
    return {(state.limit, state.subject): state.remaining for state in states}


EXPECTED = {
    ("all", ""): 20 - len(KEYS),
    **{("each", key): 20 - number for number, key in enumerate(KEYS)},
    ("each", "open"): 18,
    ("each", "lent"): 15,
}
FREED = {("slots", "open"): 5, ("slots", "full"): 5}


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 5), (3, 2)])
async def test_what_was_used_stays_used_wherever_a_limit_lives(
    tmp_path: Path, before: int, after: int
) -> None:
    """What was lent or held counts as used; slots are free, as nobody is left who has them."""
    async with running(tmp_path, "rate_limiter", before) as limiter:
        await use(limiter)
        assert (await left(limiter)).items() >= EXPECTED.items()
    async with running(tmp_path, "rate_limiter", after) as limiter:
        assert await left(limiter) == EXPECTED | FREED
        await limiter.ask("configure", "1", POLICY)
        assert await left(limiter) == EXPECTED | FREED
        status = await limiter.ask("status")
        assert (status["holds"], status["waiting"], status["slices"]) == (0, 0, 0)
    names = {f"{name}.sqlite" for name in shard_names("rate_limiter", after)}
    assert {name for name in os.listdir(tmp_path) if name.endswith(".sqlite")} == names
    assert len(set(clocks(tmp_path, after))) == 1


async def test_the_same_number_again_keeps_everything(tmp_path: Path) -> None:
    """Holds, slices and tickets as well."""
    for _ in range(2):
        async with running(tmp_path, "rate_limiter", 3) as limiter:
            if not await left(limiter):
                await use(limiter)
            status = await limiter.ask("status")
            assert (status["holds"], status["waiting"], status["slices"]) == (3, 1, 1)
            assert (await left(limiter))["slots", "full"] == 0


async def test_an_idempotency_key_is_remembered_by_the_shard_that_has_it_now(
    tmp_path: Path,
) -> None:
    """Done ones, and those whose first request may have been charged; entries are gone."""
    async with running(tmp_path, "response_cache", 1) as cache:
        for key in KEYS:
            assert await cache.ask("repeat_begin", key, key, b"digest", 0) == Begun(key)
            if key != KEYS[0]:
                cache.tell("repeat_finish", key, key, None)
        lead = await cache.ask("claim", "id", "question", "tenant", "model", 0)
        await cache.ask("status")
    async with running(tmp_path, "response_cache", 3) as cache:
        for key in KEYS:
            found = await cache.ask("repeat_begin", "again " + key, key, b"digest", 0)
            assert isinstance(found, Forgotten), key
        again = await cache.ask("claim", "other id", "question", "tenant", "model", 0)
        assert type(again) is type(lead)
        assert (await cache.ask("status"))["repeats"]["keys"] == len(KEYS)


async def test_one_host_alone_leaves_no_trace_of_shards(tmp_path: Path) -> None:
    """And one mechanism without shards is passed over, whatever it is said to have."""
    async with running(tmp_path, "rate_limiter", 1):
        pass
    prepare(tmp_path, "actors.key_store:KeyStore", lambda _: ["a", "b"])
    kinds = {name.partition(".")[2] for name in os.listdir(tmp_path)}
    assert kinds == {"sqlite", "head", "lock"}


def all_rows(folder: Path, shards: int) -> set[str]:
    """The buckets of all stores, and that each is where it belongs."""
    found = set()
    tables = {**resharding.mechanism_of(FACTORIES["rate_limiter"]).TABLES, "_meta": "live"}
    for number, name in enumerate(shard_names("rate_limiter", shards)):
        opened = store.Store(folder / f"{name}.sqlite", tables, False)
        keys = {row.key for row in opened.load() if row.table == "buckets"}
        opened.close()
        assert all(shard_of(key, shards) == number for key in keys)
        found |= keys
    return found


BUCKETS = {limit_key(*key) for key, units in EXPECTED.items() if units < 20}


class Crash(Exception):
    """The process ended here."""


@pytest.fixture
def crashes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the n-th step on the disk from now be the last one; [] lets all happen."""
    steps: list[int] = []

    def may_end(do: Any) -> Any:
        def step(*args: Any, **named: Any) -> Any:
            if steps:
                steps[0] -= 1
                if steps[0] < 0:
                    raise Crash
            return do(*args, **named)

        return step

    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(Path, name, may_end(getattr(Path, name)))
    monkeypatch.setattr(store.Store, "commit", may_end(store.Store.commit))
    return steps


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2)])
async def test_a_crash_in_the_middle_is_made_good_by_the_next_start(
    tmp_path: Path, crashes: list[int], before: int, after: int
) -> None:
    """I8: wherever it happened, nothing is lost, and nothing is there twice."""
    names = shard_names("rate_limiter", after)
    for last in range(100):
        folder = tmp_path / str(last)
        async with running(folder, "rate_limiter", before) as limiter:
            await use(limiter)
        crashes[:] = [last]
        try:
            prepare(folder, FACTORIES["rate_limiter"], lambda _: names)
        except Crash:
            ended = False
        else:
            ended = True
        crashes.clear()
        prepare(folder, FACTORIES["rate_limiter"], lambda _: names)
        assert all_rows(folder, after) == BUCKETS
        if ended:
            break
    assert last > 5


async def test_after_a_boot_the_clocks_of_all_shards_are_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go on from the latest time that any of them has told: none goes back."""
    async with running(tmp_path, "rate_limiter", 3) as limiter:
        await use(limiter)
    before = clocks(tmp_path, 3)
    assert len(set(before)) == 1
    told = 0
    for name in shard_names("rate_limiter", 3):
        opened = store.Store(tmp_path / f"{name}.sqlite", {"_meta": "live"}, False)
        told = max(told, *(row.value for row in opened.load() if row.key == "now"))
        opened.close()
    for module in (clock, resharding):
        monkeypatch.setattr(module, "boot_id", lambda: "another boot")
    async with running(tmp_path, "rate_limiter", 3) as limiter:
        asked = (Take("each", "new", 1),), 1, 0
        assert (await limiter.ask("acquire", "new", *asked)).at_ns >= told
    after = clocks(tmp_path, 3)
    assert set(after) == {("another boot", after[0][1])}
    assert after[0][1] < before[0][1]


async def test_stores_that_are_in_use_are_not_dealt_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host of an earlier home lives: the new one says so and tries again."""
    monkeypatch.setattr(store_files, "_LOCK_PATIENCE_S", 0.05)
    names = shard_names("rate_limiter", 3)
    async with running(tmp_path, "rate_limiter", 1):
        with pytest.raises(StoreError, match="held by another process"):
            prepare(tmp_path, FACTORIES["rate_limiter"], lambda _: names)
    prepare(tmp_path, FACTORIES["rate_limiter"], lambda _: names)
    async with running(tmp_path, "rate_limiter", 3):
        prepare(tmp_path, FACTORIES["rate_limiter"], lambda _: names)
    assert os.stat(tmp_path / "rate_limiter-2.sqlite").st_mode & 0o777 == 0o600


async def test_copies_are_no_stores_to_be_dealt(tmp_path: Path) -> None:
    """I8: on the node of a standby, which goes on from its copies of the shards as they are."""
    async with running(tmp_path / "primary", "rate_limiter", 2) as limiter:
        await limiter.ask("configure", "1", POLICY)
    names = shard_names("rate_limiter", 2)
    standby = tmp_path / "standby"
    standby.mkdir()
    copies = {f"{host}.1.sqlite" for host in names}
    for host in names:
        (standby / f"{host}.1.sqlite").write_bytes(
            (tmp_path / "primary" / f"{host}.sqlite").read_bytes()
        )
    for host in names:
        prepare(standby, FACTORIES["rate_limiter"], lambda _: names, f"{host}.1.sqlite")
    assert {path.name for path in standby.iterdir()} == copies
    # And where some hosts began here, and others are only copied here.
    prepare(standby, FACTORIES["rate_limiter"], lambda _: names, f"{names[0]}.sqlite")
    assert copies <= {path.name for path in standby.iterdir()}
