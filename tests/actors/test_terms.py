from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.terms import Copy, Found, Lost, Standing, Term, Terms, choose, copies, standing_of
from actors.terms import successor as successor_of
from tests.actors.kv import Kv

A = Copy("a", "machine-a", "h.sqlite")
B = Copy("b", "machine-b", "h.2.sqlite")
C = Copy("c", "machine-c", "h.3.sqlite")


def test_terms_follow_one_another() -> None:
    """Begin, join, go alone: the latest is what was claimed last."""
    terms = Terms(Kv(), "gw")
    assert terms.latest("h") is None
    assert terms.begin("h", Term(7, A))
    assert not terms.begin("h", Term(8, B))
    joined = terms.follow("h", Term(7, A), A, B)
    assert joined == terms.latest("h") == Term(8, A, B)
    assert terms.follow("h", joined, B, None) == terms.latest("h") == Term(9, B, None, moved=True)


def test_only_one_gets_the_next_term() -> None:
    """I10: going on alone and being promoted claim the same term."""
    terms = Terms(Kv(), "gw")
    terms.begin("h", Term(1, A))
    joined = terms.follow("h", Term(1, A), A, B)
    assert joined is not None
    promoted = terms.follow("h", joined, B, None)
    assert promoted == Term(3, B, None, moved=True)
    assert terms.follow("h", joined, A, None) is None
    assert terms.latest("h") == promoted


def test_old_terms_are_forgotten() -> None:
    """However often a standby comes and goes, a few of them are kept."""
    kv = Kv()
    terms, term = Terms(kv, "gw"), Term(1, A)
    terms.begin("h", term)
    for _ in range(500):
        found = terms.follow("h", term, A, B if term.standby is None else None)
        assert found is not None
        term = found
    assert terms.latest("h") == term
    assert len(kv.values) < 110
    terms.give_up("h")
    assert terms.latest("h") is None
    assert kv.values == {}


@pytest.mark.parametrize("terms_later", [2, 4, 200])
def test_who_has_slept_through_terms_claims_none(terms_later: int) -> None:
    """I10: an old primary that wakes up can't go on alone, also where its term is forgotten."""
    terms = Terms(Kv(), "gw")
    terms.begin("h", Term(1, A))
    old = terms.follow("h", Term(1, A), A, B)
    assert old is not None
    term = terms.follow("h", old, B, None)
    for _ in range(terms_later):
        assert term is not None
        term = terms.follow("h", term, B, C if term.standby is None else None)
    assert terms.follow("h", old, A, None) is None
    assert terms.latest("h") == term


def test_a_latest_that_was_not_noted_is_found() -> None:
    """Whoever claims may die before it has said so."""
    kv = Kv()
    terms = Terms(kv, "gw")
    terms.begin("h", Term(1, A))
    terms.follow("h", Term(1, A), A, B)
    kv.values.pop("term/gw/h/latest")
    assert terms.latest("h") == Term(2, A, B)


def test_a_standing_is_written_beside_its_copy(tmp_path: Path) -> None:
    """And a copy without one is from before there were terms."""
    path = tmp_path / "h.2.sqlite"
    path.touch()
    (tmp_path / "h.sqlite").touch()
    (tmp_path / "h.sqlite-wal").touch()
    (tmp_path / "h.ledger-2026-10.sqlite").touch()
    Standing(4, "standby", "machine-a").write(path)
    assert standing_of(path) == Standing(4, "standby", "machine-a")
    assert copies(tmp_path, "h", "n", "m") == [
        Found(Copy("n", "m", "h.2.sqlite"), Standing(4, "standby", "machine-a")),
        Found(Copy("n", "m", "h.sqlite"), Standing(0, "primary")),
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], None),
        ([(A, Standing(0, "primary"))], A),
        ([(A, Standing(3, "primary"))], A),
        # Alone in a later term: whatever a former standby says.
        ([(A, Standing(3, "primary")), (B, Standing(2, "standby", "machine-a"))], A),
        # Both of one term: the primary has at least as much.
        (
            [
                (B, Standing(2, "standby", "machine-a")),
                (A, Standing(2, "primary", "machine-b")),
            ],
            A,
        ),
        # The primary died as it claimed the term.
        (
            [
                (A, Standing(1, "primary", "machine-b")),
                (B, Standing(2, "standby", "machine-a")),
            ],
            B,
        ),
        # The standby was put in charge, and went on alone.
        ([(A, Standing(2, "primary", "machine-b")), (B, Standing(3, "primary"))], B),
        # A copy that was not complete is none.
        ([(A, Standing(3, "primary")), (B, Standing(3, "joining"))], A),
    ],
)
def test_a_cluster_without_memory_goes_on_from_what_is_ahead(
    found: list[tuple[Copy, Standing]], expected: Copy | None
) -> None:
    """Known answers."""
    chosen = choose(Found(*one) for one in found)
    assert (chosen.copy if chosen is not None else None) == expected


