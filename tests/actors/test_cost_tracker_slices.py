"""Slices of budgets: lent, spent, recalled, buried."""

from typing import Any

import pytest

from actors import purses
from actors.charges import MAX_CHARGE_NANOS
from actors.cost_tracker import Exhausted, Lent, Purse, Recall, Reserved, Usage
from actors.errors import IdempotencyMismatch, InvalidRequest
from actors.mechanism import Pending
from tests.actors.cost_tracker_world import (
    BUDGETS,
    DAY,
    FACTS,
    HOUR,
    SECOND,
    TEAM,
    TODAY,
    World,
)

RECALL_NS = 250_000_000
UNTIL_DECEMBER = 12 * HOUR + 7 * 24 * HOUR


@pytest.fixture
def world() -> World:
    """A day's budget of 1,000 for the cluster and one of 400 a month for each team."""
    return World()


# Lending.


def test_at_most_a_quarter_of_what_is_available_is_lent(world: World) -> None:
    """Of 1,000 first 250, then a quarter of the 750 left; what is lent is pending at once."""
    assert world.do("exchange", (Purse(DAY, 0, 900),)) == (Lent(250, 12 * HOUR, TODAY),)
    assert world.account(DAY) == (0, 250)
    assert world.lend(DAY, 900, by="B.1") == 187
    assert world.lend(DAY, 7, by="B.1") == 7
    assert world.account(DAY) == (0, 444)
    [line] = [each for each in world.do("budgets") if each["name"] == "day"]
    assert (line["lent_nanos"], line["available_nanos"]) == (444, 556)


def test_what_comes_back_is_free_before_more_is_lent(world: World) -> None:
    """One exchange gives back and asks; never more comes back than is out."""
    world.lend(DAY, 200)
    assert world.lend(DAY, 250, back=200) == 250
    assert world.lend(DAY, 0, back=10**6) == 0
    assert world.account(DAY) == (0, 0)
    assert world.do("status")["slices"] == 0
    assert world.do("status")["accounts"] == 0
    assert not any(table in ("slices", "accounts") for table, _ in world.rows)


def test_wishes_are_met_in_order(world: World) -> None:
    """Several purses in one exchange: each sees what those before it have left."""
    lent = world.do("exchange", (Purse(DAY, 0, 1_000), Purse(TEAM, 0, 1_000), Purse(DAY, 50, 0)))
    assert [each.granted for each in lent] == [250, 100, 0]
    assert (world.account(DAY), world.account(TEAM)) == ((0, 200), (0, 100))


@pytest.mark.parametrize(
    "account",
    ["gone|2025-11-23|", "day|2025-11-22|", "day|2025-11-23|x", "day", "", "team|2025-W47|team-1"],
)
def test_nothing_is_lent_from_what_is_not_there(world: World, account: str) -> None:
    """Accounts of no budget, of another period, or of nobody: 0, and no hold."""
    assert world.do("exchange", (Purse(account, 5, 100),)) == (Lent(0, 0, TODAY),)
    assert list(world.costs.owners()) == []


def test_total_budget_never_ends(world: World) -> None:
    """A slice of one has no end."""
    total = {"name": "life", "scope": "cluster", "period": "total", "amount_nanos": 100}
    world.do("configure", "r2", {"budgets": [*BUDGETS, total]})
    assert world.do("exchange", (Purse("life|total|", 0, 10),)) == (Lent(10, None, TODAY),)


@pytest.mark.parametrize(
    "purse",
    [Purse(DAY, -1, 0), Purse(DAY, 0, -1), Purse(DAY, 0, 1.5), Purse(5, 0, 1), (DAY, 0, True)],  # type: ignore[arg-type]
)
def test_bad_purse_changes_nothing(world: World, purse: Any) -> None:
    """Not even those before it in the same exchange."""
    with pytest.raises(InvalidRequest):
        world.do("exchange", (Purse(DAY, 0, 5), purse))
    assert world.account(DAY) == (0, 0)


