"""What is done to the files of a store by power cuts, broken disks and people."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actors.errors import LedgerDamaged
from actors.store import Store, StoreDamaged, StoreError
from tests.actors.ledger_world import TABLES, Filled, audited, copied, everything, head_in


def test_a_cut_wal_recovers_to_a_whole_transaction(tmp_path: Path) -> None:
    """Cut at every byte of its last 4 KB: the rows are those after some commit, never between.

    And the ledger is whole up to there.
    """
    world = Filled(tmp_path / "s.sqlite")
    prefixes = [everything(world.store)]
    for number in range(30):
        world.commit(1 + number % 3)
        prefixes.append(everything(world.store))
    wal = Path(f"{world.path}-wal").read_bytes()
    database = world.path.read_bytes()
    world.store.close()
    path = tmp_path / "cut" / "s.sqlite"
    path.parent.mkdir()
    met = set()
    for length in range(len(wal) - 4_096, len(wal) + 1):
        path.write_bytes(database)
        Path(f"{path}-wal").write_bytes(wal[:length])
        store = Store(path, TABLES, durable=False)
        found = everything(store)
        assert found in prefixes
        assert audited(store, head_in(found[0])) == []
        met.add(prefixes.index(found))
        store.close()
    # What is cut is the last commit or two; the whole file has it all.
    assert max(met) == len(prefixes) - 1
    assert len(met) > 1


def _flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def _outcome(path: Path, expected: Any, head: Any) -> str:
    """What becomes of a store with such files: "refused", "found", "same", or "wrong"."""
    try:
        store = Store(path, TABLES, durable=False)
    except (StoreError, sqlite3.Error):
        return "refused"
    try:
        live = {row.key: row.value for row in store.load()}
        if live != expected[0]:
            return "wrong"
        if audited(store, head):
            return "found"
        return "same" if everything(store) == expected else "wrong"
    except (StoreDamaged, LedgerDamaged, sqlite3.Error):
        return "refused"
    finally:
        store.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: Any) -> tuple[Path, Any, Any]:
    """A closed store with a month in a file and one in the database, its rows, and its head."""
    world = Filled(tmp_path_factory.mktemp("sound") / "s.sqlite")
    for _ in range(6):
        world.commit(2, at_ns=1_790_000_000 * 10**9)
    for _ in range(6):
        world.commit(3)
    # Long enough for a row of its own to lie on several of SQLite's pages.
    world.commit(40)
    while world.store.move_months(1_794_000_000 * 10**9):
        pass
    rows = everything(world.store)
    assert world.findings() == []
    world.store.close()
    return world.path, rows, world.chain.head()


def _files_with_rows(path: Path) -> list[Path]:
    return [path, *path.parent.glob("s.ledger-*.sqlite")]


def _places(content: bytes) -> list[int]:
    """The bytes of a file in which its ledger rows lie."""
    places = [
        at
        for n in range(1, 100)
        for word in (f"charge-{n}".encode(), str(n).zfill(20).encode())
        for start in _all(content, word)
        for at in range(max(0, start - 60), min(len(content), start + 90))
    ]
    return sorted(set(places))


def _all(content: bytes, word: bytes) -> list[int]:
    found, at = [], content.find(word)
    while at >= 0:
        found.append(at)
        at = content.find(word, at + 1)
    return found


@pytest.mark.parametrize("which", ["database", "month"])
def test_a_flipped_bit_in_ledger_rows_is_found(sound: Any, tmp_path: Path, which: str) -> None:
    """Wherever it lies in the file among the rows: `verify` names it, or the store is refused.

    A bit may also lie in room that no row uses; then every row reads as it was written.
    """
    path, expected, head = sound
    target = _files_with_rows(path)[which == "month"]
    content = target.read_bytes()
    places = _places(content)
    draw = random.Random(7)
    work = copied(path, tmp_path / "work")
    outcomes = dict.fromkeys(("refused", "found", "same", "wrong"), 0)
    for at in draw.sample(places, min(len(places), 600)):
        for file in work.parent.iterdir():
            file.unlink()
        copied(path, work.parent)
        (work.parent / target.name).write_bytes(_flipped(content, at, draw.randrange(8)))
        outcomes[_outcome(work, expected, head)] += 1
    assert outcomes["wrong"] == 0
    assert outcomes["found"] + outcomes["refused"] > outcomes["same"]


def test_every_bit_of_some_rows_is_found(sound: Any, tmp_path: Path) -> None:
    """All bits of a row in the database, and of one in a month's file."""
    path, expected, head = sound
    work = copied(path, tmp_path / "work")
    for target, word in zip(_files_with_rows(path), (b"charge-20", b"charge-3"), strict=True):
        content = target.read_bytes()
        [start, *_] = [at for at in _all(content, word) if content[at + len(word)] == 0xA6]
        for at in range(start - 50, start + 60):
            for bit in range(8):
                (work.parent / target.name).write_bytes(_flipped(content, at, bit))
                assert _outcome(work, expected, head) in ("refused", "found"), (at - start, bit)
        (work.parent / target.name).write_bytes(content)


