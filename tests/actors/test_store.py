import multiprocessing
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import filesystems, pages, store_files
from actors.errors import InvalidRequest
from actors.mechanism import Row
from actors.store import Store, StoreError

TABLES: dict[str, Any] = {"live": "live", "more": "live", "old": "archive"}
HASHES = ["a" * 64, "b" * 64, "c" * 64, "d" * 64]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "deep" / "down" / "s.sqlite"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[..., Store]]:
    """Opens the store (anew); all are closed in the end."""
    opened: list[Store] = []

    def open_it(durable: bool = False) -> Store:
        for one in opened:
            one.close()
        opened.append(Store(path, TABLES, durable))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


@pytest.mark.parametrize("durable", [False, True])
def test_rows_are_there_after_a_restart(open_store: Callable[..., Store], durable: bool) -> None:
    """Live rows come back, dropped and archived ones don't."""
    store = open_store(durable)
    store.commit([Row("live", "a", 1), Row("live", "b", [2]), Row("old", "1", "x")])
    store.commit([Row("live", "a", None), Row("more", "c", {"k": (1, b"2")})])
    again = open_store(durable).load()
    assert sorted(again) == [Row("live", "b", [2]), Row("more", "c", {"k": [1, b"2"]})]


def test_of_several_rows_with_one_key_the_last_counts(open_store: Callable[..., Store]) -> None:
    """Put and dropped, or dropped and put, within one batch."""
    store = open_store()
    store.commit([Row("live", "a", None), Row("live", "a", 1), Row("live", "a", 2)])
    store.commit([Row("live", "b", 3), Row("live", "b", None), Row("more", "b", 4)])
    assert sorted(open_store().load()) == [Row("live", "a", 2), Row("more", "b", 4)]


_ROWS = st.lists(
    st.builds(
        Row,
        st.sampled_from(["live", "more", "old"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=4), st.text()),
    ),
    max_size=12,
)


@given(
    batches=st.lists(_ROWS, max_size=8),
    slack=st.sampled_from([0, 30, 1 << 20]),
    page=st.integers(1, 7),
)
def test_store_is_what_its_batches_left(
    tmp_path_factory: Any, batches: list[list[Row]], slack: int, page: int
) -> None:
    """I8: the live rows are those of a dictionary to which every batch was applied.

    However often pages are cleaned, before and after a restart. Of the archive every row is
    there, in order.
    """
    path = tmp_path_factory.mktemp("store") / "s.sqlite"
    store = Store(path, TABLES, durable=False)
    expected: dict[tuple[str, str], Any] = {}
    archived: list[Row] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "SLACK_BYTES", slack)
        for batch in batches:
            rows = []
            for row in batch:
                if row.table == "old":
                    row = Row("old", f"{len(archived):04}", row.key)
                    archived.append(row)
                else:
                    expected[row[:2]] = row.value
                rows.append(row)
            store.commit(rows)
            assert {row[:2]: row.value for row in store.load()} == _without_gone(expected)
    store.close()
    store = Store(path, TABLES, durable=False)
    expected = _without_gone(expected)
    assert {row[:2]: row.value for row in store.load()} == expected
    for table in ("live", "more"):
        rows = sorted(Row(*place, value) for place, value in expected.items() if place[0] == table)
        # Paging begins after a key, so that the empty one is never shown.
        assert _paged(store, table, page) == [row for row in rows if row.key]
    assert _paged(store, "old", page) == archived
    store.close()


