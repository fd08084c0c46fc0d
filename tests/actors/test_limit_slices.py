"""What a process does with the slices of limits that it was lent."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.consultant import Consultant
from actors.host import Host
from actors.life import Life
from actors.limit_slices import Leased, LimitSlices
from actors.limits import Admitted, Take
from actors.transport import InProcess

pytestmark = pytest.mark.anyio
S = 1_000_000_000


def limit(name: str, **changes: Any) -> dict[str, Any]:
    """A limit of the cluster, 1,000 at once and 1,000 a second, with changes."""
    usual = {"scope": "cluster", "unit": "requests", "rate": 1000, "period_ns": S, "burst": 1000}
    return {"name": name, **usual, "debt": 0, **changes}


class Process:
    """A process that uses the limiter, by slices and directly."""

    def __init__(self, host: Host, owner: str) -> None:
        life = Life(owner, "node", "machine", "/nowhere")
        self.limiter = Consultant("rate_limiter", InProcess(host), life)
        self.slices = LimitSlices(self.limiter)
        self.asked = 0

    async def take(self, *takes: Take, max_wait_s: float = 5.0) -> Leased | Admitted | Any:
        """Admission by slice where there is enough at hand, else by the limiter."""
        leased = self.slices.take(takes)
        if leased is not None:
            return leased
        self.asked += 1
        id = f"{id_of(self)}-{self.asked}"
        return await self.limiter.ask("acquire", id, takes, 1, round(max_wait_s * S))

    async def warm(self, *takes: Take) -> None:
        """Use it until something of it is at hand."""
        await until(lambda: self._used(takes), patience_s=5.0)

    def _used(self, takes: tuple[Take, ...]) -> bool:
        found = self.slices.take(takes)
        if found is not None:
            found.undo()
        return found is not None


def id_of(process: Process) -> str:
    """A name for what this process takes."""
    return hex(id(process))


async def until(true: Callable[[], bool], patience_s: float = 3.0) -> None:
    """Wait for it."""
    for _ in range(round(patience_s / 0.005)):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true")


@asynccontextmanager
async def cluster(
    folder: Path, *limits: dict[str, Any], processes: int = 1
) -> AsyncIterator[list[Process]]:
    """A limiter with this policy, and processes that use it."""
    host = Host("actors.rate_limiter:RateLimiter", str(folder / "limits.sqlite"), "test")
    started = [Process(host, f"{n:032x}") for n in range(1, processes + 1)]
    for process in started:
        process.limiter.start()
        process.slices.start()
    await started[0].limiter.ask("configure", "1", {"limits": list(limits)})
    try:
        yield started
    finally:
        for process in started:
            await process.slices.close()
            await process.limiter.close()
        host.close()


async def status(process: Process) -> dict[str, Any]:
    """The limiter's own picture."""
    found: dict[str, Any] = await process.limiter.ask("status")
    return found


async def test_what_is_used_often_is_spent_without_asking(tmp_path: Path) -> None:
    """After a moment of use, a hundred takes need no consult."""
    use = (Take("a", "", 1), Take("b", "", 1))
    async with cluster(tmp_path, limit("a"), limit("b")) as (process,):
        await process.warm(*use)
        free = min(one.free for one in process.slices._slices.values())
        for _ in range(free):
            found = process.slices.take(use)
            assert found is not None
            found.settle(None)
        assert process.slices.take(use) is None
        assert process.asked == 0


async def test_a_single_take_is_never_lent_for(tmp_path: Path) -> None:
    """One use, and nothing is held for this process."""
    async with cluster(tmp_path, limit("a")) as (process,):
        assert isinstance(await process.take(Take("a", "", 1)), Admitted)
        await asyncio.sleep(0.3)
        assert (await status(process))["slices"] == 0


async def test_all_or_nothing_from_slices(tmp_path: Path) -> None:
    """Enough of one limit and too little of another: nothing is taken of either."""
    few = limit("few", rate=1, period_ns=3600 * S, burst=8)
    async with cluster(tmp_path, limit("many"), few) as (process,):
        await process.warm(Take("many", "", 1), Take("few", "", 1))
        many = process.slices._slices["many", ""]
        before = many.free, many.tab.units
        assert process.slices.take((Take("many", "", 1), Take("few", "", 100))) is None
        assert (many.free, many.tab.units) == before


async def test_a_neighbour_gets_what_somebody_merely_holds(tmp_path: Path) -> None:
    """A limit of 20 without refill, 10 of it lent: the other process gets all that is unused."""
    tight = limit("tight", rate=1, period_ns=3600 * S, burst=20)
    async with cluster(tmp_path, tight, processes=2) as (holder, other):
        await holder.warm(Take("tight", "", 1))
        assert holder.slices._slices["tight", ""].free > 0
        found = await other.take(Take("tight", "", 20), max_wait_s=0)
        assert isinstance(found, Admitted)


async def test_everything_is_given_back_at_the_end(tmp_path: Path) -> None:
    """What was used is debited, what was not is free, and nothing is held."""
    slow = limit("slow", rate=1, period_ns=3600 * S, burst=1000)
    async with cluster(tmp_path, slow, processes=2) as (process, other):
        await process.warm(Take("slow", "", 1))
        for _ in range(3):
            found = process.slices.take((Take("slow", "", 1),))
            assert found is not None
            found.settle(None)
        await process.slices.close()
        after = await status(other)
        assert (after["slices"], after["holds"]) == (0, 0)
        assert after["limits"][0]["remaining"] == 997