def test_slices_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound nothing is lent to somebody new."""
    monkeypatch.setattr(purses, "MAX_SLICES", 1)
    assert world.lend(DAY, 10) == 10
    assert world.lend(DAY, 10, by="B.1") == 0
    assert world.lend(DAY, 10) == 10


# Charges.


def test_a_call_is_paid_from_slices(world: World) -> None:
    """100 covered, 30 spent: the slice falls by 100, and 70 are free again."""
    world.lend(DAY, 150)
    world.lend(TEAM, 100)
    assert world.charge("a", 30, covered=100) == "posted"
    assert (world.account(DAY), world.account(TEAM)) == ((30, 50), (30, 0))
    [entry] = world.ledger()
    assert (entry.charge_id, entry.state, entry.amount_nanos) == ("a", "actual", 30)
    assert (entry.reserved_nanos, entry.key, entry.input, entry.day) == (100, "key-1", 5, TODAY)
    assert world.do("spend", "team", 1) == [("team-1", 30, 1, 5, 2)]


def test_a_charge_counts_once(world: World) -> None:
    """I3: whatever comes again by its id, also after a restart, changes nothing."""
    world.lend(DAY, 200)
    assert world.charge("a", 30, covered=50) == "posted"
    assert world.charge("a", 99, covered=50) == "already_posted"
    world.restart()
    assert world.charge("a", 30, covered=50, estimated=True) == "already_posted"
    assert world.do("post", "a", 7, Usage()) == "already_posted"
    assert world.do("void", "a") == "already_posted"
    with pytest.raises(IdempotencyMismatch):
        world.reserve("a", 50)
    assert world.account(DAY) == (30, 150)
    assert len(world.ledger()) == 1


@pytest.mark.parametrize("restart", [False, True])
def test_an_estimated_charge_is_replaced_once(world: World, restart: bool) -> None:
    """The actual cost takes its place on every account, by `charge` or by `post`."""
    world.lend(DAY, 200)
    world.lend(TEAM, 90)
    assert world.charge("a", 80, covered=80, estimated=True) == "posted"
    assert (world.account(DAY), world.account(TEAM)) == ((80, 120), (80, 10))
    if restart:
        world.restart()
    assert world.charge("a", 80, covered=80, estimated=True) == "already_posted"
    assert world.charge("a", 20, covered=80) == "replaced"
    assert world.charge("a", 10, covered=80) == "already_posted"
    assert (world.account(DAY), world.account(TEAM)) == ((20, 120), (20, 10))
    assert [row.change_nanos for row in world.ledger()] == [80, -60]


def test_what_no_slice_covers_is_posted_all_the_same(world: World) -> None:
    """The bill came: only posted rises where a slice is gone or was never there."""
    world.lend(DAY, 20)
    assert world.charge("a", 60, covered=60) == "posted"
    assert (world.account(DAY), world.account(TEAM)) == ((60, 0), (60, 0))
    assert world.charge("b", 5, covered=5, by="B.1") == "posted"
    assert world.account(DAY) == (65, 0)


def test_a_bill_above_its_reservation_is_an_overrun(world: World) -> None:
    """It is posted in full and counted."""
    world.lend(DAY, 200)
    world.charge("a", 130, covered=100)
    status = world.do("status")
    assert (status["overruns"], status["overrun_nanos"]) == (1, 30)
    assert world.account(DAY) == (130, 100)


def test_a_charge_after_its_period_counts_in_it(world: World) -> None:
    """Lent and called yesterday, told today: yesterday's spending and the month's."""
    world.lend(DAY, 200)
    world.lend(TEAM, 100)
    world.later(12 * HOUR + 5)
    assert world.charge("a", 40, covered=50) == "posted"
    assert world.account("day|2025-11-24|") == (0, 0)
    assert world.account(TEAM) == (40, 50)
    assert world.do("spend", "day", 2) == [(TODAY, 40, 1, 5, 2)]
    assert world.do("exchange", (Purse(DAY, 150, 10),)) == (Lent(0, 0, "2025-11-24"),)
    assert world.charge("b", 10, covered=10) == "posted"
    assert [line["name"] for line in world.do("budgets")] == ["day", "team"]
    assert not any(key == DAY for table, key in world.rows if table == "accounts")


@pytest.mark.parametrize("field", ["amount_nanos", "covered", "reserved"])
@pytest.mark.parametrize("bad", [-1, 1.5, True, None, MAX_CHARGE_NANOS + 1])
def test_amounts_of_a_charge_must_be_whole(world: World, field: str, bad: Any) -> None:
    """A bad amount changes nothing."""
    world.lend(DAY, 50)
    with pytest.raises(InvalidRequest):
        world.charge("a", 10, **{"covered": 10} | {field: bad})
    assert world.account(DAY) == (0, 50)
    assert world.ledger() == []


def test_facts_that_can_not_be_stored_change_nothing(world: World) -> None:
    """The row is packed before anything is posted."""
    world.lend(DAY, 50)
    for bad in ({"a": "\ud800"}, {"a": object()}, {"a": 2**70}):
        with pytest.raises(InvalidRequest):
            world.charge("a", 10, facts=FACTS._replace(tags=bad))
    assert world.charge("a", 10, covered=10) == "posted"
    assert world.account(DAY) == (10, 40)


def test_plain_tuples_are_as_good(world: World) -> None:
    """Facts and usage without their names; also of an estimate that is replaced."""
    world.charge("a", 10, facts=tuple(FACTS), usage=(5, 0, 2, 0), estimated=True)
    world.restart()
    assert world.charge("a", 12, facts=tuple(FACTS), usage=(6, 0, 2, 0)) == "replaced"
    assert world.do("spend", "model", 1) == [("fast", 12, 1, 6, 2)]


# Recall before refusal.


def test_a_slice_in_the_way_is_recalled(world: World) -> None:
    """I13: the neighbour gives back what he does not need, and the waiting one is served."""
    world.lend(TEAM, 100)
    assert world.reserve("x", 290) == Reserved(TODAY, (DAY, TEAM), world.revision())
    assert world.reserve("y", 60) == Pending()
    assert world.result(f"recall {TEAM}") == Recall(TEAM)
    assert world.heard() == []
    assert world.lend(TEAM, 0, back=90) == 0
    assert world.result("y") == Reserved(TODAY, (DAY, TEAM), world.revision())
    assert world.account(TEAM) == (0, 290 + 60 + 10)
    assert world.do("status")["waiting"] == 0


def test_who_can_not_be_helped_is_refused_at_once(world: World) -> None:
    """All that is lent would not be enough: no recall, and the refusal is final."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    assert world.reserve("y", 111) == Exhausted("team", "team-1", 400, 10, UNTIL_DECEMBER)
    assert world.heard() == []
    assert isinstance(world.reserve("y", 111), Exhausted)


