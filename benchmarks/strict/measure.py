"""One cell from its beginning to the evidence of it."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import aiohttp

from benchmarks.client import Client
from benchmarks.on_ray import Gateway
from benchmarks.provider import Provider
from benchmarks.strict import terms
from benchmarks.strict.cells import Cell
from benchmarks.strict.evidence import Evidence, Kill
from benchmarks.strict.load import Load
from benchmarks.strict.trouble import trouble, whole

KILLS = {"replica": 3, "singleton": 5}
"""So many kills make a cell, if they come soon enough."""
LONGER = 2.5
"""How many times its usual length a cell may last for their sake."""
LEAK_S = 30.0
_CHARGES_S = 10.0
_LOOK_S = 1.0
_UNSURE = (aiohttp.ClientError, OSError, TimeoutError, AssertionError)
"""What looking at a gateway may meet while its processes are being killed."""

Trouble = Callable[[Gateway, Cell, int, list[Kill]], Coroutine[Any, Any, None]]
"""See `trouble.trouble`."""


class Bench:
    """A gateway with its providers, cell after cell.

    providers: by the names that the policy's targets use. seed: of everything left to chance.
    trouble: what makes the trouble. leak_s: how long after the last answer something may still
        be held: a dead replica's are found out.
    """

    def __init__(
        self,
        gateway: Gateway,
        providers: dict[str, Provider],
        seed: int,
        trouble: Trouble = trouble,
        leak_s: float = LEAK_S,
    ) -> None:
        self._trouble = trouble
        self._leak_s = leak_s
        self._gateway = gateway
        self._providers = providers
        self._seed = seed
        self._ledger = ""

    async def measure(self, cell: Cell, seconds: float) -> Evidence:
        """Make a cell's demand and trouble for so long; what is left of it when all is quiet."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            client = Client(self._gateway.url, self._gateway.admin, session)
            return await self._measure(cell, seconds, session, client)

    async def _measure(
        self, cell: Cell, seconds: float, session: aiohttp.ClientSession, client: Client
    ) -> Evidence:
        await whole(self._gateway)
        await self._new_rows(client)
        since = {provider: provider.position() for provider in self._providers.values()}
        keys = {
            tenant.name: await client.key(
                name=tenant.name, team=terms.team(tenant.name, cell), may_be_high=tenant.high
            )
            for tenant in terms.TENANTS
            if terms.crew(tenant, cell)
        }
        for name, knobs in terms.PROVIDERS.items():
            await self._providers[name].turn(session, knobs)
        load = Load(self._gateway.url, session, cell, keys, self._seed)
        look, kills = _Look(client), list[Kill]()
        began_ns = time.time_ns()
        running = [
            asyncio.create_task(work)
            for work in (
                load.run(),
                self._trouble(self._gateway, cell, self._seed, kills),
                look.go_on(),
            )
        ]
        demand, *beside = running
        try:
            await self._long_enough(cell, seconds, kills, running)
            ended_ns = time.time_ns()
        finally:
            load.stop()
            for task in beside:
                task.cancel()
        await demand
        await whole(self._gateway)
        found = Evidence(cell, began_ns, ended_ns, asked=tuple(load.asked), kills=tuple(kills))
        return await self._settle(found, since, client, look)

    async def _long_enough(
        self, cell: Cell, seconds: float, kills: list[Kill], running: list[asyncio.Task[None]]
    ) -> None:
        """Wait for the time, and for so many kills, if they come. Raises what goes wrong.

        Chaos knows its own end.
        """
        began = time.monotonic()
        wanted = KILLS.get(cell.trouble, 0)

        def enough() -> bool:
            passed = time.monotonic() - began
            if cell.trouble == "chaos":
                return running[1].done()
            return passed > seconds * LONGER or (passed > seconds and len(kills) >= wanted)

        while not enough():
            await asyncio.wait(running, timeout=0.2, return_when="FIRST_EXCEPTION")
            for task in running:
                if task.done():
                    task.result()

    async def _settle(
        self, found: Evidence, since: dict[Provider, int], client: Client, look: "_Look"
    ) -> Evidence:
        """Wait for the end of what goes on without a client, and read the books."""
        quiet = time.monotonic()
        held = await self._held(client)
        while held and time.monotonic() < quiet + self._leak_s:
            await asyncio.sleep(0.2)
            held = await self._held(client)
        settled_s = time.monotonic() - quiet
        rows: list[dict[str, Any]] = []
        until = time.monotonic() + _CHARGES_S
        while True:
            calls = [call for one, at in since.items() for call in one.calls(at)]
            rows += await self._new_rows(client)
            charged = {row["charge_id"] for row in rows}
            done = all(call.ended_ns and call.charge_id in charged for call in calls)
            if done or time.monotonic() > until:
                break
            await asyncio.sleep(0.5)
        await look.once()
        return replace(
            found,
            calls=tuple(sorted(calls, key=lambda call: call.started_ns)),
            rows=tuple(row for row in rows if row["team"].endswith(f"-{found.cell.tag}")),
            over_budget=look.over,
            looks=look.count,
            held=held,
            settled_s=settled_s,
        )

    async def _held(self, client: Client) -> dict[str, int]:
        try:
            held = await client.held()
        except _UNSURE as error:
            return {f"unknown: {error!r:.100}": 1}
        # A replica's file of calls under way is removed by it, or by who settles what it left.
        files = len(list(self._gateway.storage.rglob("*.calls")))
        left = files - self._gateway.setting.replicas
        return held | ({"outboxes of the dead": left} if left > 0 else {})

    async def _new_rows(self, client: Client) -> list[dict[str, Any]]:
        """The ledger's rows since the last time."""
        rows: list[dict[str, Any]] = []
        while True:
            path = f"/admin/v1/costs/ledger?limit=1000&after={self._ledger}"
            page = await client.get(path)
            rows += page["data"]
            if page["next"] is None:
                return rows
            self._ledger = page["next"]


class _Look:
    """Looks at the budgets now and then.

    over: the most that was seen above each. count: how often.
    """

    def __init__(self, client: Client) -> None:
        self.over: dict[str, int] = {}
        self.count = 0
        self._client = client

    async def go_on(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                async with asyncio.timeout(10.0):
                    await self.once()
            except _UNSURE:
                continue

    async def once(self) -> None:
        """Look."""
        for line in (await self._client.get("/admin/v1/budgets"))["data"]:
            over = -line["available_nanos"]
            if over > 0:
                name = f"{line['name']} {line['subject']}"
                self.over[name] = max(self.over.get(name, 0), over)
        self.count += 1
