"""The faults: each is made, is recovered from, and tells what it has struck."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

import aiohttp
import psutil

from benchmarks.chaos.releases import release
from benchmarks.chaos.state import find, well
from benchmarks.on_ray import Gateway
from benchmarks.provider import Provider
from benchmarks.strict import terms
from benchmarks.strict.evidence import Kill

WHOLE_S = 120.0
"""So soon all must be as it was before a fault."""
_LOOK_S = 0.25
_STOPPED_S = (2.0, 8.0)
_FAILING_S = 6.0
_FAILING: tuple[dict[str, Any], ...] = (
    {"outage": True},
    {"error_rate": 0.5, "error_status": 503},
    {"hang_rate": 0.5, "hang_s": 3.0},
    {"outage": True, "outage_mode": "reset", "reset_at": "before"},
)


class Struck(NamedTuple):
    """What one fault has done.

    victim: what it struck. at_ns, over_ns: Unix time of the fault, and of all being well again.
    back_s: how long the singletons that it struck were away, by their names.
    """

    fault: str
    victim: str
    at_ns: int
    over_ns: int
    back_s: dict[str, float]


class Faults:
    """What can go wrong with a gateway on several nodes.

    provider: the one that may fail. policy: what is deployed. kills: where each is noted.
    """

    def __init__(
        self,
        gateway: Gateway,
        provider: Provider,
        policy: dict[str, Any],
        dice: random.Random,
        kills: list[Kill],
    ) -> None:
        self._gateway = gateway
        self._provider = provider
        self._policy = policy
        self._dice = dice
        self._kills = kills
        self._hosts: Iterator[str] = iter(())
        self._nodes_killed = 0
        self._policies = 0
        self._release = 8
        self._newer = False
        self.all: Mapping[str, Callable[[], Awaitable[tuple[str, dict[str, float]]]]] = {
            "replica killed": self._kill_replica,
            "replica stopped": self._stop_replica,
            "singleton killed": self._kill_singleton,
            "singleton stopped": self._stop_singleton,
            "standby killed": self._kill_standby,
            "standby stopped": self._stop_standby,
            "HAProxy killed": self._kill_haproxy,
            "controller killed": self._kill_controller,
            "node killed": self._kill_node,
            "policy changed": self._change_policy,
            "code changed": self._change_code,
            "provider fails": self._fail_provider,
        }

    async def strike(self, fault: str) -> Struck:
        """Make a fault and wait until all is well again. Raises TimeoutError."""
        at_ns = time.time_ns()
        victim, back_s = await self.all[fault]()
        await self.until_well()
        return Struck(fault, victim, at_ns, time.time_ns(), back_s)

    async def until_well(self) -> None:
        """Wait until everything runs, and durable singletons have standbys. Raises TimeoutError."""
        missing = "?"
        try:
            async with asyncio.timeout(WHOLE_S):
                while missing := await asyncio.to_thread(well, self._gateway):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise TimeoutError(f"not well after {WHOLE_S:g} s: {missing}") from None

    async def _kill_replica(self) -> tuple[str, dict[str, float]]:
        pid = self._dice.choice(sorted(self._gateway.replicas()))
        self._kill("replica", pid)
        return str(pid), {}

    async def _stop_replica(self) -> tuple[str, dict[str, float]]:
        pid = self._dice.choice(sorted(self._gateway.replicas()))
        return await self._stopped(str(pid), pid), {}

    async def _kill_singleton(self) -> tuple[str, dict[str, float]]:
        host, pid = await self._host()
        self._kill(host, pid)
        return host, await self._back({host: pid})

    async def _stop_singleton(self) -> tuple[str, dict[str, float]]:
        host, pid = await self._host()
        return await self._stopped(host, pid), {}

    async def _kill_standby(self) -> tuple[str, dict[str, float]]:
        [standby, *_] = await asyncio.to_thread(find, self._gateway, "ray::StandbyActor")
        self._kill("standby", standby.pid)
        return str(standby.pid), {}

    async def _stop_standby(self) -> tuple[str, dict[str, float]]:
        [standby, *_] = await asyncio.to_thread(find, self._gateway, "ray::StandbyActor")
        return await self._stopped("standby", standby.pid), {}

    async def _kill_haproxy(self) -> tuple[str, dict[str, float]]:
        found = await asyncio.to_thread(find, self._gateway, "haproxy")
        for process in found:
            self._kill("haproxy", process.pid)
        return "ingress", {}

    async def _kill_controller(self) -> tuple[str, dict[str, float]]:
        [controller] = await asyncio.to_thread(find, self._gateway, "ray::ServeController")
        self._kill("controller", controller.pid)
        return "controller", {}

    async def _kill_node(self) -> tuple[str, dict[str, float]]:
        """The one with the ledger's host, where it is one of those for singletons.

        The first time the cluster is one node short for a while; later its successor is there
        already, so that the head need not take the singletons.
        """
        self._nodes_killed += 1
        nodes = self._gateway.nodes
        if self._nodes_killed > 1:
            await asyncio.to_thread(nodes.add)
        told = await asyncio.to_thread(self._gateway.do, "describe")
        victim = told["cost_tracker"]["node"]
        if victim not in nodes.living:
            victim = self._dice.choice(sorted(nodes.living))
        hosts = {host: one["pid"] for host, one in told.items() if one["node"] == victim}
        there = {process.pid for process in nodes.processes(victim)}
        lost = [("replica", pid) for pid in self._gateway.replicas() & there]
        at_ns = time.time_ns()
        raylet = nodes.living[victim].raylet.pid
        killed = (("node", raylet), *lost, *hosts.items())
        self._kills += [Kill(at_ns, what, pid) for what, pid in killed]
        await asyncio.to_thread(nodes.kill, victim)
        back_s = await self._back(hosts, at_ns)
        if self._nodes_killed == 1:
            await asyncio.to_thread(nodes.add)
        return f"{len(hosts)} singletons, {len(lost)} replicas", back_s

    async def _change_policy(self) -> tuple[str, dict[str, float]]:
        self._policies += 1
        changed = {**self._policy, "budgets": [*self._policy["budgets"]]}
        changed["budgets"][0] = {"name": "day", "amount_usd": 100_000 + self._policies}
        await asyncio.to_thread(self._gateway.do, "deploy", changed)
        return "day's budget", {}

    async def _change_code(self) -> tuple[str, dict[str, float]]:
        """A rolling redeploy to a newer release, or back; a host is killed in the middle of it.

        Old replicas run then, too: none of them may bring an old host back.
        """
        self._newer = not self._newer
        path = None
        if self._newer:
            self._release += 1
            path = str(release(self._gateway.storage, self._release))
        do = self._gateway.do
        before = (await asyncio.to_thread(do, "describe"))["response_cache"]["code"]
        await asyncio.to_thread(do, "release", path)
        await asyncio.to_thread(do, "begin", self._policy)
        if self._newer:
            await self._until_changed(before, kill=True)
        async with asyncio.timeout(WHOLE_S):
            while not await asyncio.to_thread(do, "deployed"):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
        if not self._newer:
            await asyncio.to_thread(do, "roll_back")
            await self._until_changed(before, kill=False)
        await self.until_well()
        told = await asyncio.to_thread(do, "describe")
        codes = {one["code"] for one in told.values()}
        newest = f"{self._release}.0.0"
        if len(codes) != 1 or (newest in codes) != self._newer:
            raise RuntimeError(f"hosts of {sorted(codes)} run; newer ones wanted: {self._newer}")
        return f"to {codes.pop()}", {}

    async def _until_changed(self, before: str, kill: bool) -> None:
        """Wait until a cache of other code answers, and note when the old one went.

        kill: one of the new hosts, as soon as it answers.
        """
        noted = False
        async with asyncio.timeout(WHOLE_S):
            while True:
                told = await asyncio.to_thread(self._gateway.do, "describe")
                cache = told["response_cache"]
                if not noted and cache.get("code") != before:
                    # As after a kill: what was cached is gone.
                    self._kills.append(Kill(time.time_ns(), "response_cache", 0))
                    noted = True
                new = sorted(
                    host for host, one in told.items() if one["reachable"] and one["code"] != before
                )
                if "response_cache" in new:
                    break
                await asyncio.sleep(_LOOK_S)
        if kill:
            host = self._dice.choice(new)
            self._kill(host, told[host]["pid"])

    async def _fail_provider(self) -> tuple[str, dict[str, float]]:
        knobs = self._dice.choice(_FAILING)
        usual = terms.PROVIDERS["flaky"]
        async with aiohttp.ClientSession() as session:
            await self._provider.turn(session, usual | {"outages": []} | knobs)
            try:
                await asyncio.sleep(_FAILING_S)
            finally:
                await self._provider.turn(session, usual)
        return ", ".join(knobs), {}

    async def _host(self) -> tuple[str, int]:
        """A singleton that runs: each in turn, in an order of chance."""
        told = await asyncio.to_thread(self._gateway.do, "describe")
        host = next(self._hosts, None)
        if host is None:
            self._hosts = iter(self._dice.sample(sorted(told), len(told)))
            host = next(self._hosts)
        return host, int(told[host]["pid"])

    def _kill(self, what: str, pid: int) -> None:
        self._kills.append(Kill(time.time_ns(), what, pid))
        os.kill(pid, signal.SIGKILL)

    async def _stopped(self, what: str, pid: int) -> str:
        seconds = self._dice.uniform(*_STOPPED_S)
        process = psutil.Process(pid)
        process.suspend()
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(psutil.Error):
                process.resume()
        return f"{what}, {seconds:.0f} s"

    async def _back(self, hosts: dict[str, int], at_ns: int | None = None) -> dict[str, float]:
        began_s = (at_ns or self._kills[-1].at_ns) / 1e9
        times = await asyncio.to_thread(self._gateway.do, "back", hosts)
        missing = hosts.keys() - times.keys()
        if missing:
            raise TimeoutError(f"not back within a minute: {sorted(missing)}")
        return {host: at_s - began_s for host, at_s in times.items()}
