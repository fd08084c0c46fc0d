import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actors import upkeep as module
from actors import wire
from actors.charges import Facts, Paid, Usage
from actors.errors import LedgerDamaged
from actors.host import Host

pytestmark = pytest.mark.anyio

FACTS = Facts("k", "t", "u", "m", "p/m", "v1", {})


class World:
    """A cost tracker's host, restarted and asked by one caller at a time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cost_tracker.sqlite"
        self.asked = 0
        self.open()

    def open(self) -> None:
        self.host = Host("actors.cost_tracker:CostTracker", str(self.path), "claim")

    def ask(self, *items: tuple[Any, ...]) -> list[Any]:
        """The replies to a batch."""
        self.asked += 1
        batch = [(name, tuple(args)) for name, *args in items]
        payload = wire.pack_batch(f"o{self.asked}.1", 1, batch)
        replies: list[Any] = wire.unpack_reply(self.host.consult(payload)).replies  # type: ignore[assignment]
        return replies

    def spend(self, batches: int, each: int = 10) -> None:
        """So many charges."""
        for _ in range(batches):
            first, day = self.asked * 1_000, time.strftime("%Y-%m-%d", time.gmtime())
            charges = [
                Paid("o", f"c{first + n}", (), 0, 7, 7, Usage(1, 0, 1, 0), FACTS, False, day)
                for n in range(each)
            ]
            assert self.ask(*[("charge", charge) for charge in charges]) == ["posted"] * each

    def change(self, sequence: int, instead: Callable[[bytes], bytes]) -> None:
        """Close the host, and change the batch that ends with this row."""
        self.host.close()
        with closing(sqlite3.connect(self.path)) as db:
            key = (str(sequence).zfill(20),)
            [(blob,)] = db.execute("SELECT rows FROM ledger_batches WHERE last = ?", key)
            db.execute("UPDATE ledger_batches SET rows = ? WHERE last = ?", (instead(blob), *key))
            db.commit()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let the host's timers run until then."""
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 (a timer of the host, some milliseconds)
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    """See `World`."""
    made = World(tmp_path)
    yield made
    made.host.close()


def _damage(world: World) -> str | None:
    [status] = world.ask(("status",))
    damage: str | None = status["damage"]
    return damage


def _reserve(world: World, id: str) -> Any:
    [reply] = world.ask(("reserve", id, (), 5, 0, FACTS))
    return reply


async def test_damage_in_the_last_rows_stops_the_first_reservation(world: World) -> None:
    """A start looks before it serves. The error names the row, and what to do."""
    world.spend(4)
    world.change(30, lambda blob: blob.replace(b"actual", b"actuaL", 1))
    world.open()
    refused = _reserve(world, "r1")
    assert isinstance(refused, LedgerDamaged)
    assert "row 21 is not what was written" in str(refused)
    assert "raygate ledger verify" in str(refused)
    [summary] = world.ask(("summary",))
    assert "row 21" in summary["ledger_damage"]


async def test_what_calls_have_cost_is_noted_all_the_same(world: World) -> None:
    """And their money comes back; but nothing is lent. A restart does not forget the damage."""
    held = _reserve(world, "before")
    assert not isinstance(held, Exception)
    world.spend(2)
    world.change(10, lambda blob: blob.replace(b"c", b"C", 1))
    world.open()
    assert _damage(world) is not None
    world.spend(1)
    assert world.ask(("post", "before", 4, Usage(1, 0, 1, 0))) == ["posted"]
    [[lent]] = world.ask(("exchange", ((held.accounts[0], 0, 100),)))
    assert lent[0] == 0
    head = world.host._mechanism.head()
    world.host.close()
    world.open()
    assert _damage(world) is not None
    assert world.host._mechanism.head() == head == (31, head[1] if head else "")


async def test_older_rows_of_the_last_day_are_looked_at_while_requests_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In slices after the start, each short; then money is refused too."""
    monkeypatch.setattr(module, "FIRST_ROWS", 20)
    monkeypatch.setattr(module, "SLICE_ROWS", 10)
    monkeypatch.setattr(module, "_SLICE_PAUSE_S", 0.001)
    world.spend(20)
    world.change(50, lambda blob: blob.replace(b"actual", b"actuaL", 1))
    world.open()
    assert not isinstance(_reserve(world, "r1"), Exception)
    await world.until(lambda: _damage(world) is not None)
    assert isinstance(_reserve(world, "r2"), LedgerDamaged)
    assert "row 41" in str(_damage(world))


async def test_a_sound_ledger_is_looked_at_no_further_than_a_day(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older damage is for `raygate ledger verify` to find: a start need not read it all."""
    world.spend(3)
    audit = world.host.store.audit
    assert audit is not None
    world.host.close()
    world.open()
    audit = world.host.store.audit
    assert audit is not None
    await world.until(lambda: audit.done)
    assert audit.checked == 30
    assert audit.findings == []
    monkeypatch.setattr(module, "LAST_NS", -(10**18))
    world.host.close()
    world.open()
    audit = world.host.store.audit
    assert audit is not None
    assert audit.done
    assert audit.checked == 10
    assert _damage(world) is None
