"""What processes held that were killed, that are frozen, or that ended: on a running Ray."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray

from actors import registry
from actors.charges import Facts, Usage
from actors.circuit_breaker import FAILURE, IGNORED
from actors.consultant import Consultant
from actors.ledger import Entry
from actors.life import Life
from actors.outbox import Outbox
from actors.ray_transport import RayTransport
from actors.registry import HOLDERS, Home
from tests.cluster.conftest import eventually, kill_process, lives

HOUR = 3600 * 10**9
FACTS = Facts("key", "", "", "model", "p/model", "", {})


class Held(NamedTuple):
    """A process, and the owner that it is."""

    pid: int
    owner: str


def consultants(name: str, place: Home, life: Life | None = None) -> dict[str, Consultant]:
    """One for each singleton where something can be held, started."""
    made = {
        holder: Consultant(holder, RayTransport(name, holder, place), life) for holder in HOLDERS
    }
    for consultant in made.values():
        consultant.start()
    return made


@ray.remote(num_cpus=0)
class Holder:
    """A process that takes a probe, a lead and money, and has calls on its outbox."""

    async def take(self, name: str, place: Home, folder: str, node: str | None) -> Held:
        """node: on which it says it runs; None: where it does."""
        self._outbox = Outbox(Path(folder))
        self._owner = owner = self._outbox.owner
        life = registry.life_of(self._outbox)
        self._ask = consultants(name, place, life if node is None else life._replace(node=node))
        await self._ask["circuit_breaker"].ask("report", owner, 0, FAILURE, 0)
        permit = await self._ask["circuit_breaker"].ask("permit", owner, owner)
        assert permit.probe
        lead = await self._ask["response_cache"].ask("claim", owner, owner, "t", "m", 0)
        assert lead.lead_id == owner
        for call in ("started", "ended", "unused"):
            charge_id = f"{call} {owner}"
            await self._ask["cost_tracker"].ask("reserve", charge_id, (), 700, HOUR, FACTS)
            if call != "unused":
                self._outbox.started(charge_id, ("reserved", 700))
        self._outbox.ended(f"ended {owner}", ("post", 300, Usage(1, 0, 1, 0), False))
        return Held(os.getpid(), owner)

    async def end(self) -> None:
        """Close everything, as a process does that ends."""
        owner, costs = self._owner, self._ask["cost_tracker"]
        self._ask["circuit_breaker"].tell("report", owner, 0, IGNORED, 0, owner)
        self._ask["response_cache"].tell("leave", owner, owner)
        costs.tell("void", f"unused {owner}")
        for call in ("started", "ended"):
            charge_id, how = f"{call} {owner}", ("post", 200, Usage(), False)
            self._outbox.ended(charge_id, how)
            assert await costs.ask("post", charge_id, *how[1:]) == "posted"
            self._outbox.acknowledged(charge_id)
        await asyncio.gather(*(consultant.close() for consultant in self._ask.values()))
        assert self._outbox.close()


class Looker:
    """Looks at what is held, from this process."""

    def __init__(self, name: str, place: Home) -> None:
        self._loop = asyncio.new_event_loop()
        self._ask = self.run(self._start(name, place))

    async def _start(self, name: str, place: Home) -> dict[str, Consultant]:
        return consultants(name, place)

    def run(self, coroutine: Any) -> Any:
        async def in_time() -> Any:
            async with asyncio.timeout(60):
                return await coroutine

        return self._loop.run_until_complete(in_time())

    def ask(self, holder: str, *command: Any) -> Any:
        return self.run(self._ask[holder].ask(*command))

    def probes(self) -> dict[str, int]:
        """Probes that are out, by the owner whose target it is."""
        targets = self.ask("circuit_breaker", "status")["targets"]
        return {owner: at["probes"] for owner, at in targets.items()}

    def leaders(self) -> int:
        leaders: int = self.ask("response_cache", "status")["leaders"]
        return leaders

    def charges(self) -> set[tuple[str, str, int]]:
        """Charge id, state and amount of each row of the ledger."""
        rows = self.ask("cost_tracker", "rows", "ledger", "", 100)
        entries = [Entry(*row.value) for row in rows]
        return {(one.charge_id, one.state, one.amount_nanos) for one in entries}

    def known(self, name: str) -> list[int]:
        """How many owners each host knows."""
        told = registry.describe(name)
        return [told[holder]["owners"] for holder in HOLDERS]

    def close(self) -> None:
        async def closing() -> None:
            await asyncio.gather(*(one.close(0.5) for one in self._ask.values()))
            for one in self._ask.values():
                one._transport.close()  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)

        self.run(closing())
        self._loop.close()


@pytest.fixture
def place(name: str, tmp_path: Path) -> Home:
    """The gateway's home, claimed."""
    return registry.claim_home(name, str(tmp_path))


