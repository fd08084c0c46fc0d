"""Stores of earlier and later code."""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors import formats
from actors.cost_tracker import CostTracker
from actors.host import Host
from actors.host_tables import HOST_TABLES
from actors.ledger import TABLE, verify
from actors.mechanism import Row
from actors.store import Store, StoreError
from tests.actors.ledger_world import Filled, audited, everything

STORES = Path(__file__).parent / "stores"
TRACKER: dict[str, Any] = {**CostTracker.TABLES, **HOST_TABLES}
DECEMBER_NS = 1_796_083_200 * 10**9


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """What format 1 left: 60 charges of a cost tracker, from September to November 2026."""
    for suffix in (".sqlite", ".head"):
        shutil.copy(STORES / f"format-1{suffix}", tmp_path / f"cost_tracker{suffix}")
    return tmp_path / "cost_tracker.sqlite"


class FormatOne:
    """Reads and writes as code of format 1 did, in as few lines as that takes."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("CREATE TABLE IF NOT EXISTS _pages (number INTEGER PRIMARY KEY, rows BLOB)")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS ledger_batches (last TEXT PRIMARY KEY, rows BLOB)"
        )

    def live(self, tables: Any) -> dict[tuple[str, str], Any]:
        rows: dict[tuple[str, str], Any] = {}
        decode = msgspec.msgpack.Decoder(dict[str, dict[str, Any]]).decode
        for (blob,) in self.db.execute("SELECT rows FROM _pages ORDER BY number"):
            found = decode(blob)
            for table in tables & found.keys():
                rows |= {(table, key): value for key, value in found[table].items()}
        return {place: value for place, value in rows.items() if value is not None}

    def commit(self, table: str, rows: dict[str, Any], entries: list[tuple[str, Any]]) -> None:
        [last] = self.db.execute("SELECT MAX(number) FROM _pages").fetchone()
        pack = msgspec.msgpack.encode
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("INSERT INTO _pages VALUES (?, ?)", (last + 1, pack({table: rows})))
        put = "INSERT INTO ledger_batches VALUES (?, ?)"
        self.db.execute(put, (entries[-1][0], pack(entries)))
        self.db.execute("COMMIT")

    def ledger(self) -> Iterator[tuple[str, Any]]:
        for (blob,) in self.db.execute("SELECT rows FROM ledger_batches ORDER BY last"):
            yield from msgspec.msgpack.decode(blob)


def test_a_store_of_the_format_before_is_taken_over(earlier: Path) -> None:
    """Every row of it, live and archived; its pages have checksums from then on."""
    with closing(FormatOne(earlier).db) as db:
        before = [msgspec.msgpack.decode(b) for (b,) in db.execute("SELECT rows FROM _pages")]
    assert not any("_sum" in page for page in before)
    store = Store(earlier, TRACKER, durable=True)
    tracker = CostTracker()
    tracker.load(row for row in store.load() if row.table not in HOST_TABLES)
    tracker.restored(store.head())
    status = tracker.status(DECEMBER_NS, "c")
    assert status["damage"] is None
    assert status["head"] == list(store.head() or ())
    rows = [(row.key, row.value) for row in store.page(TABLE, "", 100)]
    assert len(rows) == 60
    assert verify(rows, tracker.head(), store.head()) is None
    assert audited(store, tracker.head()) == []
    store.close()
    with closing(sqlite3.connect(earlier)) as db:
        pages = [msgspec.msgpack.decode(b) for (b,) in db.execute("SELECT rows FROM _pages")]
        assert all("_sum" in page for page in pages)
        assert db.execute("SELECT * FROM _format").fetchall() == [(2, 1)]


def test_code_of_the_format_before_reads_what_this_code_writes(tmp_path: Path) -> None:
    """A rollback: it finds every live row, and the ledger but for the months that have moved.

    What it then writes is taken over again, and the ledger is whole.
    """
    world = Filled(tmp_path / "s.sqlite")
    world.commit(5, at_ns=DECEMBER_NS - 40 * 86_400 * 10**9)
    for _ in range(5):
        world.commit(3, at_ns=DECEMBER_NS)
    while world.store.move_months(DECEMBER_NS):
        pass
    live, ledger = everything(world.store)
    world.store.close()
    old = FormatOne(world.path)
    assert {key: value for (_, key), value in old.live({"live"}).items()} == live
    assert [tuple(row) for row in old.ledger()] == ledger[5:]
    key, raw = world.chain.append((DECEMBER_NS, *ledger[-1][1][3:]))
    old.commit("live", {"from": "before"}, [(key, msgspec.msgpack.decode(raw))])
    old.db.close()
    world.reopen()
    again = everything(world.store)
    assert again[0] == {**live, "from": "before"}
    assert [row[0] for row in again[1]] == [row[0] for row in ledger] + [key]
    assert world.findings() == []
    world.store.close()


@pytest.mark.parametrize(("readable_by", "opens"), [(formats.FORMAT, True), (3, False)])
def test_a_newer_store_is_refused_unless_it_may_be_read(
    tmp_path: Path, readable_by: int, opens: bool
) -> None:
    """One version newer says that it can be; what can't says what to do, and is not touched."""
    world = Filled(tmp_path / "s.sqlite")
    world.commit(3)
    world.store.close()
    with closing(sqlite3.connect(world.path)) as db:
        db.execute("UPDATE _format SET version = 3, readable_by = ?", (readable_by,))
        db.commit()
    content = world.path.read_bytes()
    if opens:
        world.reopen()
        assert len(everything(world.store)[1]) == 3
        world.store.close()
        with closing(sqlite3.connect(world.path)) as db:
            # So that the newer code sees that it has to look.
            assert db.execute("SELECT * FROM _format").fetchall() == [(2, 1)]
        return
    with pytest.raises(StoreError, match="newer version again") as caught:
        world.reopen()
    assert "format 3" in str(caught.value)
    assert world.path.read_bytes() == content


def test_a_take_over_that_breaks_off_changes_nothing(
    earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one transaction: the earlier code could still open the store."""

    def fail(db: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(formats, "note", fail)
        with pytest.raises(OSError, match="no space"):
            Store(earlier, TRACKER, durable=True)
    with closing(sqlite3.connect(earlier)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        pages = [msgspec.msgpack.decode(b) for (b,) in db.execute("SELECT rows FROM _pages")]
    assert "_format" not in tables
    assert not any("_sum" in page for page in pages)
    Store(earlier, TRACKER, durable=True).close()


def test_a_host_goes_on_from_the_format_before(earlier: Path) -> None:
    """Its life goes on, and months that are over leave the database."""

    async def main() -> None:
        host = Host("actors.cost_tracker:CostTracker", str(earlier), "claim")
        assert host.info()["restarts"] == 1
        store = host.store
        async with asyncio.timeout(20):
            while store.archives[TABLE].moved != str(40).zfill(20):
                host._upkeep.step()
                await asyncio.sleep(0.01)
        months = [month.file.month for month in store.archives[TABLE].months]
        assert months[:2] == ["2026-09", "2026-10"]
        rows = store.page(TABLE, "", 100)
        assert [row.value[0] for row in rows] == list(range(1, 61))
        assert isinstance(rows[0], Row)
        host.close()

    asyncio.run(main())
