import sqlite3
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import pages as module
from actors.pages import Pages

TABLES = ("a", "b")


class World:
    """Pages beside a plain dictionary of what they ought to hold."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.pages = Pages(self.db, TABLES)
        self.expected: dict[str, dict[str, Any]] = {table: {} for table in TABLES}

    def commit(self, latest: dict[str, dict[str, Any]]) -> None:
        self.db.execute("BEGIN")
        self.pages.commit(latest)
        self.db.execute("COMMIT")
        for table, changed in latest.items():
            into = self.expected[table] | changed
            self.expected[table] = {key: value for key, value in into.items() if value is not None}

    def check(self) -> None:
        assert Pages(self.db, TABLES).load() == self.expected

    def stored(self) -> int:
        """Bytes of all pages."""
        [total] = self.db.execute("SELECT TOTAL(LENGTH(rows)) FROM _pages").fetchone()
        return int(total)


_CHANGES = st.dictionaries(
    st.sampled_from(TABLES),
    st.dictionaries(st.integers(0, 30).map(str), st.one_of(st.none(), st.integers(0, 9))),
)


@given(batches=st.lists(_CHANGES, max_size=40), slack=st.sampled_from([0, 40, 400]))
@settings(deadline=None)
def test_pages_are_what_their_commits_left(batches: list[Any], slack: int) -> None:
    """I8: after each commit a second reader finds every row, however often pages have moved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_IN_A_PAGE", 3)
        patch.setattr(module, "SLACK_BYTES", slack)
        world = World()
        for latest in batches:
            world.commit(latest)
            world.check()


def test_what_is_stored_stays_in_proportion_to_what_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that are written again and again, beside many that never are."""
    monkeypatch.setattr(module, "SLACK_BYTES", 1_000)
    world = World()
    for n in range(200):
        world.commit({"a": {f"still-{n}": "x" * 50}})
    once = world.stored()
    for n in range(3_000):
        world.commit({"b": {f"hot-{n % 5}": n, f"hold-{n}": 1, f"hold-{n - 7}": None}})
    assert world.stored() < 3 * once + 3_000
    world.check()


def test_pages_are_bounded_however_small_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row that stays keeps no endless line of pages behind it, each of which takes memory."""
    monkeypatch.setattr(module, "MOST_DEAD_PAGES", 50)
    world = World()
    world.commit({"a": {"stays": 1}})
    for n in range(500):
        world.commit({"b": {"hot": n}})
        assert len(world.pages._pages) <= 52
    world.check()


def test_what_never_was_stored_needs_no_place() -> None:
    """Begun and ended within one batch, or dropped twice: nothing is written."""
    world = World()
    world.commit({"a": {"x": None}})
    assert world.stored() == 0
    world.commit({"a": {"x": 1}})
    world.commit({"a": {"x": None}})
    before = world.stored()
    world.commit({"a": {"x": None}})
    assert world.stored() <= before
    world.check()


def test_a_commit_that_fails_is_forgotten() -> None:
    """The next one goes by what is on disk, not by what was tried."""
    world = World()
    world.commit({"a": {"x": 1, "y": 1}})
    world.db.execute("BEGIN")
    with pytest.raises(TypeError):
        world.pages.commit({"a": {"x": None, "y": object()}})
    world.db.execute("ROLLBACK")
    world.pages.distrust()
    world.commit({"a": {"x": None}})
    assert world.expected == {"a": {"y": 1}, "b": {}}
    world.check()


def test_an_unknown_table_is_refused_and_one_of_another_version_goes() -> None:
    """A row has to have a place; one that nobody asks for any more need not be kept."""
    world = World()
    world.commit({"a": {"x": 1}, "b": {"y": 2}})
    with pytest.raises(KeyError):
        world.pages.commit({"c": {"x": 1}})
    assert Pages(world.db, ("b", "c")).load() == {"b": {"y": 2}, "c": {}}
