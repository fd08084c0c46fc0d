"""What a process does with the money that it was lent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.charges import Exhausted, Facts, Paid, Reserved, Usage
from actors.consultant import Consultant
from actors.host import Host
from actors.life import Life
from actors.transport import InProcess
from actors.wallet import Held, Wallet

pytestmark = pytest.mark.anyio
S = 1_000_000_000
ANN = Facts("ann", "team-a", "", "gpt", "provider/gpt", "v1", {})


def budget(name: str, amount_nanos: int, scope: str = "team") -> dict[str, Any]:
    """A budget without a period."""
    words = {"name": name, "scope": scope, "period": "total", "amount_nanos": amount_nanos}
    return {**words, "timezone": "UTC"}


class Process:
    """A process that pays for calls, by slices and directly."""

    def __init__(self, host: Host, owner: str) -> None:
        self.owner = owner
        life = Life(owner, "node", "machine", "/nowhere")
        self.costs = Consultant("cost_tracker", InProcess(host), life)
        self.wallet = Wallet(self.costs)
        self.asked = self.called = 0

    async def reserve(self, worst: int, max_wait_s: float = 5.0) -> Held | Reserved | Exhausted:
        """Hold the worst case of a call of Ann's."""
        held = self.wallet.reserve(ANN, worst)
        if held is not None:
            return held
        self.asked += 1
        found: Reserved | Exhausted = await self.costs.ask(
            "reserve",
            self._id(),
            (("a", "team-a"), ("b", "team-a")),
            worst,
            round(max_wait_s * S),
            ANN,
        )
        if isinstance(found, Reserved):
            self.wallet.learn(ANN, found)
        return found

    async def pay(self, found: Held | Reserved, worst: int, cost: int) -> None:
        """The call is over, and cost this."""
        usage = Usage(1, 0, 1, 0)
        if isinstance(found, Reserved):
            await self.costs.ask("post", self._id(), cost, usage, False)
            return
        self.called += 1
        id = f"{self.owner}-called-{self.called}"
        covered = self.wallet.release(found, cost)
        paid = Paid(
            self.owner, id, found.accounts, covered, cost, worst, usage, ANN, False, found.day
        )
        heard = asyncio.get_running_loop().create_future()
        self.costs.report(heard.set_result, "charge", paid)
        assert await heard == "posted"

    async def warm(self, worst: int) -> None:
        """Reserve for nothing until it is paid from what is at hand."""
        for _ in range(500):
            found = await self.reserve(worst)
            if isinstance(found, Held):
                self.wallet.release(found, 0)
                return
            await self.costs.ask("void", self._id())
            await asyncio.sleep(0.005)
        raise AssertionError("nothing was lent")

    def _id(self) -> str:
        return f"{self.owner}-{self.asked}"


async def until(true: Callable[[], bool], patience_s: float = 3.0) -> None:
    """Wait for it."""
    for _ in range(round(patience_s / 0.005)):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true")


@asynccontextmanager
async def cluster(
    folder: Path, *budgets: dict[str, Any], processes: int = 1
) -> AsyncIterator[list[Process]]:
    """A ledger with these budgets, and processes that pay."""
    host = Host("actors.cost_tracker:CostTracker", str(folder / "costs.sqlite"), "test")
    started = [Process(host, f"{n:032x}") for n in range(1, processes + 1)]
    for process in started:
        process.costs.start()
        process.wallet.start()
    await started[0].costs.ask("configure", "1", {"budgets": list(budgets), "cluster": "c"})
    try:
        yield started
    finally:
        for process in started:
            await process.wallet.close()
            await process.costs.close()
        host.close()


async def book(process: Process, name: str) -> dict[str, Any]:
    """How a budget of Ann's team stands."""
    listed = await process.costs.ask("budgets")
    return next(one for one in listed if (one["name"], one["subject"]) == (name, "team-a"))