def _without_gone(rows: dict[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    return {place: value for place, value in rows.items() if value is not None}


def _paged(store: Store, table: str, limit: int) -> list[Row]:
    """All rows of a table, page by page."""
    seen: list[Row] = []
    while page := store.page(table, seen[-1].key if seen else "", limit):
        assert len(page) <= limit
        seen += page
    return seen


@pytest.mark.parametrize(
    "bad", [Row("live", "x", 1 << 70), Row("live", "x", object()), Row("nowhere", "x", 1)]
)
def test_a_batch_that_cannot_be_stored_leaves_nothing(
    open_store: Callable[..., Store], bad: Row
) -> None:
    """All rows of a batch, or none; the next batch is not touched by it."""
    store = open_store()
    with pytest.raises((TypeError, OverflowError, KeyError)):
        store.commit([Row("live", "a", 1), bad], (1, HASHES[0]))
    with pytest.raises((TypeError, OverflowError, KeyError)):
        store.check(bad)
    assert store.load() == []
    assert store.head() is None
    store.commit([Row("live", "b", 1)])
    assert open_store().load() == [Row("live", "b", 1)]


def test_a_full_disk_leaves_the_batch_before(open_store: Callable[..., Store]) -> None:
    """SQLite's own refusal to grow rolls the whole batch back, and space helps."""
    store = open_store()
    store.commit([Row("live", "a", 1)])
    [pages] = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.commit([Row("live", "a", 2), Row("old", "1", bytes(100_000))])
    assert store.load() == [Row("live", "a", 1)]
    store._db.execute("PRAGMA max_page_count = 100000")
    store.commit([Row("live", "a", 3), Row("old", "1", bytes(100_000))])
    assert open_store().load() == [Row("live", "a", 3)]


def test_archive_is_read_page_by_page(open_store: Callable[..., Store]) -> None:
    """In order of their keys, after the one that was seen last, however they were written."""
    store = open_store()
    for first, last in ((0, 3), (3, 4), (4, 25)):
        store.commit([Row("old", f"{number:03}", number) for number in range(first, last)])
    assert [row.value for row in _paged(store, "old", 10)] == list(range(25))
    assert [row.value for row in store.page("old", "001", 3)] == [2, 3, 4]


def test_rows_of_a_table_that_is_no_more_are_passed_over(path: Path) -> None:
    """A version of a mechanism without that table opens the store all the same."""
    store = Store(path, TABLES, durable=False)
    store.commit([Row("more", "a", 1), Row("live", "a", 2)])
    store.close()
    store = Store(path, {"live": "live"}, durable=False)
    assert store.load() == [Row("live", "a", 2)]
    assert store.page("live", "", 5) == [Row("live", "a", 2)]
    store.close()


def test_what_earlier_versions_stored_is_taken_over(path: Path) -> None:
    """They had a table for each kind of row, and a row of it for each row."""
    Store(path, TABLES, durable=False).close()
    old = sqlite3.connect(path)
    for table, size in (("live", 3), ("old", 2_500)):
        old.execute(f'CREATE TABLE "{table}" (key TEXT PRIMARY KEY, value BLOB)')
        rows = [(f"{n:05}", msgspec.msgpack.encode([n])) for n in range(size)]
        old.executemany(f'INSERT INTO "{table}" VALUES (?, ?)', rows)
    old.commit()
    old.close()
    for _ in range(2):
        store = Store(path, TABLES, durable=False)
        assert sorted(row.value for row in store.load()) == [[0], [1], [2]]
        assert [row.value for row in store.page("old", "", 3_000)] == [[n] for n in range(2_500)]
        store.close()


def test_a_table_that_does_not_exist_is_the_askers_mistake(
    open_store: Callable[..., Store],
) -> None:
    """It is refused as a request, whatever the name holds."""
    with pytest.raises(InvalidRequest):
        open_store().page('old" --', "", 1)


def test_only_its_owner_may_read_the_files(open_store: Callable[..., Store], path: Path) -> None:
    """Hashes of keys and money are nobody else's business."""
    open_store().commit([Row("live", "a", 1)], (1, HASHES[0]))
    modes = {one.name: one.stat().st_mode & 0o077 for one in path.parent.iterdir()}
    assert {"s.sqlite", "s.sqlite-wal", "s.head", "s.lock"} <= modes.keys()
    assert not any(modes.values())
    assert path.parent.stat().st_mode & 0o077 == 0


# The head beside the database.


def test_head_is_the_newest_that_was_committed(open_store: Callable[..., Store]) -> None:
    """Also after a restart, and where the first one was odd."""
    store = open_store()
    assert store.head() is None
    for sequence in (1, 2, 3):
        store.commit([], (sequence, HASHES[sequence]))
        assert store.head() == (sequence, HASHES[sequence])
    store.commit([])
    assert open_store().head() == (3, HASHES[3])


@pytest.mark.parametrize("length", range(0, 96, 5))
def test_a_torn_head_leaves_the_one_before(
    open_store: Callable[..., Store], path: Path, length: int
) -> None:
    """Wherever the write broke off, no head is read that never was."""
    head = path.with_suffix(".head")
    store = open_store()
    store.commit([], (1, HASHES[1]))
    store.commit([], (2, HASHES[2]))
    before = head.read_bytes()
    store.commit([], (3, HASHES[3]))
    after = head.read_bytes()
    slot = len(after) // 2
    torn = before[:slot] + after[slot : slot + length] + before[slot + length :]
    head.write_bytes(torn)
    found = store.head()
    assert found == ((3, HASHES[3]) if torn == after else (2, HASHES[2]))


# One process at a time.


def _hold_for_a_while(path: Path, held: Any, over: Any) -> None:
    Store(path, TABLES, durable=False)
    held.set()
    over.wait(30)
    os._exit(0)


def test_two_processes_never_hold_one_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: the second is refused while the first lives, and let in when it is gone."""
    monkeypatch.setattr(store_files, "_LOCK_PATIENCE_S", 0.05)
    spawn = multiprocessing.get_context("spawn")
    held, over = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold_for_a_while, args=(path, held, over))
    holder.start()
    try:
        assert held.wait(30)
        with pytest.raises(StoreError, match="held by another process"):
            Store(path, TABLES, durable=False)
        holder.kill()
        holder.join(10)
        Store(path, TABLES, durable=False).close()
    finally:
        holder.kill()
        holder.join(10)


def test_a_closed_store_is_free_and_closing_twice_harms_nobody(path: Path) -> None:
    """The second close does not close a file that somebody else has opened meanwhile."""
    store = Store(path, TABLES, durable=False)
    store.close()
    other = Store(path, TABLES, durable=False)
    store.close()
    other.commit([Row("live", "a", 1)], (1, HASHES[0]))
    assert other.head() == (1, HASHES[0])
    other.close()


def test_a_store_that_cannot_be_opened_holds_no_lock(path: Path) -> None:
    """What is not a database is refused, and the next attempt need not wait for this one."""
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="is damaged"):
        Store(path, TABLES, durable=False)
    path.unlink()
    Store(path, TABLES, durable=False).close()


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written there; the message names the folder and the way out."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nfiler:/ {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(filesystems, "_MOUNTS", mounts)
    with pytest.raises(StoreError, match="local disk") as caught:
        Store(tmp_path / "gateway" / "s.sqlite", TABLES, durable=False)
    assert str(tmp_path / "gateway") in str(caught.value)
    assert list((tmp_path / "gateway").iterdir()) == []
