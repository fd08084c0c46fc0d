from typing import Any

import pytest

from actors import budgets as books
from actors import spending
from actors.cost_tracker import CostTracker, Exhausted, Facts, Reserved, Usage
from actors.errors import InvalidRequest, Overloaded

SECOND = 10**9
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOON = 1_763_899_200 * SECOND  # 2025-11-23 12:00 UTC, a Sunday
MIDNIGHT = NOON + 12 * HOUR
FACTS = Facts("key-1", "team-1", "ann", "fast", "openai/gpt", "v1", {})


def budget(name: str, scope: str, amount: int, period: str, zone: str = "UTC") -> dict[str, Any]:
    """A budget as policy names it."""
    return {
        "name": name, "scope": scope, "period": period, "amount_nanos": amount, "timezone": zone,
    }  # fmt: skip


def tracker(*budgets: dict[str, Any]) -> CostTracker:
    """A cost tracker with these budgets."""
    made = CostTracker()
    made.configure(NOON, "c", "r1", {"budgets": list(budgets)})
    return made


def spend(on: CostTracker, id: str, nanos: int, now: int, facts: Facts = FACTS) -> Any:
    """Reserve and post that much."""
    reply = on.reserve(now, "c", id, (("team", facts.team),), nanos, 0, facts)
    on.post(now, "c", id, nanos, Usage(10, 0, 5, 0))
    return reply


def line(of: CostTracker, name: str, now: int) -> dict[str, Any]:
    """What `budgets` lists of one budget."""
    return next(each for each in of.budgets(now, "c") if each["name"] == name)


@pytest.mark.parametrize(
    ("period", "zone", "before", "after"),
    [
        ("day", "UTC", MIDNIGHT - 1, MIDNIGHT),
        ("day", "Europe/Berlin", MIDNIGHT - HOUR - 1, MIDNIGHT - HOUR),
        ("week", "UTC", MIDNIGHT - 1, MIDNIGHT),
        ("month", "UTC", MIDNIGHT + 7 * DAY - 1, MIDNIGHT + 7 * DAY),
    ],
)
def test_budget_starts_anew_by_the_clock(period: str, zone: str, before: int, after: int) -> None:
    """A spent budget is whole again with its next local period, without any restart."""
    costs = tracker(budget("team", "team", 100, period, zone))
    assert spend(costs, "a", 100, NOON).day == "2025-11-23"
    refused = spend(costs, "b", 1, before)
    assert isinstance(refused, Exhausted)
    assert refused.resets_in_ns == 1
    assert isinstance(spend(costs, "c", 100, after), Reserved)


def test_total_budget_never_starts_anew() -> None:
    """What a total budget has lost is lost, and its refusal names no time to come back."""
    costs = tracker(budget("team", "team", 100, "total"))
    spend(costs, "a", 100, NOON)
    for days in (1, 40, 400):
        reply = spend(costs, f"b{days}", 1, NOON + days * DAY)
        assert reply == Exhausted("team", "team-1", 100, 0, None)


def test_charge_counts_on_the_day_of_its_reservation() -> None:
    """Reserved yesterday, posted today: yesterday's spending, and none of today's budget."""
    costs = tracker(budget("team", "team", 100, "day"))
    costs.reserve(MIDNIGHT - 1, "c", "a", (("team", "team-1"),), 100, 0, FACTS)
    assert isinstance(spend(costs, "b", 100, MIDNIGHT), Reserved)
    assert costs.post(MIDNIGHT + HOUR, "c", "a", 80, Usage()) == "posted"
    assert line(costs, "team", MIDNIGHT + HOUR)["posted_nanos"] == 100
    days = costs.spend(MIDNIGHT + HOUR, "c", "day", 2)
    assert [(each.value, each.nanos) for each in days] == [("2025-11-23", 80), ("2025-11-24", 100)]
    # Its account went with it.
    accounts = {row.key: row.value for row in costs.take_changes().rows if row.table == "accounts"}
    assert accounts["team|2025-11-23|team-1"] is None
    assert accounts["team|2025-11-24|team-1"] == [100, False, 0]


def test_estimate_of_yesterday_is_corrected_yesterday() -> None:
    """An actual cost that comes after midnight corrects the day of the reservation."""
    costs = tracker()
    costs.reserve(MIDNIGHT - 9, "c", "a", (), 100, 0, FACTS)
    costs.post(MIDNIGHT - 8, "c", "a", 100, Usage(), True)
    assert costs.post(MIDNIGHT + 8, "c", "a", 30, Usage()) == "replaced"
    assert costs.spend(MIDNIGHT + 9, "c", "day", 2) == [("2025-11-23", 30, 1, 0, 0)]
    assert line(costs, "daily", MIDNIGHT + 9)["posted_nanos"] == 0


