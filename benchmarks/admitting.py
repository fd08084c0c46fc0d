"""One caller's admissions: three request limits and two budgets, taken, then settled.

A mode is a way to do that; the load, the measuring and the table are the same for all.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import ray

from actors import registry
from actors.charges import Exhausted, Facts, Usage
from actors.consultant import Consultant
from actors.limits import NORMAL, Admitted, Take
from actors.ray_transport import RayTransport

SINGLETONS = ("rate_limiter", "cost_tracker")
AMPLE = 10**9
# A key's bucket never fills up again within a run: its gate is there to be found, and to be
# kept in memory, however many other keys come in between.
POLICY: dict[str, dict[str, Any]] = {
    "rate_limiter": {
        "limits": [
            {
                "name": f"{scope}-requests",
                "scope": scope,
                "unit": "requests",
                "rate": AMPLE if scope == "cluster" else 60,
                "period_ns": 10**9 if scope == "cluster" else 3_600 * 10**9,
                "burst": AMPLE,
            }
            for scope in ("cluster", "team", "key")
        ]
    },
    "cost_tracker": {
        "budgets": [
            {"name": "cluster-daily", "scope": "cluster", "period": "day", "amount_nanos": 10**18},
            {"name": "key-monthly", "scope": "key", "period": "month", "amount_nanos": 10**18},
        ]
    },
}
_KEYS_PER_TEAM = 10
_WORST_NANOS, _COST_NANOS = 120_000, 47_400
_USAGE = Usage(input=60, output=64)
_PATIENCE_NS = 10 * 10**9
_LIFETIME_NS = 180 * 10**9
_SAMPLED = 8
_MAX_KNOWN = 10_000


class Held(NamedTuple):
    """What one admission holds, by the ids under which it is settled."""

    take_id: str
    charge_id: str


class Bound(NamedTuple):
    """What binds one key, and what its charges say."""

    takes: tuple[Take, ...]
    subjects: tuple[tuple[str, str], ...]
    facts: Facts


def bound(number: int) -> Bound:
    """The limits and budgets of the key with this number."""
    key, team = f"key-{number}", f"team-{number // _KEYS_PER_TEAM}"
    subjects = {"cluster": "", "team": team, "key": key}
    return Bound(
        tuple(Take(f"{scope}-requests", subject, 1) for scope, subject in subjects.items()),
        (("cluster-daily", ""), ("key-monthly", key)),
        Facts(key, team, "", "gpt-4o-mini", "upstream/gpt-4o-mini", "prices 1", {}),
    )


class Mode(Protocol):
    """A way to admit and to settle. Both raise, or let fail, what must not happen in a run."""

    async def admit(self, number: int) -> Held:
        """Take from all limits and budgets of the key with this number."""

    def settle(self, held: Held) -> None:
        """Say that it is over and what it cost; nobody waits for that."""


class Direct:
    """Every admission asks both singletons at once, and tells both at its end."""

    def __init__(self, limiter: Consultant, costs: Consultant) -> None:
        self._limiter = limiter
        self._costs = costs
        self._process = os.urandom(8).hex()
        self._minted = 0
        self._known: dict[int, Bound] = {}

    async def admit(self, number: int) -> Held:
        """See `Mode`."""
        takes, subjects, facts = self._bound(number)
        self._minted += 1
        held = Held(f"{self._process}{self._minted:016x}", f"{self._process}{self._minted:016x}c")
        admitted = self._limiter.submit(
            "acquire", held.take_id, takes, NORMAL, _PATIENCE_NS, _LIFETIME_NS
        )
        reserved = self._costs.submit(
            "reserve", held.charge_id, subjects, _WORST_NANOS, _LIFETIME_NS, facts
        )
        reply = await admitted
        if type(reply) is not Admitted:
            raise RuntimeError(f"refused: {reply}")
        if isinstance(money := await reserved, Exhausted):
            raise RuntimeError(f"refused: {money}")
        return held

    def _bound(self, number: int) -> Bound:
        # As a replica does: what binds the same key again and again is found out once.
        found = self._known.get(number)
        if found is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            found = self._known[number] = bound(number)
        return found

    def settle(self, held: Held) -> None:
        """See `Mode`."""
        self._costs.tell("post", held.charge_id, _COST_NANOS, _USAGE, False)
        self._limiter.tell("settle", held.take_id, None)


class Leased:
    """Slices of the limits and budgets are spent here, without asking."""

    def __init__(self, limiter: Consultant, costs: Consultant) -> None:
        raise NotImplementedError("there is no lease manager yet")

    async def admit(self, number: int) -> Held:
        """See `Mode`."""
        raise NotImplementedError

    def settle(self, held: Held) -> None:
        """See `Mode`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Load:
    """What one caller does.

    gateway: whose singletons it asks. keys: how many there are, taken in turn, from
    `first_key` on. concurrency: admissions under way. leases: which mode.
    """

    gateway: str
    keys: int
    first_key: int
    concurrency: int
    leases: bool = False


class Mark(NamedTuple):
    """How far a caller is. at_ns, cpu_ns: on its own clocks; latencies_ns: since the last one."""

    at_ns: int
    cpu_ns: int
    done: int
    latencies_ns: list[int]


@ray.remote(num_cpus=0, max_concurrency=8)
class Caller:
    """A process that admits as fast as it is answered."""

    def __init__(self) -> None:
        self._consultants: dict[str, Consultant] = {}
        self._transports: list[RayTransport] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._done = 0
        self._left = 0
        self._next = 0
        self._latencies_ns: list[int] = []

    async def start(self, load: Load) -> None:
        """Begin, and go on until stopped."""
        self._begin(load, 1 << 62)

    async def do(self, load: Load, admissions: int) -> None:
        """So many admissions, settled and delivered."""
        self._begin(load, admissions)
        await asyncio.gather(*self._tasks)
        await self.stop()

    async def mark(self) -> Mark:
        """What was done so far."""
        latencies_ns, self._latencies_ns = self._latencies_ns, []
        return Mark(time.monotonic_ns(), time.process_time_ns(), self._done, latencies_ns)

    async def stop(self) -> None:
        """Finish what is under way, deliver what was told, hang up. Raises what went wrong."""
        self._left = 0
        await asyncio.gather(*self._tasks)
        for consultant in self._consultants.values():
            await consultant.close()
        for transport in self._transports:
            transport.close()
        self._tasks = []

    def _begin(self, load: Load, admissions: int) -> None:
        place = registry.home(load.gateway)
        assert place is not None
        self._transports = [RayTransport(load.gateway, each, place) for each in SINGLETONS]
        self._consultants = {
            each: Consultant(each, transport)
            for each, transport in zip(SINGLETONS, self._transports, strict=True)
        }
        for consultant in self._consultants.values():
            consultant.start()
        mode = (Leased if load.leases else Direct)(*self._consultants.values())
        self._left, self._next = admissions, load.first_key
        self._tasks = [
            asyncio.create_task(self._admit(mode, load.keys)) for _ in range(load.concurrency)
        ]

    async def _admit(self, mode: Mode, keys: int) -> None:
        while self._left > 0:
            self._left -= 1
            number, self._next = self._next % keys, self._next + 1
            began_ns = time.perf_counter_ns()
            mode.settle(await mode.admit(number))
            self._done += 1
            if self._done % _SAMPLED == 0:
                self._latencies_ns.append(time.perf_counter_ns() - began_ns)
