from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.ledger import BEGINNING, Chain, Damage, Entry, Head, row_key, verify
from actors.store import as_plain

Rows = list[tuple[str, Any]]


def ledger(length: int) -> tuple[Rows, Head, list[Head]]:
    """A sound ledger as a store gives it back, its head, and the heads on the way."""
    chain, rows, heads = Chain(), [], [Chain().head()]
    for n in range(length):
        cost = (1_000 + n, "default", f"charge-{n}", "actual", 5 * n, 5 * n, 10)
        facts = ("k", "t", "u", "m", "p/m", "v1", 3, 1, 2, 0, "2025-11-23", {"b": "1", "a": "2"})
        key, value = chain.append((*cost, *facts))
        rows.append((key, as_plain(value)))
        heads.append(chain.head())
    return rows, chain.head(), heads


def test_rows_are_entries() -> None:
    """A row reads as an `Entry`, numbered from 1, the first one after 32 zero bytes."""
    rows, _, _ = ledger(2)
    first = Entry(*rows[0][1])
    assert (first.sequence, first.previous, first.charge_id) == (1, BEGINNING, "charge-0")
    assert (first.day, first.tags, first.input) == ("2025-11-23", {"a": "2", "b": "1"}, 3)
    assert rows[1][0] == row_key(2) == "00000000000000000002"


@pytest.mark.parametrize("length", [0, 1, 7])
def test_sound_ledger_verifies(length: int) -> None:
    """A ledger that nobody touched is sound, and passes through each of its heads."""
    rows, head, heads = ledger(length)
    for witness in (None, *heads):
        assert verify(rows, head, witness) is None


@given(st.integers(1, 12), st.data())
def test_any_changed_field_is_found(length: int, data: st.DataObject) -> None:
    """Whatever field of whatever row is changed, the chain does not verify."""
    rows, head, _ = ledger(length)
    at = data.draw(st.integers(0, length - 1))
    field = data.draw(st.integers(0, len(Entry._fields) - 1))
    value = list(rows[at][1])
    old = value[field]
    value[field] = data.draw(
        (st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()).filter(lambda new: new != old)
        if not isinstance(old, int)
        else st.integers(-(2**63), 2**64 - 1).filter(lambda new: new != old)
    )
    rows[at] = (rows[at][0], value)
    assert isinstance(verify(rows, head), Damage)


@given(st.integers(1, 12), st.data())
def test_any_removed_row_is_found(length: int, data: st.DataObject) -> None:
    """Whatever rows are taken out, the last ones too, the chain does not verify."""
    rows, head, _ = ledger(length)
    gone = data.draw(st.sets(st.integers(0, length - 1), min_size=1))
    left = [row for n, row in enumerate(rows) if n not in gone]
    assert isinstance(verify(left, head), Damage)


def test_a_row_that_can_not_be_packed_changes_nothing() -> None:
    """The chain goes on where it was."""
    chain = Chain()
    chain.append((1, *["x"] * 17, {}))
    head = chain.head()
    for bad in (object(), 1 << 70, "\ud800"):
        with pytest.raises((TypeError, OverflowError, UnicodeEncodeError)):
            chain.append((bad, *["x"] * 17, {}))
        assert chain.head() == head


def test_damage_says_where() -> None:
    """The number of the first row that does not fit is given."""
    rows, head, _ = ledger(9)
    changed = list(rows)
    changed[4] = (rows[4][0], [*rows[4][1][:6], 99, *rows[4][1][7:]])
    assert getattr(verify(changed, head), "sequence", 0) == 6
    assert getattr(verify(rows[:3] + rows[4:], head), "sequence", 0) == 4
    assert getattr(verify(rows[:5], head), "sequence", 0) == 5
    assert getattr(verify([rows[0], (rows[1][0], "x")], head), "sequence", 0) == 2


def test_extra_row_is_found() -> None:
    """A row behind the head, or the same row twice, does not verify."""
    rows, head, heads = ledger(4)
    assert isinstance(verify(rows, heads[3]), Damage)
    assert isinstance(verify([*rows, rows[3]], head), Damage)


def test_rewritten_ledger_misses_the_head_noted_outside() -> None:
    """Who rewrites all rows and the head within the database is still found out."""
    _, _, heads = ledger(5)
    forged = Chain()
    made = [forged.append((n, *["x"] * 17, {})) for n in range(6)]
    rows = [(key, as_plain(value)) for key, value in made]
    assert verify(rows, forged.head()) is None
    assert isinstance(verify(rows, forged.head(), heads[5]), Damage)