def test_advance_says_when_the_next_period_begins() -> None:
    """The host is told the earliest end of a period."""
    costs = tracker(budget("team", "team", 100, "day", "Europe/Berlin"))
    assert costs.advance(NOON) == MIDNIGHT - HOUR
    assert costs.advance(MIDNIGHT - HOUR) == MIDNIGHT


def test_cluster_has_a_daily_budget_without_policy() -> None:
    """500 dollars a day, before any policy and under one that names no daily budget."""
    costs = CostTracker()
    assert line(costs, "daily", NOON)["amount_nanos"] == 500 * 10**9
    costs.configure(NOON, "c", "r1", {"budgets": [budget("x", "cluster", 5, "month")]})
    assert line(costs, "daily", NOON)["amount_nanos"] == 500 * 10**9
    own = budget("cap", "cluster", 7, "day")
    costs.configure(NOON, "c", "r2", {"budgets": [own]})
    assert [each["name"] for each in costs.budgets(NOON, "c")] == ["cap"]


def test_policy_keeps_what_was_used() -> None:
    """Another amount, or taking a budget out and putting it back, forgets no spending."""
    costs = tracker(budget("team", "team", 100, "day"))
    spend(costs, "a", 60, NOON)
    costs.configure(NOON, "c", "r2", {"budgets": [budget("team", "team", 50, "day")]})
    assert line(costs, "team", NOON)["available_nanos"] == -10
    assert isinstance(spend(costs, "b", 1, NOON), Exhausted)
    costs.configure(NOON, "c", "r3", {})
    assert isinstance(spend(costs, "c", 40, NOON), Reserved)
    costs.configure(NOON, "c", "r4", {"budgets": [budget("team", "team", 100, "day")]})
    assert line(costs, "team", NOON)["posted_nanos"] == 60


def test_budget_taken_out_is_put_away_with_the_day() -> None:
    """Accounts of budgets that policy no longer names do not stay for ever."""
    costs = tracker(budget("team", "team", 100, "total"))
    spend(costs, "a", 60, NOON)
    costs.configure(NOON, "c", "r2", {})
    assert costs.status(NOON, "c")["accounts"] == 2
    assert costs.status(MIDNIGHT, "c")["accounts"] == 0


def test_same_revision_changes_nothing() -> None:
    """Every replica sends the policy; only the first one is work."""
    costs = tracker(budget("team", "team", 100, "day"))
    costs.take_changes()
    costs.configure(NOON + 1, "c", "r1", {"budgets": [budget("team", "team", 5, "day")]})
    assert costs.take_changes().rows == []
    assert costs.status(NOON, "c")["revision"] == "r1"


@pytest.mark.parametrize(
    ("policy", "param"),
    [
        ({"budgets": 5}, "budgets"),
        ({"budgets": [5]}, "budgets[0]"),
        ({"budgets": [budget("a", "planet", 5, "day")]}, "budgets[0].scope"),
        ({"budgets": [budget("a", "team", 5, "year")]}, "budgets[0].period"),
        ({"budgets": [budget("a", "team", -5, "day")]}, "budgets[0].amount_nanos"),
        ({"budgets": [budget("a", "team", 5.5, "day")]}, "budgets[0].amount_nanos"),  # type: ignore[arg-type]
        ({"budgets": [budget("a", "team", 5, "day", "Mars")]}, "budgets[0].timezone"),
        ({"budgets": [budget("", "team", 5, "day")]}, "budgets[0].name"),
        ({"budgets": [budget("a|b", "team", 5, "day")]}, "budgets[0].name"),
        ({"budgets": [budget("daily", "team", 5, "day")]}, "budgets[0].name"),
        ({"budgets": [budget("a", "team", 5, "day")] * 2}, "budgets[1].name"),
        ({"budgets": [{**budget("a", "team", 5, "day"), "color": 1}]}, "budgets[0].color"),
        ({"cluster": ""}, "cluster"),
        ({"limits": []}, "limits"),
    ],
)
def test_bad_policy_changes_nothing(policy: dict[str, Any], param: str) -> None:
    """A policy that can't be meant is refused with its field, and the last one stays."""
    costs = tracker(budget("team", "team", 100, "day"))
    costs.take_changes()
    with pytest.raises(InvalidRequest) as caught:
        costs.configure(NOON, "c", "r2", policy)
    assert caught.value.param == param
    assert costs.take_changes().rows == []
    assert costs.status(NOON, "c")["revision"] == "r1"


