"""Budgets that operators set at run time."""

from typing import Any

import pytest

from actors import added_budgets, budget_terms
from actors.cost_tracker import CostTracker, Exhausted, Facts, Reserved, Usage
from actors.errors import Conflict, InvalidRequest, NotFound, Overloaded
from actors.mechanism import Row
from actors.store import as_plain

SECOND = 10**9
DAY = 86_400 * SECOND
NOON = 1_763_899_200 * SECOND  # 2025-11-23 12:00 UTC
FACTS = Facts("key-1", "team-1", "ann", "fast", "openai/gpt", "v1", {})
POLICY = {"budgets": [{"name": "p", "scope": "team", "period": "day", "amount_nanos": 1_000}]}


def spec(scope: str, amount: int = 100, **more: Any) -> dict[str, Any]:
    """What sets a daily budget."""
    return {"scope": scope, "period": "day", "amount_nanos": amount, **more}


def tracker(now: int = NOON) -> CostTracker:
    """A cost tracker under a policy with one budget, `p`."""
    made = CostTracker()
    made.configure(now, "c", "r1", POLICY)
    return made


def reserve(of: CostTracker, id: str, amount: int, facts: Facts = FACTS, now: int = NOON) -> Any:
    """Reserve as a caller that has never heard of any budget."""
    return of.reserve(now, "c", id, (), amount, 0, facts)


def line(of: CostTracker, name: str, now: int = NOON) -> dict[str, Any]:
    """What `budgets` lists of one budget (of its fullest account)."""
    return next(each for each in of.budgets(now, "c") if each["name"] == name)


