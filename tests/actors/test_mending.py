"""A cost tracker's store broken in one way or another, mended, and used again."""

import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actors.charges import Usage
from actors.cost_tracker import CostTracker
from actors.host import HOST_TABLES
from actors.ledger import ACCEPTED, Entry
from actors.mending import diagnosed, mend
from actors.offline_store import OfflineStore
from actors.store import Store, StoreError
from tests.actors.test_upkeep import FACTS, World

pytestmark = pytest.mark.anyio

TABLES: dict[str, Any] = {**CostTracker.TABLES, **HOST_TABLES}
USAGE = Usage(1, 0, 1, 0)


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    """A host with eighty charges, in batches of ten; closed."""
    made = World(tmp_path)
    made.ask(("configure", "r1", {"budgets": [TEAMS]}))
    made.spend(8)
    made.host.close()
    yield made
    made.host.close()


TEAMS = {"name": "teams", "scope": "team", "period": "month", "amount_nanos": 10**12}


def _diagnosis(path: Path) -> Any:
    store = OfflineStore(path)
    try:
        return diagnosed(store)
    finally:
        store.close()


def _statement(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement, values)
        db.commit()


def _key(sequence: int) -> str:
    return str(sequence).zfill(20)


def _mended(world: World) -> tuple[Any, list[Entry]]:
    """Diagnose and mend; then what the host says, and its ledger."""
    found = _diagnosis(world.path)
    assert not found.sound
    copies = mend(world.path, found, time.time_ns(), "ann", "the disk broke")
    assert all(copy.exists() for copy in copies)
    after = _diagnosis(world.path)
    assert after.sound, after
    world.open()
    [status] = world.ask(("status",))
    assert status["damage"] is None
    [reply] = world.ask(("reserve", "after", (), 5, 0, FACTS))
    assert not isinstance(reply, Exception)
    rows = world.host.store.page("ledger", "", 1_000)
    return found, [Entry(*row.value) for row in rows]


async def test_a_changed_row_is_signed_off_by_a_row(world: World) -> None:
    """It stays as it is, and visible: the row that accepts it names it, who, and why."""
    world.change(40, lambda blob: blob.replace(b"actual", b"actuaL", 1))
    found, rows = _mended(world)
    assert [each[:3] for each in found.accept] == [(31, 31, "is not what was written")]
    assert rows[-1].state == ACCEPTED
    assert rows[-1].amount_nanos == rows[-1].change_nanos == 0
    told = {"first": 31, "last": 31, "by": "ann", "reason": "the disk broke"}
    assert told.items() <= rows[-1].tags.items()
    assert len(rows) == 81


async def test_rows_that_are_gone_are_signed_off(world: World) -> None:
    """In the middle; what lies before them is still held together by its hash."""
    _statement(world.path, "DELETE FROM ledger_batches WHERE last = ?", _key(40))
    found, _ = _mended(world)
    assert [each[:3] for each in found.accept] == [(31, 40, "missing")]
    world.host.close()
    world.change(30, lambda blob: blob.replace(b"actual", b"actuaL", 1))
    again = _diagnosis(world.path)
    assert [each.first for each in again.accept] == [21]


async def test_a_batch_that_cannot_be_read_leaves_the_others(world: World) -> None:
    """Its rows are gone, and said to be; all others can be had again."""
    world.change(40, lambda blob: b"\xc1" + blob[1:])
    found, rows = _mended(world)
    assert found.anew
    assert [each[:2] for each in found.accept] == [(31, 40)]
    assert [row.sequence for row in rows] == [*range(1, 31), *range(41, 82)]


async def test_a_lost_end_is_cut_at_the_last_row_there_is(world: World) -> None:
    """A database older than the head beside it: the numbers are used again, and that is said."""
    _statement(world.path, "DELETE FROM ledger_batches WHERE last > ?", _key(60))
    found, rows = _mended(world)
    assert found.lost == (61, 80)
    assert found.accept == []
    assert rows[-1].sequence == 61
    assert {"lost_first": 61, "lost_last": 80}.items() <= rows[-1].tags.items()


async def test_sums_are_counted_again_where_live_rows_are_lost(world: World) -> None:
    """Spend by day and what is posted on budgets come from the ledger, to the nano-dollar."""
    world.open()
    for n in range(5):
        subjects = (("teams", "t"),)
        assert world.ask(
            ("reserve", f"h{n}", subjects, 100, 0, FACTS), ("post", f"h{n}", 7 + n, USAGE)
        )
    before = _sums(world)
    assert len(before[1]) == 2
    world.host.close()
    with closing(sqlite3.connect(world.path)) as db:
        [(number, blob)] = db.execute(
            "SELECT number, rows FROM _pages ORDER BY number DESC LIMIT 1"
        ).fetchall()
        db.execute("UPDATE _pages SET rows = ? WHERE number = ?", (blob[:-1] + b"?", number))
        db.commit()
    with pytest.raises(StoreError, match="raygate ledger"):
        world.open()
    found, rows = _mended(world)
    assert found.anew
    assert len(rows) == 85
    after = _sums(world)
    assert after[0] == before[0]
    # The first eighty named no accounts; all of these budgets bind them.
    assert [(key, posted - 560) for key, posted in after[1]] == before[1]


def _sums(world: World) -> Any:
    rows = world.host.store.load()
    spending = sorted(row.value for row in rows if row.table == "spending")
    posted = sorted((row.key, row.value[0]) for row in rows if row.table == "accounts")
    return spending, posted


async def test_a_database_with_broken_pages_is_written_anew(world: World) -> None:
    """Whatever lies in the broken part is lost and said to be; the rest goes on."""
    content = bytearray(world.path.read_bytes())
    at = content.find(b"p/m")
    page = at // 4_096 * 4_096
    content[page : page + 4_096] = random.Random(3).randbytes(4_096)
    world.path.write_bytes(content)
    found, rows = _mended(world)
    assert found.anew
    assert rows
    assert rows[-1].state == ACCEPTED
    numbers = [row.sequence for row in rows]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("instead", "left"),
    [
        (lambda content: content.replace(b"actual", b"actuaL", 1), 80),
        (lambda content: content[:4_096] + bytes(len(content) - 4_096), 40),
        (lambda content: bytes(len(content)), 40),
    ],
    ids=["a bit", "all but the first page", "everything"],
)
async def test_a_months_file_is_mended_too(
    world: World, instead: Callable[[bytes], bytes], left: int
) -> None:
    """What can be read of it stays; all pages can be had again."""
    store = Store(world.path, TABLES, durable=False)
    archive = store.archives["ledger"]
    move = archive.next_move(2**62)
    assert move is not None
    move = move._replace(rows=move.rows[:40])
    move.write()
    store.end_move(move)
    [month] = archive.months
    store.close()
    month.file.path.write_bytes(instead(month.file.path.read_bytes()))
    found, rows = _mended(world)
    assert found.accept
    assert len(rows) == left + len(found.accept)
    assert rows[-1].state == ACCEPTED


async def test_a_sound_ledger_needs_no_mending(world: World) -> None:
    """And a store that a host has is left alone."""
    assert _diagnosis(world.path).sound
    world.open()
    with pytest.raises(StoreError, match="held by another process"):
        OfflineStore(world.path)