def test_summary() -> None:
    """Today, its budget, the average of the last seven days, and the month projected by it."""
    costs = tracker(budget("cap", "cluster", 10 * 10**9, "day"))
    for day in range(10):  # 23 November to 2 December, 1 dollar more each day
        spend(costs, f"a{day}", (day + 1) * 10**9, NOON + day * DAY)
    now = NOON + 9 * DAY + HOUR
    costs.reserve(now, "c", "held", (), 0, 0, FACTS)
    assert costs.summary(now, "c") == {
        "today_cost": 10.0, "daily_budget": 10.0, "budget_used_percentage": 100.0,
        "remaining_budget": 0.0, "average_daily_cost_7d": 7.0,
        "projected_monthly_cost": 9.0 + 10.0 + 29 * 7.0,
        "today_nanos": 10 * 10**9, "budget_nanos": 10 * 10**9, "remaining_nanos": 0,
        "pending_nanos": 0, "average_daily_nanos_7d": 7 * 10**9,
        "projected_month_nanos": 222 * 10**9,
    }  # fmt: skip


def test_summary_of_the_first_day() -> None:
    """The average is over the days since spending began; nothing spent is 0 of everything."""
    costs = tracker()
    nothing = costs.summary(NOON, "c")
    assert nothing["daily_budget"] == nothing["remaining_budget"] == 500.0
    assert nothing["average_daily_cost_7d"] == nothing["projected_monthly_cost"] == 0.0
    spend(costs, "a", 2 * 10**9, NOON)
    costs.reserve(NOON, "c", "b", (), 10**9, 0, FACTS)
    first = costs.summary(NOON, "c")
    assert (first["average_daily_cost_7d"], first["projected_monthly_cost"]) == (2.0, 2.0 + 7 * 2.0)
    assert (first["pending_nanos"], first["budget_used_percentage"]) == (10**9, 0.4)


def test_spend_by_key_team_model_and_day() -> None:
    """Sums of the last days, dearest first; days in their order."""
    costs = tracker()
    spend(costs, "a", 10, NOON)
    spend(costs, "b", 30, NOON, FACTS._replace(key="key-2", model="smart"))
    spend(costs, "c", 5, NOON + DAY, FACTS._replace(team="team-2"))
    now = NOON + DAY
    assert costs.spend(now, "c", "key", 2) == [("key-2", 30, 1, 10, 5), ("key-1", 15, 2, 20, 10)]
    assert costs.spend(now, "c", "team", 2) == [("team-1", 40, 2, 20, 10), ("team-2", 5, 1, 10, 5)]
    assert costs.spend(now, "c", "model", 1) == [("fast", 5, 1, 10, 5)]
    assert [each.value for each in costs.spend(now, "c", "day", 62)] == ["2025-11-23", "2025-11-24"]
    for by, days in (("user", 1), ("day", 0), ("day", 63), ("day", "7")):
        with pytest.raises(InvalidRequest):
            costs.spend(now, "c", by, days)  # type: ignore[arg-type]


def test_spending_is_kept_for_62_days() -> None:
    """A day can be asked for until 61 days later; then its rows go."""
    costs = tracker()
    spend(costs, "a", 10, NOON)
    assert len(costs.spend(NOON + 61 * DAY, "c", "day", 62)) == 1
    costs.take_changes()
    assert costs.spend(NOON + 62 * DAY, "c", "day", 62) == []
    gone = [row for row in costs.take_changes().rows if row.table == "spending"]
    assert [row.value for row in gone] == [None]


def test_sums_and_accounts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound sums share a line, and a new subject is refused instead of forgotten."""
    monkeypatch.setattr(spending, "MAX_SUMS_PER_DAY", 3)
    monkeypatch.setattr(books, "MAX_ACCOUNTS", 4)
    costs = tracker(budget("team", "team", 100, "day"))
    for n in range(6):
        facts = FACTS._replace(key=f"key-{n}")
        costs.reserve(NOON, "c", f"a{n}", (), 1, 0, facts)
        costs.post(NOON, "c", f"a{n}", 1, Usage(), True)
        costs.post(NOON, "c", f"a{n}", 2, Usage())
    lines = costs.spend(NOON, "c", "key", 1)
    assert [(each.value, each.nanos, each.calls) for each in lines] == [
        ("(other)", 6, 3), ("key-0", 2, 1), ("key-1", 2, 1), ("key-2", 2, 1),
    ]  # fmt: skip
    for n in range(3):
        spend(costs, f"b{n}", 1, NOON, FACTS._replace(team=f"team-{n}"))
    with pytest.raises(Overloaded, match="team"):
        spend(costs, "b3", 1, NOON, FACTS._replace(team="team-3"))
    assert isinstance(spend(costs, "b4", 1, NOON, FACTS._replace(team="team-1")), Reserved)
