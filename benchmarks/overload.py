"""What becomes of five times more than a provider can do: goodput, waiting, health, memory.

The provider works on so many calls at a time and lets the others wait: that is the capacity, far
below what the gateway itself can do, so that the gateway is measured and not the load. Requests
come at a rate, whether or not earlier ones were answered; a third each is of high, normal and
low priority. Ends with 1 where a bound is broken.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.client import Client
from benchmarks.consumption import memory
from benchmarks.health_watch import Told, watching
from benchmarks.on_ray import Gateway, Setting, running
from benchmarks.slots import slots

LEAST_GOODPUT = 0.9
MOST_TIMES = 3.0
MOST_HEALTH_S = 0.1
MOST_GROWTH = 0.1
PRIORITIES = ("high", "normal", "low")
_WARM_UP_S = 15.0


@dataclass(slots=True)
class Stage:
    """What was seen at one rate. times: of capacity. Latencies in seconds, of answered requests."""

    times: float
    seconds: float
    took_s: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    shed: Counter[str] = field(default_factory=Counter)
    health: Told = field(default_factory=Told)
    resident: int = 0

    @property
    def goodput(self) -> float:
        """Answers a second."""
        return len(self.took_s) / self.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages, show the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, prog="scripts/bench --overload")
    parser.add_argument("--slots", type=int, default=32, help="calls that the provider works on")
    parser.add_argument("--works", type=float, default=0.5, help="seconds that one takes")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each stage")
    parser.add_argument("--times", type=float, nargs="+", default=[1.0, 2.0, 5.0, 1.0])
    parser.add_argument("--replicas", type=int, default=2)
    args = parser.parse_args(arguments)
    capacity = args.slots / args.works
    with (
        tempfile.TemporaryDirectory(prefix="raygate-overload-") as name,
        slots(args.slots, args.works) as url,
    ):
        provider = {"name": "slots", "kind": "simulated", "base_url": url}
        setting = Setting(args.replicas, providers=(provider,))
        with running(Path(name), policy(), setting) as gateway:
            stages = asyncio.run(Load(gateway, capacity, args.seconds).run(args.times))
    return report(stages, capacity)


def policy() -> dict[str, object]:
    """Nothing but the provider is scarce."""
    ample = 10**9
    return {
        "models": {
            "slots": {
                "targets": ["slots/gpt-4o-mini"],
                "price": {"input_per_mtok": 0.15, "output_per_mtok": 0.6},
                "max_output_tokens": 64,
                "cache": False,
            }
        },
        "limits": [{"name": "cluster-requests", "rate": ample, "burst": ample}],
        "budgets": [{"name": "cluster-daily", "amount_usd": 1e6}],
    }


class Load:
    """Requests at a rate, and somebody who asks for health meanwhile."""

    def __init__(self, gateway: Gateway, capacity: float, seconds: float) -> None:
        self._gateway = gateway
        self._capacity = capacity
        self._seconds = seconds
        self._dice = random.Random(1)

    async def run(self, times: Sequence[float]) -> list[Stage]:
        """One stage after the other, after a warm-up."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(60)
        ) as session:
            client = Client(self._gateway.url, self._gateway.admin, session)
            key = await client.key(name="load", role="user", may_be_high=True)
            self._headers = {"authorization": f"Bearer {key}"}
            await self._stage(session, 0.5, _WARM_UP_S)
            return [await self._stage(session, one, self._seconds) for one in times]

    async def _stage(self, session: aiohttp.ClientSession, times: float, seconds: float) -> Stage:
        stage = Stage(times, seconds)
        with watching(self._gateway.url) as stage.health:
            await self._drive(session, stage)
        replicas = self._gateway.replicas()
        stage.resident = max(memory(pid).resident for pid in replicas)
        return stage

    async def _drive(self, session: aiohttp.ClientSession, stage: Stage) -> None:
        """Send at the stage's rate, and wait for the last answer."""
        loop = asyncio.get_running_loop()
        under_way: set[asyncio.Task[None]] = set()
        at = began = loop.time()
        while True:
            at += self._dice.expovariate(stage.times * self._capacity)
            if at > began + stage.seconds:
                break
            if (pause_s := at - loop.time()) > 0:
                await asyncio.sleep(pause_s)
            task = asyncio.create_task(self._request(session, stage))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        stage.seconds = loop.time() - began

    async def _request(self, session: aiohttp.ClientSession, stage: Stage) -> None:
        priority = self._dice.choice(PRIORITIES)
        stage.asked[priority] += 1
        began = time.perf_counter()
        body = {"model": "slots", "messages": [{"role": "user", "content": "How are sales?"}]}
        headers = {**self._headers, "x-raygate-priority": priority}
        try:
            async with session.post(
                self._gateway.url + "/v1/chat/completions", json=body, headers=headers
            ) as reply:
                content = await reply.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            stage.ends[type(error).__name__] += 1
            return
        if reply.status == 200:
            stage.ends["answered"] += 1
            stage.took_s.append(time.perf_counter() - began)
            return
        code = content["error"]["code"]
        stage.ends[f"{reply.status} {code}"] += 1
        if code == "overloaded" and "retry-after" in reply.headers:
            stage.shed[priority] += 1


