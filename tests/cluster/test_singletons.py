import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from actors import registry
from actors.consultant import Consultant
from actors.ray_transport import RayTransport
from actors.registry import Home
from tests.actors.counter import FACTORY, Sum
from tests.cluster.conftest import eventually, kill_process, lives

DEADLINE_S = 10.0


@pytest.fixture(autouse=True)
def counter_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only singleton of these gateways is the counter."""
    monkeypatch.setattr(registry, "SINGLETONS", {"counter": FACTORY})


@pytest.fixture
def place(name: str, tmp_path: Path) -> Home:
    """The gateway's home, claimed."""
    return registry.claim_home(name, str(tmp_path))


def info(handle: Any) -> dict[str, Any]:
    """See `Host.info`."""
    told: dict[str, Any] = ray.get(handle.info.remote(), timeout=20)
    return told


class Caller:
    """A consultant on an event loop of its own, for tests that are not async."""

    def __init__(self, name: str, place: Home) -> None:
        self._loop = asyncio.new_event_loop()
        self._transport = RayTransport(name, "counter", place)
        self.consultant = self.run(self._start())

    async def _start(self) -> Consultant:
        made = Consultant("counter", self._transport)
        made.start()
        return made

    def run(self, coroutine: Any, within_s: float = DEADLINE_S) -> Any:
        async def in_time() -> Any:
            async with asyncio.timeout(within_s):
                return await coroutine

        return self._loop.run_until_complete(in_time())

    def ask(self, *command: Any) -> Any:
        return self.run(self.consultant.ask(*command))

    def until(self, true: Any) -> None:
        async def watching() -> None:
            while not true():  # noqa: ASYNC110 (anything at all is waited for)
                await asyncio.sleep(0.01)

        self.run(watching())

    def close(self) -> None:
        async def closing() -> None:
            await self.consultant.close(0.5)
            self._transport.close()
            await asyncio.sleep(0.01)

        self.run(closing())
        self._loop.close()


@pytest.fixture
def caller(name: str, place: Home) -> Iterator[Caller]:
    """A consultant in this process."""
    made = Caller(name, place)
    yield made
    made.close()


@ray.remote(num_cpus=0)
class Replica:
    """A process with consultants that count as fast as they can."""

    def __init__(self, name: str, place: Home, consultants: int) -> None:
        registry.SINGLETONS = {"counter": FACTORY}
        self._stop = False
        self._transports = [RayTransport(name, "counter", place) for _ in range(consultants)]

    async def work(self) -> tuple[int, int, float, int]:
        """Until `stop`: how many were added, asks that failed, the slowest, results by watch."""
        done, failed, slowest, late = 0, 0, 0.0, 0

        async def one(asker: Consultant, worker: int) -> None:
            nonlocal done, failed, slowest, late
            step = 0
            while not self._stop:
                step += 1
                began = time.monotonic()
                try:
                    async with asyncio.timeout(DEADLINE_S):
                        if step % 10 == 1:
                            id = f"{id_of[asker]}-{worker}-{step}"
                            reply = await asker.ask("wait", id, 2_000_000)
                            late += reply == "late"
                        else:
                            await asker.ask("add", 1)
                            done += 1
                except Exception:
                    failed += 1
                if step % 5 == 0:
                    asker.tell("add", 1)
                    done += 1
                slowest = max(slowest, time.monotonic() - began)

        askers = [Consultant("counter", transport) for transport in self._transports]
        id_of = {asker: f"{id(self)}-{id(asker)}-{time.time_ns()}" for asker in askers}
        for asker in askers:
            asker.start()
        await asyncio.gather(*(one(asker, worker) for asker in askers for worker in range(10)))
        for asker in askers:
            await asker.close()
        for transport in self._transports:
            transport.close()
        return done, failed, slowest, late

    async def stop(self) -> None:
        self._stop = True


def test_kill_of_the_host_under_load_loses_and_doubles_nothing(
    name: str, place: Home, caller: Caller
) -> None:
    """I8, I9: two kills, four consultants in two processes: the sum is exact, nobody failed."""
    caller.ask("total")
    handle = registry.find(name, "counter")
    replicas = [Replica.remote(name, place, 2) for _ in range(2)]  # type: ignore[attr-defined]
    working = [replica.work.remote() for replica in replicas]
    killed: list[int] = []

    def more(count: int) -> None:
        goal = caller.ask("total") + count
        eventually(lambda: caller.ask("total") >= goal)

    for _ in range(2):
        more(500)
        killed.append(info(handle)["pid"])
        kill_process(killed[-1])
    more(500)
    ray.get([replica.stop.remote() for replica in replicas])
    counted = ray.get(working, timeout=30)
    for replica in replicas:
        ray.kill(replica)
    assert [failed for _, failed, _, _ in counted] == [0, 0]
    assert max(slowest for _, _, slowest, _ in counted) < DEADLINE_S
    assert all(late > 0 for _, _, _, late in counted)
    assert caller.ask("total") == sum(done for done, _, _, _ in counted)
    assert caller.ask("waiting") == []
    told = info(handle)
    assert (told["epoch"], told["restarts"]) == (1, 2)
    assert len({told["pid"], *killed}) == 3