def test_no_bit_of_the_database_changes_a_row_unseen(sound: Any, tmp_path: Path) -> None:
    """Anywhere in the file, live rows and SQLite's own structure included."""
    path, expected, head = sound
    content = path.read_bytes()
    draw = random.Random(11)
    work = copied(path, tmp_path / "work")
    outcomes = []
    for at in draw.sample(range(len(content)), 600):
        for file in work.parent.iterdir():
            file.unlink()
        copied(path, work.parent)
        work.write_bytes(_flipped(content, at, draw.randrange(8)))
        outcomes.append(_outcome(work, expected, head))
    assert "wrong" not in outcomes
    assert "refused" in outcomes


@pytest.mark.parametrize("left", [0.05, 0.5, 0.9, 0.999])
def test_a_database_that_is_cut_off_is_refused(sound: Any, tmp_path: Path, left: float) -> None:
    """With a message that names the file."""
    work = copied(sound[0], tmp_path / "work")
    content = work.read_bytes()
    work.write_bytes(content[: int(len(content) * left)])
    with pytest.raises(StoreDamaged, match="is damaged") as caught:
        Store(work, TABLES, durable=False).load()
    assert str(work) in str(caught.value)


def test_a_flipped_bit_in_live_rows_is_refused(sound: Any, tmp_path: Path) -> None:
    """What was held and spent is not read wrong, however small the difference."""
    work = copied(sound[0], tmp_path / "work")
    with closing(sqlite3.connect(work)) as db:
        [(blob,)] = db.execute("SELECT rows FROM _pages LIMIT 1").fetchall()
    content = work.read_bytes()
    [start] = _all(content, blob)
    for at in range(start, start + len(blob)):
        work.write_bytes(_flipped(content, at, at % 8))
        with pytest.raises(StoreDamaged, match=r"page \d+ is not what was written"):
            Store(work, TABLES, durable=False)


@pytest.mark.parametrize(
    ("name", "what"),
    [("cost_tracker", "raygate ledger repair"), ("key_store", "move the file away")],
)
def test_a_damaged_store_says_what_to_do(tmp_path: Path, name: str, what: str) -> None:
    """A backup always helps; only the ledger can be mended."""
    path = tmp_path / f"{name}.sqlite"
    path.write_bytes(b"what is this" * 1_000)
    with pytest.raises(StoreDamaged, match=what) as caught:
        Store(path, TABLES, durable=False)
    assert "backup" in str(caught.value)


def test_rows_and_files_that_are_gone_are_missed(sound: Any, tmp_path: Path) -> None:
    """Each by its numbers: a month's file, a batch of the database, the end."""
    path, _, head = sound
    work = copied(path, tmp_path / "work")
    _files_with_rows(work)[1].unlink()
    store = Store(work, TABLES, durable=False)
    assert [finding[:3] for finding in audited(store, head)] == [(1, 12, "missing")]
    store._db.execute("DELETE FROM ledger_batches WHERE last = ?", (str(18).zfill(20),))
    assert [finding[:2] for finding in audited(store, head)] == [(16, 18), (1, 12)]
    store._db.execute("DELETE FROM ledger_batches WHERE last > ?", (str(18).zfill(20),))
    assert [finding[:2] for finding in audited(store, head)] == [(16, 70), (1, 12)]
    store.close()