def test_an_answer_that_does_not_help_is_a_refusal(world: World) -> None:
    """Everybody has answered and it is not enough: refused then, not at the end of the wait."""
    world.lend(TEAM, 60)
    world.lend(TEAM, 40, by="B.1")
    world.reserve("x", 290)
    assert world.reserve("y", 60, wait=10 * SECOND) == Pending()
    assert world.heard() == [("A.1", f"recall {TEAM}"), ("B.1", f"recall {TEAM}")]
    world.lend(TEAM, 0, back=20)
    assert world.heard() == []
    world.lend(TEAM, 0, back=15, by="B.1")
    assert world.result("y") == Exhausted("team", "team-1", 400, 45, UNTIL_DECEMBER)
    assert isinstance(world.reserve("y", 60), Exhausted)
    assert isinstance(world.reserve("z", 45), Reserved)


def test_charges_may_answer_as_well(world: World) -> None:
    """What calls did not cost comes free for the one who waits."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    assert world.reserve("y", 60) == Pending()
    world.charge("a", 30, covered=100)
    assert isinstance(world.result("y"), Reserved)
    assert world.account(TEAM) == (30, 350)


@pytest.mark.parametrize("wait", [0, RECALL_NS, SECOND])
def test_nobody_waits_longer_than_he_said(world: World, wait: int) -> None:
    """A holder that does not answer: refused after the wait, but not before 250 ms."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    assert world.reserve("y", 60, wait=wait) == Pending()
    due = world.costs.advance(world.now)
    assert due == world.now + max(wait, RECALL_NS)
    world.heard()
    world.later(max(wait, RECALL_NS) - 1)
    assert world.heard() == []
    world.later(1)
    assert isinstance(world.result("y"), Exhausted)
    assert world.do("status")["waiting"] == 0


def test_a_recall_is_sent_once_until_it_is_answered(world: World) -> None:
    """The second who waits adds no recall; after an answer the next one is asked anew."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    world.reserve("y", 20)
    assert world.heard() == [("A.1", f"recall {TEAM}")]
    world.reserve("z", 20)
    assert world.heard() == []
    world.lend(TEAM, 0, back=25)
    assert isinstance(world.result("y"), Reserved)
    assert isinstance(world.result("z"), Exhausted), "15 are left, and nothing more will come"
    world.reserve("w", 20)
    assert world.heard() == [("A.1", f"recall {TEAM}")]


def test_an_exchange_on_its_way_is_no_answer(world: World) -> None:
    """Who asks for more has not heard of the recall: the waiting one goes on waiting."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    world.reserve("y", 60)
    assert world.lend(TEAM, 50) == 0
    assert world.do("status")["waiting"] == 1
    world.lend(TEAM, 0, back=100)
    assert isinstance(world.result("y"), Reserved)