async def test_tokens_are_corrected_before_and_after_their_report(tmp_path: Path) -> None:
    """Estimated 10 each, used 4: whether the take was reported meanwhile or not, 4 stay taken."""
    tokens = limit("tokens", unit="tokens", rate=1, period_ns=3600 * S, burst=10_000)
    async with cluster(tmp_path, tokens) as (process,):
        await process.warm(Take("tokens", "", 10))
        slice = process.slices._slices["tokens", ""]
        early = process.slices.take((Take("tokens", "", 10),))
        late = process.slices.take((Take("tokens", "", 10),))
        assert early is not None
        assert late is not None
        early.settle(4)
        await until(lambda: bool(slice.tabs) and slice.tabs[-1].mark > 0)
        late.settle(4)
        await process.slices.close()
        after = await status(process)
        assert (after["slices"], after["limits"][0]["remaining"]) == (0, 9_992)


async def test_more_tokens_than_estimated_are_debited(tmp_path: Path) -> None:
    """Estimated 10, used 25, known before the report and after it."""
    tokens = limit("tokens", unit="tokens", rate=1, period_ns=3600 * S, burst=10_000)
    async with cluster(tmp_path, tokens) as (process,):
        await process.warm(Take("tokens", "", 10))
        slice = process.slices._slices["tokens", ""]
        takes = [process.slices.take((Take("tokens", "", 10),)) for _ in range(2)]
        assert all(takes)
        takes[0].settle(25)  # type: ignore[union-attr]
        await until(lambda: bool(slice.tabs) and slice.tabs[-1].mark > 0)
        takes[1].settle(25)  # type: ignore[union-attr]
        await process.slices.close()
        assert (await status(process))["limits"][0]["remaining"] == 9_950


async def test_slots_come_back_when_their_calls_end(tmp_path: Path) -> None:
    """Half of the slots are lent; used and given back, they are used again, and none is lost."""
    async with cluster(tmp_path, limit("slots", unit="concurrent", burst=20)) as (process,):
        await process.warm(Take("slots", "", 1))
        for _ in range(50):
            found = process.slices.take((Take("slots", "", 1),))
            assert found is not None
            found.settle(7)
        await process.slices.close()
        after = await status(process)
        assert (after["slices"], after["limits"][0]["remaining"]) == (0, 20)


async def test_a_slot_that_is_used_for_long_comes_back(tmp_path: Path) -> None:
    """Long after anything else was asked of the limit; its slice was not forgotten meanwhile."""
    async with cluster(tmp_path, limit("slots", unit="concurrent", burst=20)) as (process,):
        await process.warm(Take("slots", "", 1))
        found = process.slices.take((Take("slots", "", 1),))
        assert found is not None
        slice = process.slices._slices["slots", ""]
        await until(lambda: slice.free == 0 and slice.demand.idle(), patience_s=10.0)
        await asyncio.sleep(0.7)
        found.settle(None)
        for _ in range(300):
            if not (await status(process))["slices"]:
                break
            await asyncio.sleep(0.01)
        after = await status(process)
        assert (after["slices"], after["limits"][0]["remaining"]) == (0, 20)


async def test_the_state_that_is_told_goes_down_with_each_take(tmp_path: Path) -> None:
    """The remaining units, as this process knows them, less what it used since."""
    async with cluster(tmp_path, limit("a", rate=1, period_ns=3600 * S)) as (process,):
        await process.warm(Take("a", "", 1))
        told = []
        for _ in range(5):
            found = process.slices.take((Take("a", "", 1),))
            assert found is not None
            told.append(found.states[0].remaining)
            found.settle(None)
        assert told == list(range(told[0], told[0] - 5, -1))


@pytest.mark.parametrize("seed", range(3))
async def test_no_window_holds_more_than_its_bound(tmp_path: Path, seed: int) -> None:
    """I1, by stamps: three processes use a limit as fast as they can, by slices and directly."""
    rate, burst = 400, 60
    stamps: list[tuple[int, int]] = []
    rng = random.Random(seed)

    async def use(process: Process, loop: asyncio.AbstractEventLoop, ends_s: float) -> None:
        while loop.time() < ends_s:
            quantity = rng.choice((1, 1, 1, 2, 5))
            found = await process.take(Take("hot", "", quantity), max_wait_s=rng.choice((0, 0.2)))
            if isinstance(found, Leased | Admitted):
                stamps.append((found.at_ns, quantity))
            if isinstance(found, Leased):
                found.settle(None)
            await asyncio.sleep(rng.choice((0, 0.001, 0.004, 0.05)))

    async with cluster(tmp_path, limit("hot", rate=rate, burst=burst), processes=3) as processes:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + 1.5
        await asyncio.gather(*(use(one, loop, ends_s) for one in processes for _ in range(3)))
        by_slice = sum(q for _, q in stamps) - sum(one.asked for one in processes)
    stamps.sort()
    level, before = 0.0, stamps[0][0]
    highest = 0.0
    for at_ns, quantity in stamps:
        level = max(0.0, level - (at_ns - before) * rate / 1e9) + quantity
        highest, before = max(highest, level), at_ns
    assert highest <= burst + 1e-6
    assert by_slice > 0
