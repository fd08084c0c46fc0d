"""One caller's admissions: three request limits and two budgets, taken, then settled.

A mode is a way to do that; the load, the measuring and the table are the same for all.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ray

from actors import registry
from actors.charges import Facts, Reserved, Usage
from actors.collector import calm
from actors.consultant import Consultant
from actors.limit_slices import LimitSlices
from actors.limits import NORMAL, Admitted, Take
from actors.outbox import Outbox
from actors.ray_transport import RayTransport
from actors.wallet import Wallet
from deployments.calls import Calls

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
_SAMPLED = 8


class Bound(NamedTuple):
    """What binds one key, and what its charges say."""

    takes: tuple[Take, ...]
    subjects: tuple[tuple[str, str], ...]
    facts: Facts


# Found out once: what the load itself costs is not what is measured.
@lru_cache(maxsize=200_000)
def bound(number: int) -> Bound:
    """The limits and budgets of the key with this number."""
    key, team = f"key-{number}", f"team-{number // _KEYS_PER_TEAM}"
    subjects = {"cluster": "", "team": team, "key": key}
    return Bound(
        tuple(Take(f"{scope}-requests", subject, 1) for scope, subject in subjects.items()),
        (("cluster-daily", ""), ("key-monthly", key)),
        Facts(key, team, "", "gpt-4o-mini", "upstream/gpt-4o-mini", "prices 1", {}),
    )


Settle = Callable[[], None]
"""Says that an admission is over and what it cost; nobody waits for that."""


class Mode(Protocol):
    """A way to admit and to settle. Raises, or lets fail, what must not happen in a run."""

    async def admit(self, number: int) -> Settle:
        """Take from all limits and budgets of the key with this number."""

    async def close(self) -> None:
        """Give back what is at hand."""


class Direct:
    """Every admission asks both singletons at once, and tells both at its end."""

    def __init__(self, limiter: Consultant, costs: Consultant) -> None:
        self._limiter = limiter
        self._costs = costs
        self._process = os.urandom(8).hex()
        self._minted = 0

    async def admit(self, number: int) -> Settle:
        """See `Mode`."""
        takes, subjects, facts = bound(number)
        take_id, charge_id = self.mint(), self.mint()
        admitted = self.acquire(take_id, takes)
        reserved = self.reserve(charge_id, subjects, facts)
        await agreed(admitted, Admitted)
        await agreed(reserved, Reserved)
        return lambda: self._settle(take_id, charge_id)

    def mint(self) -> str:
        """An id that nobody else has."""
        self._minted += 1
        return f"{self._process}{self._minted:016x}"

    def acquire(self, take_id: str, takes: tuple[Take, ...]) -> "asyncio.Future[Any]":
        """Ask for the limits."""
        return self._limiter.submit("acquire", take_id, takes, NORMAL, _PATIENCE_NS)

    def reserve(self, charge_id: str, subjects: Any, facts: Facts) -> "asyncio.Future[Any]":
        """Ask for the budgets."""
        return self._costs.submit("reserve", charge_id, subjects, _WORST_NANOS, _PATIENCE_NS, facts)

    def _settle(self, take_id: str, charge_id: str) -> None:
        self._costs.tell("post", charge_id, _COST_NANOS, _USAGE, False)
        self._limiter.tell("settle", take_id, None)

    async def close(self) -> None:
        """See `Mode`."""


class Leased:
    """What is at hand is spent without asking, as a replica does, its outbox included."""

    def __init__(self, limiter: Consultant, costs: Consultant, outbox: Outbox) -> None:
        self._direct = Direct(limiter, costs)
        self._limiter = limiter
        self._slices = LimitSlices(limiter)
        self._wallet = Wallet(costs)
        self._calls = Calls(costs, self._wallet, outbox)
        self._slices.start()
        self._wallet.start()

    async def admit(self, number: int) -> Settle:
        """See `Mode`."""
        takes, subjects, facts = bound(number)
        direct = self._direct
        take_id, charge_id = direct.mint(), direct.mint()
        held = self._wallet.reserve(facts, _WORST_NANOS)
        leased = self._slices.take(takes)
        admitted = None if leased is not None else direct.acquire(take_id, takes)
        if held is None:
            asked = direct.reserve(charge_id, subjects, facts)
            self._wallet.learn(facts, await agreed(asked, Reserved))
        else:
            # A request does other things as well, and lets others do theirs.
            await asyncio.sleep(0)
        if admitted is not None:
            await agreed(admitted, Admitted)
        self._calls.started(charge_id, facts, _WORST_NANOS, held)

        def settle() -> None:
            self._calls.ended(charge_id, facts, held, _COST_NANOS, _USAGE, False)
            if leased is not None:
                leased.settle(None)
            else:
                self._limiter.tell("settle", take_id, None)

        return settle

    async def close(self) -> None:
        """See `Mode`."""
        await self._slices.close()
        await self._wallet.close()


async def agreed(asked: "asyncio.Future[Any]", kind: type) -> Any:
    """The reply, which must be of this kind. Raises RuntimeError."""
    reply = await asked
    if type(reply) is not kind:
        raise RuntimeError(f"refused: {reply}")
    return reply


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
        calm()  # as a replica is
        self._consultants: list[Consultant] = []
        self._mode: Mode | None = None
        self._outbox: Outbox | None = None
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
        assert self._mode is not None
        await self._mode.close()
        for consultant in self._consultants:
            await consultant.close()
        for transport in self._transports:
            transport.close()
        assert self._outbox is not None
        self._outbox.close()

    def _begin(self, load: Load, admissions: int) -> None:
        place = registry.home(load.gateway)
        assert place is not None
        outbox = Outbox(Path(place.folder) / load.gateway / "outbox")
        self._transports = [RayTransport(load.gateway, each, place) for each in SINGLETONS]
        self._consultants = [
            Consultant(each, transport, registry.life_of(outbox))
            for each, transport in zip(SINGLETONS, self._transports, strict=True)
        ]
        for consultant in self._consultants:
            consultant.start()
        limiter, costs = self._consultants
        mode: Mode = Leased(limiter, costs, outbox) if load.leases else Direct(limiter, costs)
        self._mode, self._outbox = mode, outbox
        self._left, self._next = admissions, load.first_key
        self._tasks = [
            asyncio.create_task(self._admit(mode, load.keys)) for _ in range(load.concurrency)
        ]

    async def _admit(self, mode: Mode, keys: int) -> None:
        while self._left > 0:
            self._left -= 1
            number, self._next = self._next % keys, self._next + 1
            began_ns = time.perf_counter_ns()
            settle = await mode.admit(number)
            settle()
            self._done += 1
            if self._done % _SAMPLED == 0:
                self._latencies_ns.append(time.perf_counter_ns() - began_ns)