def test_a_holder_that_speaks_by_another_name_is_called_by_it(world: World) -> None:
    """A consultant that started anew hears the recall that its old name would have missed."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    world.reserve("y", 60)
    assert world.heard() == [("A.1", f"recall {TEAM}")]
    world.lend(TEAM, 5, by="A.2")
    assert world.heard() == [("A.2", f"recall {TEAM}")]
    world.lend(TEAM, 0, back=100, by="A.2")
    assert isinstance(world.result("y"), Reserved)


def test_nothing_is_lent_for_a_second_after_a_recall(world: World) -> None:
    """Nor while somebody waits there; other accounts are not touched by it."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    world.reserve("y", 60)
    assert world.lend(TEAM, 10, by="B.1") == 0
    world.lend(TEAM, 0, back=100)
    assert world.lend(TEAM, 10, by="B.1") == 0
    assert world.lend(DAY, 10, by="B.1") == 10
    world.later(SECOND - 1)
    assert world.lend(TEAM, 10, by="B.1") == 0
    world.later(1)
    assert world.lend(TEAM, 10, by="B.1") == 10


def test_first_come_first_served_on_each_account(world: World) -> None:
    """A small one does not overtake a large one on the same account; others pass."""
    world.lend(TEAM, 100)
    world.reserve("x", 250)
    assert world.reserve("large", 120) == Pending()
    assert world.reserve("small", 10) == Pending()
    assert isinstance(world.reserve("other", 10, team="team-2"), Reserved)
    world.heard()
    world.lend(TEAM, 0, back=75)
    assert isinstance(world.result("large"), Reserved)
    assert world.heard() == [("A.1", f"recall {TEAM}")], "5 of 400 are left, and 25 are lent"
    world.lend(TEAM, 0, back=5)
    assert isinstance(world.result("small"), Reserved)


def test_who_stood_behind_one_that_is_refused_moves_up(world: World) -> None:
    """Refused, gone or void: whoever waited behind him is served at once."""
    for end in ("refused", "void", "late", "buried"):
        world = World()
        world.lend(TEAM, 100)
        world.reserve("x", 250)
        assert world.reserve("large", 120, by="L.1") == Pending()
        assert world.reserve("small", 10, wait=SECOND) == Pending()
        world.heard()
        if end == "refused":
            world.lend(TEAM, 0, back=10)
            assert isinstance(world.result("large"), Exhausted)
        elif end == "void":
            assert world.do("void", "large") == "voided"
            assert world.do("void", "large") == "already_voided"
        elif end == "late":
            world.later(RECALL_NS)
            assert isinstance(world.result("large"), Exhausted)
        else:
            assert world.do("bury", "L", False) == 1
        assert isinstance(world.result("small"), Reserved), end


def test_money_that_is_there_is_no_reason_for_a_refusal(world: World) -> None:
    """At the end of his wait he goes who has enough, though one before him waits for more."""
    world.lend(TEAM, 100)
    world.reserve("x", 250)
    world.reserve("large", 120, wait=10 * SECOND)
    world.reserve("small", 10)
    world.later(RECALL_NS)
    assert isinstance(world.result("small"), Reserved)
    assert world.do("status")["waiting"] == 1


def test_waiting_survives_a_restart(world: World) -> None:
    """Places, deadlines and recalls that are out are what they were."""
    world.lend(TEAM, 100)
    world.reserve("x", 250)
    world.reserve("large", 120, wait=SECOND)
    world.reserve("small", 10, wait=SECOND)
    world.heard()
    world.restart()
    assert world.reserve("small", 10, wait=SECOND) == Pending()
    with pytest.raises(IdempotencyMismatch):
        world.reserve("small", 11)
    world.end_batch()
    assert world.heard() == []
    world.lend(TEAM, 0, back=85)
    assert [id for _, id in world.heard()] == ["large", "small"]
    assert world.account(TEAM) == (0, 250 + 120 + 10 + 15)


