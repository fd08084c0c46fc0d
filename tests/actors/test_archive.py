import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import archive as module
from actors.errors import LedgerDamaged
from actors.ledger import TABLE, month_of
from actors.ledger_audit import Audit
from actors.mechanism import Row
from actors.month_file import MonthFile
from actors.store import Store
from tests.actors.ledger_world import (
    DAY_NS,
    NOVEMBER_NS,
    TABLES,
    Filled,
    audited,
    copied,
    everything,
)

_BATCHES = st.lists(st.tuples(st.integers(1, 7), st.integers(0, 40)), min_size=1, max_size=9)
"""Of each commit: how many rows, and how many days after the one before."""


def _filled(path: Path, batches: list[tuple[int, int]]) -> tuple[Filled, int]:
    """A store with these commits, and the time of the last one."""
    world, at_ns = Filled(path), NOVEMBER_NS
    for rows, days in batches:
        at_ns += days * DAY_NS
        world.commit(rows, at_ns)
    return world, at_ns


@given(batches=_BATCHES, step=st.integers(1, 9))
@settings(max_examples=6, deadline=None)
def test_a_crash_at_any_moment_of_a_move_loses_and_doubles_nothing(
    tmp_path_factory: Any, batches: list[tuple[int, int]], step: int
) -> None:
    """The files as a kill leaves them before each single statement hold every row once.

    And the move goes on from there.
    """
    folder = tmp_path_factory.mktemp("moved")
    world, now = _filled(folder / "now" / "s.sqlite", batches)
    expected, head = everything(world.store), world.chain.head()
    snapshots: list[Path] = []

    def snapshot(statement: str) -> None:
        if not statement.startswith(("SELECT", "PRAGMA")):
            snapshots.append(copied(world.path, folder / f"{len(snapshots)}"))

    opened = MonthFile._opened

    def watched(self: MonthFile) -> sqlite3.Connection:
        db = opened(self)
        db.set_trace_callback(snapshot)
        return db

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEP_ROWS", step)
        patch.setattr(MonthFile, "_opened", watched)
        world.store._db.set_trace_callback(snapshot)
        while world.store.move_months(now):
            pass
        world.store._db.set_trace_callback(None)
    assert everything(world.store) == expected
    world.store.close()
    for path in snapshots:
        store = Store(path, TABLES, durable=False)
        assert everything(store) == expected
        assert audited(store, head) == []
        while store.move_months(now):
            pass
        assert everything(store) == expected
        _check_places(store, now)
        store.close()


def _check_places(store: Store, now: int) -> None:
    """Each row is where it belongs: in its month's file, or of this month and in the database."""
    here = month_of(now)
    archive = store.archives[TABLE]
    for month in archive.months:
        rows = list(month.file.later(""))
        assert {month_of(module._unpack(raw)[2]) for _, raw in rows} <= {month.file.month}
    left = store._db.execute("SELECT rows FROM ledger_batches").fetchall()
    rows = [row for (blob,) in left for row in module._unpack(blob)]
    assert all(key <= archive.moved or month_of(value[2]) == here for key, value in rows)


@given(batches=_BATCHES, limit=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_pages_go_on_across_months(
    tmp_path_factory: Any, batches: list[tuple[int, int]], limit: int
) -> None:
    """Row by row in order, wherever they lie and while months move."""
    world, now = _filled(tmp_path_factory.mktemp("paged") / "s.sqlite", batches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEP_ROWS", 4)
        seen: list[Row] = []
        while page := world.store.page(TABLE, seen[-1].key if seen else "", limit):
            assert len(page) <= limit
            seen += page
            world.store.move_months(now)
    assert [row.value[0] for row in seen] == list(range(1, world.count + 1))
    world.store.close()


@given(batches=_BATCHES, step=st.integers(1, 5), moves=st.lists(st.booleans(), max_size=20))
@settings(max_examples=20, deadline=None)
def test_an_audit_goes_on_while_months_move(
    tmp_path_factory: Any, batches: list[tuple[int, int]], step: int, moves: list[bool]
) -> None:
    """Rows that it has seen in the database and meets again in a file are not put in."""
    world, now = _filled(tmp_path_factory.mktemp("audited") / "s.sqlite", batches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEP_ROWS", 3)
        progress: Any = world.chain.head()
        for move in [*moves, *[True] * 100]:
            audit = Audit(world.store.archives[TABLE].before, progress)
            audit.step(step)
            assert audit.findings == []
            if audit.done:
                break
            progress = audit.progress
            if move:
                world.store.move_months(now)
        assert audit.done
    world.store.close()


def test_a_month_that_runs_stays_and_one_that_is_over_goes(tmp_path: Path) -> None:
    """Whenever that is; the database's room is used again by what comes."""
    world = Filled(tmp_path / "s.sqlite")
    for _ in range(300):
        world.commit(10)
    assert not world.store.move_months(NOVEMBER_NS + 29 * DAY_NS)
    [pages] = world.store._db.execute("PRAGMA page_count").fetchone()
    while world.store.move_months(NOVEMBER_NS + 30 * DAY_NS):
        pass
    for _ in range(250):
        world.commit(10, NOVEMBER_NS + 30 * DAY_NS)
    [after] = world.store._db.execute("PRAGMA page_count").fetchone()
    assert after < 1.1 * pages
    [month] = world.store.archives[TABLE].months
    assert month.file.path.name == "s.ledger-2026-11.sqlite"
    assert month.file.path.stat().st_mode & 0o077 == 0
    assert month.span is not None
    assert int(month.span.last) == 3_000
    assert world.findings() == []
    world.store.close()


def test_commits_go_on_while_a_month_is_written(tmp_path: Path) -> None:
    """What comes between the copy and the end of a move is neither lost nor moved with it."""
    world, now = _filled(tmp_path / "s.sqlite", [(5, 0), (5, 31)])
    while (move := world.store.next_move(now)) is not None:
        world.commit(2, now)
        move.write()
        world.commit(2, now)
        world.store.end_move(move)
        world.commit(2, now)
    assert len(everything(world.store)[1]) == world.count
    assert world.findings() == []
    world.store.close()


def test_a_month_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    """Its own rows can't be had, and the error says which file; nothing moves meanwhile."""
    world, now = _filled(tmp_path / "s.sqlite", [(5, 0), (5, 31), (5, 31), (5, 31)])
    while world.store.move_months(now):
        pass
    path = world.store.archives[TABLE].months[1].file.path
    world.store.close()
    path.write_bytes(b"\0" * 8_192)
    world.reopen()
    with pytest.raises(LedgerDamaged, match=r"s\.ledger-2026-12\.sqlite"):
        world.store.page(TABLE, "", 20)
    assert len(world.store.page(TABLE, "", 5)) == 5
    assert len(world.store.page(TABLE, str(10).zfill(20), 20)) == 10
    assert [finding[:2] for finding in world.findings()] == [(10, 10), (6, 10)]
    assert not world.store.move_months(now + 40 * DAY_NS)
    world.store.close()