def test_everyone_finds_the_same_host(name: str, place: Home, caller: Caller) -> None:
    """Ensured twice, found by name, asked by a consultant: one process, one state."""
    one, other = (registry.ensure(name, "counter", place) for _ in range(2))
    found = registry.find(name, "counter")
    assert found is not None
    assert info(one)["pid"] == info(other)["pid"] == info(found)["pid"]
    assert registry.claim_home(name, "/elsewhere") == place == registry.home(name)
    assert caller.ask("add", 2) == Sum(2)
    told = registry.describe(name)["counter"]
    assert told["reachable"]
    assert told["pid"] == info(one)["pid"]
    assert told["node"] == place.node


def test_views_and_barriers_outlive_the_host(caller: Caller, name: str) -> None:
    """After a kill the view is a new snapshot, and `everywhere` returns."""
    caller.ask("display", "x", 1)
    caller.ask("display", "y", 2)
    caller.until(lambda: caller.consultant.view == {"x": 1, "y": 2})
    kill_process(info(registry.find(name, "counter"))["pid"])
    caller.ask("hide", "y")
    assert caller.ask("everywhere", "e1") is True
    assert caller.consultant.view == {"x": 1}
    assert caller.consultant.incarnation == (1, 1)
    caller.until(caller.consultant.fresh)


def test_teardown_leaves_no_process_and_no_name(name: str, place: Home, caller: Caller) -> None:
    """Nor does a consultant that still asks bring anything back; what is stored stays."""
    caller.ask("add", 7)
    pid = info(registry.find(name, "counter"))["pid"]
    assert registry.teardown(name) == ["counter"]
    eventually(lambda: not lives(pid))
    with pytest.raises(TimeoutError):
        caller.run(caller.consultant.ask("total"), within_s=1.0)
    assert registry.find(name, "counter") is None
    assert registry.home(name) is None
    assert registry.teardown(name) == []
    with pytest.raises(LookupError):
        registry.ensure(name, "counter", place)
    assert registry.describe(name)["counter"] == {"reachable": False, "node": None}

    anew = registry.claim_home(name, place.folder)
    assert anew.claim != place.claim
    again = Caller(name, anew)
    assert again.ask("total") == 7
    told = info(registry.find(name, "counter"))
    assert (told["epoch"], told["restarts"]) == (2, 0)
    with pytest.raises(LookupError):
        registry.ensure(name, "counter", place)
    again.close()


def end_host(name: str) -> None:
    """End the host once it lives, so that Ray does not restart it."""
    host = registry.find(name, "counter")
    assert host is not None
    info(host)
    ray.kill(host, no_restart=True)
    eventually(lambda: registry.find(name, "counter") is None)


def test_older_code_never_makes_a_host(
    name: str, place: Home, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: newer code takes over with the state; older code finds its host, or none."""
    assert caller.ask("add", 3) == Sum(3)
    old = info(registry.find(name, "counter"))["pid"]

    monkeypatch.setattr(registry, "code_version", lambda: (9, 0))
    newer = registry.claim_home(name, "/elsewhere")
    assert newer == replace(place, code=(9, 0))
    eventually(lambda: not lives(old))
    # It was made by the takeover, and counts as one start.
    end_host(name)

    monkeypatch.setattr(registry, "code_version", lambda: place.code)
    assert registry.claim_home(name, "/elsewhere") == newer
    with pytest.raises(ValueError):
        registry.ensure(name, "counter", place)
    assert registry.find(name, "counter") is None

    monkeypatch.setattr(registry, "code_version", lambda: (9, 0))
    made = info(registry.ensure(name, "counter", newer))
    assert (made["epoch"], made["restarts"]) == (1, 2)
    monkeypatch.setattr(registry, "code_version", lambda: place.code)
    assert info(registry.ensure(name, "counter", place))["pid"] == made["pid"]
    assert caller.ask("total") == 3


def test_rolled_back_newer_code_makes_no_host_either(
    name: str, place: Home, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: the older code goes on with the state, and newer replicas that remain find its host."""
    caller.ask("add", 3)
    monkeypatch.setattr(registry, "code_version", lambda: (9, 0))
    newer = registry.claim_home(name, "/elsewhere")
    old = info(registry.ensure(name, "counter", newer))["pid"]

    monkeypatch.setattr(registry, "code_version", lambda: place.code)
    assert registry.roll_back(name)
    assert not registry.roll_back(name)
    eventually(lambda: not lives(old))

    monkeypatch.setattr(registry, "code_version", lambda: (9, 0))
    with pytest.raises(ValueError):
        registry.ensure(name, "counter", newer)
    monkeypatch.setattr(registry, "code_version", lambda: place.code)
    made = info(registry.ensure(name, "counter", place))
    assert made["code"] == ".".join(map(str, place.code))
    assert caller.ask("total") == 3


def test_a_host_that_comes_too_late_refuses_to_live(
    name: str, place: Home, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: made by older code between its look at the home and the takeover, it ends itself."""
    caller.ask("add", 3)
    monkeypatch.setattr(registry, "code_version", lambda: (9, 0))
    newer = registry.claim_home(name, "/elsewhere")
    end_host(name)
    monkeypatch.setattr(registry, "code_version", lambda: place.code)
    monkeypatch.setattr(registry, "home", lambda name: place)
    late = registry.ensure(name, "counter", place)
    with pytest.raises(ray.exceptions.ActorDiedError, match="changed hands"):
        info(late)
    monkeypatch.undo()
    monkeypatch.setattr(registry, "SINGLETONS", {"counter": FACTORY})
    monkeypatch.setattr(registry, "code_version", lambda: (9, 0))
    assert info(registry.ensure(name, "counter", newer))["restarts"] == 2
    assert caller.ask("total") == 3