def test_the_result_goes_to_who_asked_last(world: World) -> None:
    """A consultant that started anew asks again by its new name."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    world.reserve("y", 60, by="D.1")
    assert world.reserve("y", 60, by="D.2") == Pending()
    world.heard()
    world.lend(TEAM, 0, back=100)
    assert world.heard() == [("D.2", "y")]


def test_a_higher_budget_serves_those_who_wait(world: World) -> None:
    """Budgets that change, and periods that begin, are looked at at once."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    world.reserve("y", 60, wait=HOUR)
    raised = [BUDGETS[0], {**BUDGETS[1], "amount_nanos": 500}]
    world.do("configure", "r2", {"budgets": raised})
    assert isinstance(world.result("y"), Reserved)
    world = World()
    world.lend(DAY, 250)
    world.reserve("x", 400)
    world.reserve("y", 300, team="team-2")
    assert world.reserve("z", 100, wait=24 * HOUR, team="team-3") == Pending()
    world.later(12 * HOUR)
    assert world.result("z").day == "2025-11-24"


def test_free_calls_wait_for_nobody(world: World) -> None:
    """An amount of 0 passes those who wait."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    world.reserve("y", 60)
    assert isinstance(world.reserve("free", 0), Reserved)


# The dead.


def test_burying_ends_all_that_an_owner_holds(world: World) -> None:
    """Slices return, charges are void, and nobody waits for it; of others nothing is touched."""
    world.lend(DAY, 100)
    world.lend(TEAM, 100)
    world.reserve("held", 100, by="A.7")
    world.reserve("other", 100, by="B.1")
    world.reserve("waits", 190, by="A.2")
    assert set(world.costs.owners()) == {"A", "B"}
    assert world.do("bury", "A", False, by="U.1") == 4
    assert world.do("bury", "A", False, by="U.1") == 0
    assert set(world.costs.owners()) == {"B"}
    assert (world.account(DAY), world.account(TEAM)) == ((0, 100), (0, 100))
    assert world.do("void", "held") == "already_voided"
    assert world.do("post", "waits", 1, Usage()) == "unknown"
    assert world.ledger() == []


def test_what_a_lost_owner_held_counts_as_spent(world: World) -> None:
    """Its slices and its held charges are posted, estimated; the day's slice has a ledger row."""
    world.lend(DAY, 80)
    world.lend(TEAM, 60)
    world.reserve("held", 100, by="A.7")
    assert world.do("bury", "A", True, by="U.1") == 3
    assert (world.account(DAY), world.account(TEAM)) == ((180, 0), (160, 0))
    assert world.do("bury", "A", True, by="U.1") == 0
    lump = world.ledger()[1]
    assert [row.charge_id for row in world.ledger()] == ["held", lump.charge_id]
    assert (lump.state, lump.amount_nanos, lump.target, lump.day) == (
        "estimated", 80, "lost", TODAY,
    )  # fmt: skip
    assert world.do("status")["posted_today_nanos"] == 180
    assert world.do("post", "held", 30, Usage()) == "replaced", "it was alive after all"
    assert world.account(DAY) == (110, 0)


def test_burying_frees_money_for_those_who_wait(world: World) -> None:
    """A dead holder answers no recall; its burial does."""
    world.lend(TEAM, 100)
    world.reserve("x", 290)
    world.reserve("y", 60, wait=10 * SECOND)
    world.do("bury", "A", False)
    assert isinstance(world.result("y"), Reserved)


def test_charges_of_the_dead_come_before_the_burial(world: World) -> None:
    """The outbox's entries are settled first: once each, whether they had arrived or not."""
    world.lend(DAY, 100)
    world.charge("arrived", 10, covered=30)
    assert world.charge("arrived", 10, covered=30, by="U.1", owner="A") == "already_posted"
    assert world.charge("not yet", 20, covered=30, by="U.1", owner="A") == "posted"
    assert world.account(DAY) == (30, 40)
    assert world.do("bury", "A", False, by="U.1") == 1
    assert world.account(DAY) == (30, 0)


def test_the_view_tells_when_accounts_may_be_others(world: World) -> None:
    """Its revision changes with every configuration, budget set or removed, and period."""
    told = [world.revision()]

    def changed() -> bool:
        told.append(world.revision())
        return told[-1] not in told[:-1]

    world.do("configure", "r2", {"budgets": BUDGETS})
    assert changed()
    world.do("set_budget", "cap", {"scope": "team", "period": "day", "amount_nanos": 9})
    assert changed()
    world.do("set_budget", "cap", {"scope": "team", "period": "day", "amount_nanos": 8})
    assert changed()
    world.do("remove_budget", "cap")
    assert changed()
    world.later(12 * HOUR)
    assert changed()
    world.restart()
    assert world.revision() == told[-1]
    world.lend("day|2025-11-24|", 5)
    world.reserve("a", 5)
    world.later(HOUR)
    assert not changed()
    assert list(world.costs.view_keys()) == ["budgets"]