@pytest.mark.parametrize(
    "found",
    [
        # Perhaps the standby was put in charge: it is not here to be asked.
        [(A, Standing(2, "primary", "machine-b"))],
        # Perhaps the primary has gone on alone.
        [(B, Standing(2, "standby", "machine-a"))],
        [(B, Standing(2, "joining"))],
        # Of its machine there is only what it was long ago.
        [(B, Standing(5, "standby", "machine-a")), (A, Standing(3, "primary", "machine-b"))],
    ],
)
def test_nobody_guesses(found: list[tuple[Copy, Standing]]) -> None:
    """I8: what may have been left behind is not gone on from in silence."""
    with pytest.raises(Lost):
        choose(Found(*one) for one in found)


def test_who_follows_a_node_that_is_gone() -> None:
    """Its standby; or its own copy, that has come back or moved; or nobody."""
    joined = Term(2, A, B)
    back = Found(A._replace(node="d"), Standing(2, "primary", "machine-b"))
    assert successor_of(joined, ["b", "c"], []) == B
    assert successor_of(joined, ["d"], [back]) == back.copy
    assert successor_of(joined, ["c"], [Found(C, Standing(1, "standby", "x"))]) is None
    alone = Term(3, A)
    moved = Found(Copy("e", "machine-e", "h.sqlite"), Standing(3, "primary"))
    assert successor_of(alone, ["b", "e"], [moved]) == moved.copy
    assert successor_of(alone, ["b"], [Found(B, Standing(2, "standby", "machine-a"))]) is None


@given(st.lists(st.sampled_from(["join", "alone", "promote", "lose-primary"]), max_size=12))
def test_what_survives_is_never_behind(steps: list[str]) -> None:
    """I8: of copies written as primaries and standbys write them, none that is behind is chosen.

    Each copy's content is the number of facts acknowledged when it was last written to.
    """
    machines = iter(f"m{n}" for n in range(100))
    primary, standby = next(machines), None
    number, facts = 1, 0
    disks: dict[str, tuple[Standing, int]] = {primary: (Standing(1, "primary"), 0)}
    for step in steps:
        if step == "join" and standby is None:
            standby, number = next(machines), number + 1
            disks[standby] = (Standing(number, "standby", primary), facts)
            disks[primary] = (Standing(number, "primary", standby), facts)
        elif step == "alone" and standby is not None:
            standby, number = None, number + 1
            disks[primary] = (Standing(number, "primary"), facts)
        elif step == "promote" and standby is not None:
            primary, standby, number = standby, None, number + 1
            disks[primary] = (Standing(number, "primary"), facts)
        facts += 1
        for copy in (primary, standby):
            if copy is not None:
                disks[copy] = (disks[copy][0], facts)
    for missing in [None, *disks]:
        found = [
            Found(Copy(machine, machine, "h.sqlite"), standing)
            for machine, (standing, _) in disks.items()
            if machine != missing
        ]
        try:
            chosen = choose(found)
        except Lost:
            # Never while everybody is here, nor without need.
            assert missing in (primary, standby)
        else:
            if chosen is None:
                assert not found
            elif missing != primary or standby is not None:
                assert disks[chosen.copy.machine][1] == facts