def seconds_of(values: Sequence[float], share: float) -> float:
    """That share of them are no larger; 0 where there are none."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def broken(stages: Sequence[Stage], capacity: float) -> list[str]:
    """Every bound that was broken, in words."""
    found = []
    peak = max(stage.goodput for stage in stages)
    at_capacity = next(stage for stage in stages if stage.times == 1.0)
    allowed_s = MOST_TIMES * seconds_of(at_capacity.took_s, 0.99)
    before = stages[0].resident
    for stage in stages:
        where = f"at {stage.times:g} x capacity"
        if stage.times >= 1.0 and stage.goodput < LEAST_GOODPUT * min(peak, capacity):
            found.append(f"{where}: goodput {stage.goodput:.0f}/s of {peak:.0f}/s")
        if (p99_s := seconds_of(stage.took_s, 0.99)) > allowed_s:
            found.append(f"{where}: p99 {p99_s:.2f} s, allowed {allowed_s:.2f} s")
        if max(stage.health.took_s) > MOST_HEALTH_S or stage.health.failed:
            slowest_ms = 1e3 * max(stage.health.took_s)
            found.append(f"{where}: health took {slowest_ms:.0f} ms, {stage.health.failed} failed")
        if stage.resident > (1 + MOST_GROWTH) * before:
            found.append(f"{where}: {stage.resident >> 20} MiB, {before >> 20} MiB before")
        others = set(stage.ends) - {"answered", "503 overloaded"}
        if others or sum(stage.shed.values()) != stage.ends["503 overloaded"]:
            found.append(f"{where}: {dict(stage.ends)}")
        shares = [stage.shed[one] / stage.asked[one] for one in PRIORITIES]
        if shares != sorted(shares) and max(shares) > 0.02:
            found.append(f"{where}: shed against the order of priorities")
    return found


def report(stages: Sequence[Stage], capacity: float) -> int:
    """Print the table and what is broken; the exit status."""
    table = Table(title=f"capacity {capacity:g} calls a second")
    for title in ("x capacity", "goodput/s", "p50 s", "p99 s", "high", "normal", "low"):
        table.add_column(title if title not in PRIORITIES else f"shed {title} %", justify="right")
    for title in ("health p99 ms", "max ms", "replica MiB"):
        table.add_column(title, justify="right")
    for stage in stages:
        shed = [f"{100 * stage.shed[one] / max(stage.asked[one], 1):.1f}" for one in PRIORITIES]
        waits = [f"{seconds_of(stage.took_s, share):.2f}" for share in (0.5, 0.99)]
        health = [1e3 * seconds_of(stage.health.took_s, share) for share in (0.99, 1.0)]
        table.add_row(
            f"{stage.times:g}",
            f"{stage.goodput:.1f}",
            *waits,
            *shed,
            *(f"{one:.0f}" for one in health),
            f"{stage.resident >> 20}",
        )
    Console(width=140).print(table)
    found = broken(stages, capacity)
    for one in found:
        print(f"BROKEN {one}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