@pytest.mark.parametrize(
    ("scope", "subject", "other"),
    [
        ("team", "team-1", {"team": "team-2"}),
        ("key", "key-1", {"key": "key-2"}),
        ("model", "fast", {"model": "smart"}),
        ("user", "team-1/ann", {"user": "bob"}),
        ("user", "team-1/ann", {"team": "team-2"}),
    ],
)
def test_it_binds_whom_it_names_and_nobody_else(
    scope: str, subject: str, other: dict[str, Any]
) -> None:
    """Whoever's charge it is pays from it, though the caller did not name the budget."""
    costs = tracker()
    costs.set_budget(NOON, "c", "cap", spec(scope, subject=subject))
    assert reserve(costs, "a", 101) == Exhausted("cap", subject, 100, 100, DAY // 2)
    assert isinstance(reserve(costs, "b", 101, FACTS._replace(**other)), Reserved)
    assert isinstance(reserve(costs, "c", 60), Reserved)
    costs.post(NOON, "c", "c", 30, Usage())
    shown = line(costs, "cap")
    assert (shown["subject"], shown["posted_nanos"], shown["available_nanos"]) == (subject, 30, 70)


def test_without_a_subject_it_binds_each_for_himself() -> None:
    """Every team has the whole amount, and only those without a team are free of it."""
    costs = tracker()
    costs.set_budget(NOON, "c", "cap", spec("team"))
    assert isinstance(reserve(costs, "a", 100), Reserved)
    assert isinstance(reserve(costs, "b", 1), Exhausted)
    assert isinstance(reserve(costs, "c", 100, FACTS._replace(team="team-2")), Reserved)
    assert isinstance(reserve(costs, "d", 500, FACTS._replace(team="")), Reserved)


def test_the_clusters_binds_every_charge() -> None:
    """It binds beside the daily budget, which stays the one that reports go by."""
    costs = tracker()
    costs.set_budget(NOON, "c", "a-cap", spec("cluster"))
    assert reserve(costs, "a", 101) == Exhausted("a-cap", "", 100, 100, DAY // 2)
    assert costs.summary(NOON, "c")["daily_budget"] == 500.0


def test_several_bind_all_or_none() -> None:
    """I7: what one of them refuses is held on none."""
    costs = tracker()
    costs.set_budget(NOON, "c", "wide", spec("team", 100))
    costs.set_budget(NOON, "c", "narrow", spec("team", 10, subject="team-1"))
    assert isinstance(reserve(costs, "a", 11), Exhausted)
    assert line(costs, "wide")["pending_nanos"] == line(costs, "daily")["pending_nanos"] == 0


def test_a_caller_can_not_charge_it_to_another() -> None:
    """Whom it binds is for the tracker to say: a caller's own idea of it is passed over."""
    costs = tracker()
    costs.set_budget(NOON, "c", "cap", spec("team", subject="team-1"))
    costs.reserve(NOON, "c", "a", (("cap", "team-2"),), 50, 0, FACTS)
    shown = [each for each in costs.budgets(NOON, "c") if each["name"] == "cap"]
    assert [(each["subject"], each["pending_nanos"]) for each in shown] == [("team-1", 50)]


def test_every_budget_is_listed_with_its_source() -> None:
    """Those that nobody has used too, with whom they bind."""
    costs = tracker()
    costs.set_budget(NOON, "c", "each", spec("team"))
    costs.set_budget(NOON, "c", "one", spec("user", subject="team-1/ann", timezone="Asia/Tokyo"))
    shown = {each["name"]: each for each in costs.budgets(NOON, "c")}
    assert {name: each["source"] for name, each in shown.items()} == {
        "daily": "policy", "p": "policy", "each": "admin", "one": "admin",
    }  # fmt: skip
    assert [shown[name]["subject"] for name in ("daily", "p", "each", "one")] == [
        "", None, None, "team-1/ann",
    ]  # fmt: skip
    assert shown["one"] == {
        "name": "one", "scope": "user", "subject": "team-1/ann", "period": "day",
        "timezone": "Asia/Tokyo", "amount_nanos": 100, "posted_nanos": 0, "pending_nanos": 0,
        "lent_nanos": 0, "available_nanos": 100, "resets_in_ns": 3 * 3600 * SECOND,
        "source": "admin",
    }  # fmt: skip


def test_setting_it_again_keeps_what_was_used() -> None:
    """Another amount counts at once; the same again changes no row."""
    costs = tracker()
    costs.set_budget(NOON, "c", "cap", spec("team"))
    reserve(costs, "a", 80)
    costs.take_changes()
    costs.set_budget(NOON, "c", "cap", spec("team"))
    assert costs.take_changes().rows == []
    costs.set_budget(NOON, "c", "cap", spec("team", 120))
    changed = {row[:2] for row in costs.take_changes().rows}
    assert changed == {("budgets", "cap"), ("meta", "periods")}
    assert isinstance(reserve(costs, "b", 41), Exhausted)
    assert isinstance(reserve(costs, "c", 40), Reserved)


def test_another_period_starts_anew() -> None:
    """What was used of a day is not what was used of a month."""
    costs = tracker()
    costs.set_budget(NOON, "c", "cap", spec("team"))
    reserve(costs, "a", 100)
    costs.set_budget(NOON, "c", "cap", spec("team") | {"period": "month"})
    assert isinstance(reserve(costs, "b", 100), Reserved)
    costs.void(NOON, "c", "a")
    assert line(costs, "cap")["pending_nanos"] == 100


def test_removed_it_binds_nobody() -> None:
    """Charges that it held are closed as ever; again, or one of policy's, is an error."""
    costs = tracker()
    costs.set_budget(NOON, "c", "cap", spec("team"))
    reserve(costs, "a", 100)
    costs.remove_budget(NOON, "c", "cap")
    assert isinstance(reserve(costs, "b", 500), Reserved)
    assert costs.post(NOON, "c", "a", 100, Usage()) == "posted"
    assert "cap" not in {each["name"] for each in costs.budgets(NOON, "c")}
    with pytest.raises(NotFound):
        costs.remove_budget(NOON, "c", "cap")
    with pytest.raises(Conflict):
        costs.remove_budget(NOON, "c", "p")
    costs.set_budget(NOON, "c", "cap", spec("team", 150))
    assert line(costs, "cap")["available_nanos"] == 50, "put back, it knows what was used"
    costs.remove_budget(NOON, "c", "cap")
    costs.void(NOON, "c", "b")
    assert costs.status(NOON + DAY, "c")["accounts"] == 0


def test_late_correction_of_a_forgotten_account_adds_no_money() -> None:
    """An estimate that came down counts for nothing on a budget that has begun anew since."""
    costs = tracker()
    total = spec("team") | {"period": "total"}
    costs.set_budget(NOON, "c", "cap", total)
    midnight = NOON + DAY // 2
    reserve(costs, "a", 100, now=midnight - 2)
    costs.post(midnight - 1, "c", "a", 100, Usage(), True)
    costs.remove_budget(midnight - 1, "c", "cap")
    costs.advance(midnight)
    costs.set_budget(midnight, "c", "cap", total)
    assert costs.post(midnight + 1, "c", "a", 10, Usage()) == "replaced"
    assert line(costs, "cap", midnight + 1)["available_nanos"] == 100


@pytest.mark.parametrize("name", ["p", "daily"])
def test_policys_names_are_taken(name: str) -> None:
    """Also that of the daily budget, which a later policy may fall back to."""
    costs = tracker()
    own = {"name": "cap", "scope": "cluster", "period": "day", "amount_nanos": 7}
    costs.configure(NOON, "c", "r2", {"budgets": [*POLICY["budgets"], own]})
    costs.take_changes()
    with pytest.raises(Conflict):
        costs.set_budget(NOON, "c", name, spec("team"))
    assert costs.take_changes().rows == []


def test_a_new_policy_keeps_it() -> None:
    """It binds, with what was used of it, under a policy that says nothing of it."""
    costs = tracker()
    costs.set_budget(NOON, "c", "cap", spec("team"))
    reserve(costs, "a", 80)
    costs.configure(NOON, "c", "r2", {})
    assert isinstance(reserve(costs, "b", 21), Exhausted)


def test_it_rests_while_a_policy_has_its_name() -> None:
    """Policy's is in force then, going on with what was used; afterwards it is back."""
    costs = tracker()
    costs.set_budget(NOON, "c", "cap", spec("team"))
    reserve(costs, "a", 80)
    costs.configure(NOON, "c", "r2", {"budgets": [{"name": "cap", **spec("team", 300)}]})
    shown = line(costs, "cap")
    assert (shown["source"], shown["available_nanos"]) == ("policy", 220)
    with pytest.raises(Conflict):
        costs.set_budget(NOON, "c", "cap", spec("team", 5))
    costs.configure(NOON, "c", "r3", POLICY)
    shown = line(costs, "cap")
    assert (shown["source"], shown["available_nanos"]) == ("admin", 20)
    costs.configure(NOON, "c", "r4", {"budgets": [{"name": "cap", **spec("team", 300)}]})
    costs.remove_budget(NOON, "c", "cap")
    costs.configure(NOON, "c", "r5", POLICY)
    assert "cap" not in {each["name"] for each in costs.budgets(NOON, "c")}


def test_it_survives_a_restart() -> None:
    """Loaded from rows it binds as before, also before any policy has come."""
    costs = CostTracker()
    costs.set_budget(NOON, "c", "cap", spec("user", subject="team-1/ann"))
    costs.set_budget(NOON, "c", "gone", spec("team", 1))
    costs.remove_budget(NOON, "c", "gone")
    reserve(costs, "a", 80)
    rows: dict[Any, Any] = {row[:2]: as_plain(row.value) for row in costs.take_changes().rows}
    again = CostTracker()
    again.load(Row(table, key, value) for (table, key), value in rows.items() if value is not None)
    assert again.budgets(NOON, "c") == costs.budgets(NOON, "c")
    assert isinstance(reserve(again, "b", 21), Exhausted)


@pytest.mark.parametrize(
    ("name", "given", "param"),
    [
        ("", spec("team"), "name"),
        ("a|b", spec("team"), "name"),
        ("a" * 101, spec("team"), "name"),
        (5, spec("team"), "name"),
        ("cap", 5, None),
        ("cap", spec("planet"), "scope"),
        ("cap", spec("key_model"), "scope"),
        ("cap", spec("team") | {"period": "year"}, "period"),
        ("cap", spec("team", -1), "amount_nanos"),
        ("cap", spec("team", timezone="Mars"), "timezone"),
        ("cap", spec("team", timezone=["UTC"]), "timezone"),
        ("cap", spec("team", subject=""), "subject"),
        ("cap", spec("team", subject="x" * 301), "subject"),
        ("cap", spec("team", subject="\ud800"), "subject"),
        ("cap", spec("cluster", subject="x"), "subject"),
        ("cap", spec("team", color=1), "color"),
    ],
)
def test_bad_terms_change_nothing(name: Any, given: Any, param: str | None) -> None:
    """They are refused with the field that is wrong."""
    costs = tracker()
    costs.take_changes()
    with pytest.raises(InvalidRequest) as caught:
        costs.set_budget(NOON, "c", name, given)
    assert param is None or caught.value.param == param
    assert costs.take_changes().rows == []


def test_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past it only those that are there may be set."""
    monkeypatch.setattr(added_budgets, "MAX_BUDGETS", 2)
    costs = tracker()
    for name in ("a", "b"):
        costs.set_budget(NOON, "c", name, spec("team"))
    with pytest.raises(Overloaded):
        costs.set_budget(NOON, "c", "c", spec("team"))
    costs.set_budget(NOON, "c", "a", spec("team", 7))
    costs.remove_budget(NOON, "c", "b")
    costs.set_budget(NOON, "c", "c", spec("team"))


def test_many_budgets_of_others_cost_a_charge_nothing() -> None:
    """Of a thousand teams' budgets a charge looks at its own."""
    costs = tracker()
    for n in range(budget_terms.MAX_BUDGETS):
        costs.set_budget(NOON, "c", f"cap-{n}", spec("team", subject=f"team-{n}"))
    costs.take_changes()
    reserve(costs, "a", 10)
    costs.post(NOON, "c", "a", 10, Usage())
    accounts = [row.key for row in costs.take_changes().rows if row.table == "accounts"]
    assert sorted(accounts) == ["cap-1|2025-11-23|team-1", "daily|2025-11-23|"]