@pytest.fixture
def looker(name: str, place: Home) -> Iterator[Looker]:
    """See `Looker`; breakers of this gateway open at once, and are ready for one probe."""
    made = Looker(name, place)
    spec = {"failure_threshold": 1, "recovery_ns": 1, "success_threshold": 1}
    made.ask("circuit_breaker", "configure", "1", {"default": spec})
    yield made
    made.close()


def gone(looker: Looker, folder: Path, held: Held) -> Callable[[], bool]:
    """Whether nothing is held, and nothing left, of a process that was killed."""
    charged = {(f"started {held.owner}", "estimated", 700), (f"ended {held.owner}", "actual", 300)}

    def look() -> bool:
        return (
            looker.probes()[held.owner] == 0
            and charged <= looker.charges()
            and not list(folder.glob(f"{held.owner}.*"))
        )

    return look


@pytest.mark.parametrize("node", [None, "f" * 56], ids=["this cluster", "an earlier cluster"])
def test_the_killed_are_buried_and_the_frozen_are_not(
    name: str, place: Home, looker: Looker, tmp_path: Path, node: str | None
) -> None:
    """I3, I12: within seconds, also where the node was known by another id on this machine."""
    folder = tmp_path / "outbox"
    holders = [Holder.remote() for _ in range(2)]  # type: ignore[attr-defined]
    taken = [one.take.remote(name, place, str(folder), node) for one in holders]
    dead, frozen = (Held(*held) for held in ray.get(taken, timeout=90))
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        kill_process(dead.pid)
        began = time.monotonic()
        eventually(gone(looker, folder, dead), within_s=60)
        took_s = time.monotonic() - began
        assert looker.probes()[frozen.owner] == 1
        assert looker.leaders() == 1
        assert len(list(folder.glob(f"{frozen.owner}.*"))) == 2
        assert not [charge for charge in looker.charges() if frozen.owner in charge[0]]
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    assert took_s >= 2.5, "silence alone is not to be taken for death so soon"
    ray.get(holders[1].end.remote(), timeout=60)
    assert looker.leaders() == 0
    assert list(folder.iterdir()) == []
    assert (f"ended {frozen.owner}", "actual", 200) in looker.charges()
    eventually(lambda: looker.known(name) == [0, 0, 0, 0])
    ray.kill(holders[1])
    eventually(lambda: not lives(frozen.pid))


@pytest.fixture
def other_node(cluster: None) -> Iterator[subprocess.Popen[bytes]]:
    """A second node of the cluster, with room for who asks for `other`; ends with the test."""
    words = ["start", f"--address={ray.get_runtime_context().gcs_address}", "--block"]
    words += ["--num-cpus=1", '--resources={"other": 1}', "--disable-usage-stats"]
    node = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: "other" in ray.cluster_resources(), within_s=90)
    yield node
    node.terminate()
    node.wait(30)
    eventually(lambda: "other" not in ray.cluster_resources(), within_s=60)


def test_the_dead_of_another_node_are_found_there_and_those_of_a_dead_node_here(
    name: str,
    place: Home,
    looker: Looker,
    tmp_path: Path,
    other_node: subprocess.Popen[bytes],
) -> None:
    """A task is sent to the owner's node; without that node, the same machine has its files."""
    folder = tmp_path / "outbox"
    there = Holder.options(resources={"other": 0.1})  # type: ignore[attr-defined]
    holders = [there.remote() for _ in range(2)]
    taken = [one.take.remote(name, place, str(folder), None) for one in holders]
    one, other = (Held(*held) for held in ray.get(taken, timeout=90))
    kill_process(one.pid)
    eventually(gone(looker, folder, one), within_s=60)
    assert looker.probes()[other.owner] == 1
    other_node.terminate()
    eventually(gone(looker, folder, other), within_s=60)
    assert looker.leaders() == 0
