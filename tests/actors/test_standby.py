from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors import standby as standbys
from actors.shipments import pack
from actors.standby import Refused, Standby, answer, ask
from actors.store import Store
from actors.terms import Lost, Standing, choose, copies, standing_of
from tests.actors.counter import CALENDAR


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[Standby]:
    """On one node; its folder may be that of other nodes too."""
    made = Standby(tmp_path)
    yield made
    made.close()


def say(standby: Standby, verb: str, *arguments: Any) -> Any:
    """What a primary does."""
    return answer(standby.consult(ask(verb, *arguments)))


def begin(standby: Standby, number: int, file: str, word: str = "w", fresh: bool = True) -> Any:
    """A primary begins to feed a copy; how many pages that has."""
    return say(standby, "begin", "counter", CALENDAR, number, file, word, fresh)[0]


def test_months_of_another_copy_stay(standby: Standby, tmp_path: Path) -> None:
    """I8: several nodes of one machine have one folder, and months of the ledger are files."""
    for name in ("counter.sqlite", "counter.ledger-2026-09.sqlite"):
        (tmp_path / name).touch()
    Standing(2, "primary", "elsewhere").write(tmp_path / "counter.sqlite")
    months = {"counter.4.ledger-2026-10.sqlite", "counter-1.ledger-2026-10.sqlite"}
    for name in months:
        (tmp_path / name).touch()
    begin(standby, 7, "counter.7.sqlite")
    left = {path.name for path in tmp_path.glob("*.sqlite")}
    assert left == {"counter.7.sqlite", *months}


def test_a_copy_that_was_alone_is_left_to_the_operator(standby: Standby, tmp_path: Path) -> None:
    """I8: a machine that was given up comes back with the only ledger there is."""
    for number, standing in enumerate(
        (Standing(4, "primary"), Standing(4, "standby", "m"), Standing(4, "joining"))
    ):
        (tmp_path / f"counter.{number}.sqlite").touch()
        standing.write(tmp_path / f"counter.{number}.sqlite")
    begin(standby, 7, "counter.7.sqlite")
    found = {one.copy.file for one in copies(tmp_path, "counter", "n", "m")}
    assert found == {"counter.0.sqlite", "counter.7.sqlite"}


def test_a_copy_is_never_taken_for_a_whole_one_before_it_is(
    standby: Standby, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8: a standby that dies as it begins leaves nothing that a cluster would begin from."""

    def dies(*_: Any) -> None:
        raise SystemExit

    for attribute in ("Store", "_remove"):
        with monkeypatch.context() as patch:
            patch.setattr(standbys, attribute, dies)
            with pytest.raises(SystemExit):
                begin(standby, 7, "counter.7.sqlite")
    with monkeypatch.context() as patch:
        patch.setattr(Standing, "write", dies)
        with pytest.raises(SystemExit):
            begin(standby, 8, "counter.8.sqlite")
    (tmp_path / "counter.7.sqlite").touch()
    with pytest.raises(Lost):
        choose(copies(tmp_path, "counter", "n", "m"))


def test_the_standby_of_a_term_is_never_emptied(standby: Standby, tmp_path: Path) -> None:
    """I8: a primary that died as it claimed the term comes back; the copy is complete."""
    path = tmp_path / "counter.7.sqlite"
    begin(standby, 7, path.name)
    say(standby, "ship", "counter", "w", [pack(([(1, b"\x80")], 0, []))])
    assert standing_of(path) == Standing(7, "joining")
    assert begin(standby, 8, path.name, "again", fresh=False) == 1
    say(standby, "stand", "counter", "again", 8, "m")
    assert begin(standby, 8, path.name, "and again", fresh=False) == 1
    with pytest.raises(Refused):
        begin(standby, 10, path.name, fresh=False)
    assert begin(standby, 8, path.name, fresh=False) == 1


@pytest.mark.parametrize("fresh", [True, False])
def test_an_old_primary_does_not_empty_what_is_in_charge(
    standby: Standby, tmp_path: Path, fresh: bool
) -> None:
    """I10: its standby was put in charge, and is just being restarted."""
    path = tmp_path / "counter.7.sqlite"
    begin(standby, 7, path.name)
    say(standby, "ship", "counter", "w", [pack(([(1, b"\x80")], 0, []))])
    standby.release("counter")
    Standing(9, "primary").write(path)
    with pytest.raises(Refused):
        begin(standby, 8, path.name, "old", fresh)
    assert standing_of(path) == Standing(9, "primary")
    assert path.exists()


def test_what_another_life_left_is_not_gone_on_from(standby: Standby, tmp_path: Path) -> None:
    """Its numbers of pages may be another history's; the same life goes on."""
    begin(standby, 7, "counter.7.sqlite")
    say(standby, "ship", "counter", "w", [pack(([(1, b"\x80")], 0, []))])
    assert begin(standby, 7, "counter.7.sqlite") == 1
    assert begin(standby, 7, "counter.7.sqlite", "another") == 0


def test_a_copy_that_somebody_has_open_is_refused_at_once(
    standby: Standby, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All other hosts' copies here would wait too."""
    path = tmp_path / "counter.7.sqlite"
    held = Store(path, {"log": "archive"}, durable=False)
    monkeypatch.setattr(standbys, "Store", None)
    with pytest.raises(Refused):
        begin(standby, 7, path.name)
    held.close()
