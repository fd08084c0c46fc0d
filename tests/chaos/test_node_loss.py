import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from actors import home, placing, registry
from actors.consultant import Consultant
from actors.host_actor import namespace, standby_name
from actors.ray_transport import RayTransport
from actors.registry import Home
from actors.watchdog import seen
from tests.actors.counter import CALENDAR, FACTORY
from tests.chaos.conftest import Nodes, kill_process

pytestmark = pytest.mark.anyio

RECOVERY_S = 15.0


@pytest.fixture(autouse=True)
def counter_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only singleton of these gateways is a durable counter."""
    monkeypatch.setattr(registry, "SINGLETONS", {"counter": CALENDAR})


@asynccontextmanager
async def caller(name: str, place: Home) -> AsyncIterator[Consultant]:
    """A consultant in this process."""
    transport = RayTransport(name, "counter", place)
    made = Consultant("counter", transport)
    made.start()
    try:
        yield made
    finally:
        await made.close(0.5)
        transport.close()
        await asyncio.sleep(0.01)


class Load:
    """Adds as fast as it can. done: adds that were acknowledged; slowest: seconds."""

    def __init__(self, asker: Consultant) -> None:
        self.done = 0
        self.slowest = 0.0
        self._asker = asker
        self._going = True
        self._tasks = [asyncio.create_task(self._add()) for _ in range(8)]

    async def _add(self) -> None:
        while self._going:
            began = time.monotonic()
            await self._asker.ask("add", 1)
            self.done += 1
            self.slowest = max(self.slowest, time.monotonic() - began)

    async def until(self, more: int, within_s: float = 30.0) -> None:
        """So many more are done."""
        goal = self.done + more
        async with asyncio.timeout(within_s):
            while self.done < goal:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def stop(self) -> int:
        self._going = False
        await asyncio.gather(*self._tasks)
        return self.done


async def info(name: str) -> dict[str, Any]:
    """See `HostActor.info`; of the one in charge, once it answers."""
    while True:
        handle: Any = await asyncio.to_thread(registry.find, name, "counter")
        try:
            if handle is not None:
                told: dict[str, Any] = await handle.info.remote()
                return told
        except ray.exceptions.RayActorError:
            pass
        await asyncio.sleep(0.1)


async def protected(name: str, within_s: float = 30.0) -> dict[str, Any]:
    """The host's own word, once it has a standby."""
    async with asyncio.timeout(within_s):
        while not (told := await info(name))["protection"].startswith("standby"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return told


async def test_the_standby_goes_on_when_the_node_is_lost(
    nodes: Nodes, name: str, tmp_path: Path
) -> None:
    """I8, I10: twice, with a node that comes in between; every acknowledged add is there."""
    place = await asyncio.to_thread(registry.claim_home, name, str(tmp_path))
    assert place.node in nodes.raygate
    async with caller(name, place) as asker:
        load = Load(asker)
        await load.until(100)
        for _ in range(2):
            told = await protected(name)
            await load.until(100)
            nodes.kill(told["node"])
            began = time.monotonic()
            await asyncio.sleep(0.2)
            await load.until(1)
            assert time.monotonic() - began < RECOVERY_S
            after = await info(name)
            assert after["epoch"] > told["epoch"]
            assert after["node"] != told["node"]
            nodes.add()
        done = await load.stop()
        assert await asker.ask("total") == done


@pytest.mark.long
async def test_a_frozen_standby_is_gone_on_without(nodes: Nodes, name: str, tmp_path: Path) -> None:
    """SIGSTOP: a pause of two seconds, nothing lost; awake again, it is a standby again."""
    place = await asyncio.to_thread(registry.claim_home, name, str(tmp_path))
    async with caller(name, place) as asker:
        load = Load(asker)
        await protected(name)
        term = await asyncio.to_thread(home.terms_of(name).latest, "counter")
        assert term is not None
        assert term.standby is not None
        standby = await asyncio.to_thread(standby_process, name, term.standby.node)
        load.slowest = 0.0
        kill_process(standby, signal.SIGSTOP)
        await load.until(500)
        assert (await info(name))["protection"] == "store only"
        kill_process(standby, signal.SIGCONT)
        await protected(name)
        done = await load.stop()
        assert load.slowest < 6.0
        assert await asker.ask("total") == done


async def alone(name: str, nodes: Nodes) -> dict[str, Any]:
    """The host's own word, once its standby's node is gone and it knows."""
    told = await protected(name)
    for id in [one for one in nodes.raygate if one != told["node"]]:
        nodes.kill(id)
    async with asyncio.timeout(30):
        while not (told := await info(name))["protection"].startswith("store"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return told


@pytest.mark.long
async def test_a_store_that_moves_with_its_volume_is_found(
    nodes: Nodes, name: str, tmp_path: Path
) -> None:
    """I8: both nodes are gone; another one has the file, and nothing is lost."""
    place = await asyncio.to_thread(registry.claim_home, name, str(tmp_path))
    async with caller(name, place) as asker:
        load = Load(asker)
        told = await alone(name, nodes)
        await load.until(100)
        nodes.kill(told["node"])
        await asyncio.sleep(0.2)
        await load.until(1)
        done = await load.stop()
        assert await asker.ask("total") == done
        assert (await info(name))["epoch"] > told["epoch"]


async def test_without_any_copy_it_waits_until_somebody_decides(
    nodes: Nodes, name: str, tmp_path: Path
) -> None:
    """It never begins empty in silence; and begins empty when it is told to."""
    place = await asyncio.to_thread(registry.claim_home, name, str(tmp_path))
    async with caller(name, place) as asker:
        await asker.ask("add", 7)
        told = await alone(name, nodes)
        nodes.kill(told["node"])
        for file in (tmp_path / name).iterdir():
            file.unlink()
        asked = asker.submit("total")
        async with asyncio.timeout(20):
            while "raygate ledger adopt" not in asker.trouble:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert not asked.done()
        [waiting] = await asyncio.to_thread(registry.waiting, name)
        assert (waiting.host, waiting.found) == ("counter", [])
        await asyncio.to_thread(placing.adopt, name, "counter", None)
        assert await asyncio.wait_for(asked, 20) == 0
        assert await asyncio.to_thread(registry.waiting, name) == []


async def test_a_frozen_node_that_wakes_up_has_nothing_to_say(
    nodes: Nodes, name: str, tmp_path: Path
) -> None:
    """I10: stopped, replaced, and awake again: its host ends, and the sum is exact."""
    place = await asyncio.to_thread(registry.claim_home, name, str(tmp_path))
    async with caller(name, place) as asker:
        load = Load(asker)
        told = await protected(name)
        await load.until(100)
        frozen = nodes.processes(told["node"])
        for pid in frozen:
            kill_process(pid, signal.SIGSTOP)
        began = time.monotonic()
        await asyncio.sleep(0.5)
        await load.until(1)
        assert time.monotonic() - began < RECOVERY_S + 5.0
        for pid in frozen:
            kill_process(pid, signal.SIGCONT)
        await load.until(200)
        assert (await info(name))["node"] != told["node"]
        async with asyncio.timeout(20):
            while seen(told["pid"]) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        nodes.kill(told["node"])
        done = await load.stop()
        assert await asker.ask("total") == done


@pytest.mark.long
async def test_a_frozen_host_is_killed_by_its_neighbours(
    nodes: Nodes, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: it is gone on from its store within seconds, by another process."""
    monkeypatch.setitem(registry.SINGLETONS, "neighbour", FACTORY)
    place = await asyncio.to_thread(registry.claim_home, name, str(tmp_path))
    neighbour = RayTransport(name, "neighbour", place)
    async with caller(name, place) as asker:
        other = Consultant("neighbour", neighbour)
        other.start()
        await other.ask("total")
        load = Load(asker)
        await load.until(100)
        told = await info(name)
        began = time.monotonic()
        kill_process(told["pid"], signal.SIGSTOP)
        await asyncio.sleep(0.2)
        await load.until(1)
        assert time.monotonic() - began < RECOVERY_S
        assert (await info(name))["pid"] != told["pid"]
        await other.close(0.5)
        neighbour.close()
        done = await load.stop()
        assert await asker.ask("total") == done


def standby_process(name: str, node: str) -> int:
    """The process of the standby on a node."""
    handle: Any = ray.get_actor(standby_name(node), namespace=namespace(name))
    told: dict[str, Any] = ray.get(handle.info.remote(), timeout=20)
    return int(told["pid"])