async def test_calls_in_succession_are_paid_from_what_is_at_hand(tmp_path: Path) -> None:
    """After a moment of use no reservation asks; every cost is in the books of both budgets."""
    budgets = budget("a", 1_000_000), budget("b", 2_000_000)
    async with cluster(tmp_path, *budgets) as (process,):
        await process.warm(100)
        asked = process.asked
        for _ in range(20):
            found = await process.reserve(100)
            assert isinstance(found, Held)
            await process.pay(found, 100, 30)
        assert process.asked == asked
        assert (await book(process, "a"))["posted_nanos"] == 600
        assert (await book(process, "b"))["posted_nanos"] == 600


async def test_everything_is_given_back_at_the_end(tmp_path: Path) -> None:
    """What was not spent is free again, and nothing is held."""
    async with cluster(tmp_path, budget("a", 1_000_000), processes=2) as (process, other):
        await process.warm(100)
        found = await process.reserve(100)
        assert isinstance(found, Held)
        await process.pay(found, 100, 40)
        await process.wallet.close()
        after = await book(other, "a")
        assert (after["pending_nanos"], after["posted_nanos"]) == (0, 40)
        assert (await other.costs.ask("status"))["slices"] == 0


async def test_a_neighbour_gets_what_somebody_merely_holds(tmp_path: Path) -> None:
    """The whole budget is wanted: what is lent is recalled, and the one who asked gets it."""
    async with cluster(tmp_path, budget("a", 10_000), processes=2) as (holder, other):
        await holder.warm(100)
        assert any(account.free for account in holder.wallet._accounts.values())
        assert isinstance(await other.reserve(10_000), Reserved)


async def test_who_needs_more_than_is_left_is_refused_once_all_is_recalled(tmp_path: Path) -> None:
    """A call that is under way elsewhere keeps its money; the refusal says so."""
    async with cluster(tmp_path, budget("a", 10_000), processes=2) as (holder, other):
        await holder.warm(100)
        under_way = await holder.reserve(100)
        assert isinstance(under_way, Held)
        refused = await other.reserve(9_950, max_wait_s=0.5)
        assert isinstance(refused, Exhausted)
        assert refused.budget == "a"
        await holder.pay(under_way, 100, 0)


async def test_a_new_budget_is_known_before_anything_more_is_spent(tmp_path: Path) -> None:
    """Set at run time: from the moment that everybody has heard of it, it binds each call."""
    async with cluster(tmp_path, budget("a", 1_000_000)) as (process,):
        await process.warm(100)
        spec = {"scope": "team", "period": "total", "amount_nanos": 50}
        await process.costs.ask("set_budget", "cents", spec)
        await process.costs.ask("everywhere", "told")
        assert process.wallet.reserve(ANN, 100) is None
        assert isinstance(await process.reserve(100), Exhausted)


async def test_a_bill_above_its_reservation_is_posted_in_full(tmp_path: Path) -> None:
    """Held 100, cost 250: the account has 250, and nothing stays held."""
    async with cluster(tmp_path, budget("a", 1_000_000)) as (process,):
        await process.warm(100)
        found = await process.reserve(100)
        assert isinstance(found, Held)
        await process.pay(found, 100, 250)
        await process.wallet.close()
        after = await book(process, "a")
        assert (after["pending_nanos"], after["posted_nanos"]) == (0, 250)


async def test_two_processes_spend_a_budget_to_its_end_and_no_further(tmp_path: Path) -> None:
    """I2 and I13: calls of at most 100 that cost 70, until refused: less than 100 are left."""
    total = 20_000
    spent = 0

    async def use(process: Process) -> None:
        nonlocal spent
        while True:
            found = await process.reserve(100, max_wait_s=1.0)
            if isinstance(found, Exhausted):
                return
            await asyncio.sleep(0.001)
            # Each costs its worst case, so that the end is reached exactly.
            await process.pay(found, 100, 100)
            spent += 100

    async with cluster(tmp_path, budget("a", total), processes=2) as processes:
        # One task each: a direct reservation is named by the count of questions.
        await asyncio.gather(*(use(one) for one in processes))
        after = await book(processes[0], "a")
        assert spent == after["posted_nanos"]
        assert total - 100 < spent <= total
