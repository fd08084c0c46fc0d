from typing import Any

import pytest

from actors import charge_memory, two_phase
from actors.charges import MAX_CHARGE_NANOS, Subjects
from actors.cost_tracker import CostTracker, Exhausted, Facts, Reserved, Usage
from actors.errors import IdempotencyMismatch, InvalidRequest, Overloaded
from actors.ledger import Entry, verify
from actors.mechanism import Row
from actors.store import as_plain

SECOND = 10**9
HOUR = 3600 * SECOND
NOON = 1_763_899_200 * SECOND  # 2025-11-23 12:00 UTC, a Sunday
FACTS = Facts("key-1", "team-1", "ann", "fast", "openai/gpt", "v1", {"app": "crm"})
TEAM: Subjects = (("team", "team-1"),)
DAILY = 500 * 10**9
KEYS = ("daily|2025-11-23|", "team|2025-11-23|team-1")


def budget(name: str, scope: str, amount: int, period: str = "day") -> dict[str, Any]:
    """A budget as policy names it."""
    return {"name": name, "scope": scope, "period": period, "amount_nanos": amount}


def tracker(*budgets: dict[str, Any], now: int = NOON) -> CostTracker:
    """A cost tracker with these budgets beside the cluster's daily one."""
    made = CostTracker()
    made.configure(now, "c", "r1", {"budgets": list(budgets)})
    return made


def account(of: CostTracker, name: str, now: int = NOON, subject: str | None = None) -> Any:
    """(posted, pending, available) of one budget's account, as `budgets` lists it."""
    for each in of.budgets(now, "c"):
        if each["name"] != name or each["subject"] is None:
            continue
        if subject in (None, each["subject"]):
            return each["posted_nanos"], each["pending_nanos"], each["available_nanos"]
    return None


def entries(rows: list[Row]) -> list[Entry]:
    """The ledger rows among them."""
    return [Entry(*as_plain(row.value)) for row in rows if row.table == "ledger"]


def reserve(of: CostTracker, id: str, amount: int, now: int = NOON, **other: Any) -> Any:
    """Reserve on the team's budget, unless `subjects` or other arguments say otherwise."""
    subjects = other.get("subjects", TEAM)
    facts, max_wait = other.get("facts", FACTS), other.get("max_wait", 0)
    return of.reserve(now, "c", id, subjects, amount, max_wait, facts)


@pytest.fixture
def hundred() -> CostTracker:
    """A team's budget of 100 a day."""
    return tracker(budget("team", "team", 100))


def test_posting_part_gives_the_rest_back() -> None:
    """Reserve 123, post 100: nothing is pending, 100 are posted, 23 are free again."""
    costs = tracker(budget("team", "team", 123))
    assert isinstance(reserve(costs, "a", 123), Reserved)
    assert account(costs, "team") == (0, 123, 0)
    assert costs.post(NOON, "c", "a", 100, Usage(7, 0, 3, 0)) == "posted"
    assert account(costs, "team") == (100, 0, 23)
    assert account(costs, "daily") == (100, 0, DAILY - 100)


def test_voiding_gives_all_back(hundred: CostTracker) -> None:
    """A voided charge leaves nothing behind, on any budget."""
    reserve(hundred, "a", 60)
    assert hundred.void(NOON, "c", "a") == "voided"
    assert account(hundred, "daily") == (0, 0, DAILY)
    assert account(hundred, "team") is None
    assert isinstance(reserve(hundred, "b", 100), Reserved)


def test_a_charge_is_closed_once(hundred: CostTracker) -> None:
    """Posting or voiding what is closed changes nothing, and says how it was closed."""
    reserve(hundred, "posted", 10)
    reserve(hundred, "void", 10)
    hundred.post(NOON, "c", "posted", 10, Usage())
    hundred.void(NOON, "c", "void")
    hundred.take_changes()
    assert hundred.post(NOON, "c", "posted", 99, Usage()) == "already_posted"
    assert hundred.post(NOON, "c", "posted", 99, Usage(), True) == "already_posted"
    assert hundred.void(NOON, "c", "posted") == "already_posted"
    assert hundred.post(NOON, "c", "void", 99, Usage()) == "already_voided"
    assert hundred.void(NOON, "c", "void") == "already_voided"
    assert hundred.take_changes().rows == []
    assert account(hundred, "team") == (10, 0, 90)


def test_unknown_charge_is_a_no_op(hundred: CostTracker) -> None:
    """Closing a charge that never came changes nothing: callers send it to be safe."""
    hundred.take_changes()
    assert hundred.void(NOON, "c", "x") == "unknown"
    assert hundred.post(NOON, "c", "x", 5, Usage()) == "unknown"
    assert hundred.take_changes().rows == []


def test_estimate_is_replaced_once(hundred: CostTracker) -> None:
    """An actual cost takes an estimate's place, everywhere, and nothing takes its place."""
    reserve(hundred, "a", 50)
    assert hundred.post(NOON, "c", "a", 50, Usage(9, 0, 9, 0), True) == "posted"
    assert account(hundred, "team") == (50, 0, 50)
    assert hundred.post(NOON, "c", "a", 70, Usage(), True) == "already_posted"
    assert hundred.post(NOON + 1, "c", "a", 20, Usage(5, 0, 4, 0)) == "replaced"
    assert hundred.post(NOON + 2, "c", "a", 30, Usage(5, 0, 4, 0)) == "already_posted"
    assert account(hundred, "team") == (20, 0, 80)
    assert hundred.spend(NOON, "c", "team", 1) == [("team-1", 20, 1, 5, 4)]
    estimate, actual = entries(hundred.take_changes().rows)
    assert (estimate.state, estimate.amount_nanos, estimate.change_nanos) == ("estimated", 50, 50)
    assert (actual.state, actual.amount_nanos, actual.change_nanos) == ("actual", 20, -30)


def test_estimate_of_nothing_is_replaced_in_full(hundred: CostTracker) -> None:
    """An estimate of 0 leaves no account behind; the actual cost still counts."""
    reserve(hundred, "a", 50)
    hundred.post(NOON, "c", "a", 0, Usage(), True)
    assert account(hundred, "team") is None
    assert hundred.post(NOON, "c", "a", 40, Usage()) == "replaced"
    assert account(hundred, "team") == (40, 0, 60)


def test_same_id_same_content_same_reply(hundred: CostTracker) -> None:
    """A repeat gets the first reply, and holds nothing more; once closed, no accounts."""
    told = Reserved("2025-11-23", KEYS, hundred.view("budgets", NOON)["revision"])
    assert reserve(hundred, "a", 60) == reserve(hundred, "a", 60) == told
    assert reserve(hundred, "a", 60, max_wait=1) == told
    assert account(hundred, "team") == (0, 60, 40)
    hundred.post(NOON, "c", "a", 60, Usage())
    hundred.take_changes()
    assert reserve(hundred, "a", 60) == Reserved("2025-11-23", (), 0)
    assert hundred.take_changes().rows == []


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 61},
        {"subjects": (("team", "team-2"),)},
        {"facts": FACTS._replace(user="bob")},
        {"facts": FACTS._replace(tags={})},
    ],
)
@pytest.mark.parametrize("state", ["held", "posted", "voided", "refused"])
def test_same_id_other_content_is_an_error(
    hundred: CostTracker, other: dict[str, Any], state: str
) -> None:
    """An id that comes again with other content is refused, whatever became of the first."""
    if state == "refused":
        reserve(hundred, "full", 100)
    reserve(hundred, "a", 60)
    if state == "posted":
        hundred.post(NOON, "c", "a", 60, Usage())
    elif state == "voided":
        hundred.void(NOON, "c", "a")
    hundred.take_changes()
    amount = other.get("amount", 60)
    with pytest.raises(IdempotencyMismatch):
        reserve(hundred, "a", amount, **{k: v for k, v in other.items() if k != "amount"})
    assert hundred.take_changes().rows == []


def test_too_little_left_is_refused(hundred: CostTracker) -> None:
    """Budget 100, posted 70: 50 is refused, with whose budget, what is left and until when."""
    reserve(hundred, "a", 70)
    hundred.post(NOON, "c", "a", 70, Usage())
    assert reserve(hundred, "b", 50) == Exhausted("team", "team-1", 100, 30, 12 * HOUR)
    assert account(hundred, "team") == (70, 0, 30)
    assert account(hundred, "daily") == (70, 0, DAILY - 70)
    assert isinstance(reserve(hundred, "c", 30), Reserved)


def test_pending_counts_as_spent(hundred: CostTracker) -> None:
    """What is held is not available to anybody else."""
    reserve(hundred, "a", 70)
    assert isinstance(reserve(hundred, "b", 31), Exhausted)
    assert isinstance(reserve(hundred, "c", 30), Reserved)


def test_refusal_is_sticky_for_its_id(hundred: CostTracker) -> None:
    """A refused id stays refused when money is back, and its reply ages; a new id is not."""
    reserve(hundred, "a", 100)
    assert reserve(hundred, "b", 50) == Exhausted("team", "team-1", 100, 0, 12 * HOUR)
    hundred.void(NOON, "c", "a")
    later = NOON + 60 * SECOND
    assert reserve(hundred, "b", 50, later).resets_in_ns == 12 * HOUR - 60 * SECOND
    assert isinstance(reserve(hundred, "c", 50, later), Reserved)
    assert hundred.post(later, "c", "b", 5, Usage()) == "unknown"
    assert hundred.void(later, "c", "b") == "unknown"


def test_refusal_is_forgotten_after_ten_minutes(hundred: CostTracker) -> None:
    """The memory of refusals ends, so that it stays small."""
    reserve(hundred, "a", 100)
    reserve(hundred, "b", 50)
    hundred.void(NOON, "c", "a")
    assert isinstance(reserve(hundred, "b", 50, NOON + 599 * SECOND), Exhausted)
    assert isinstance(reserve(hundred, "b", 50, NOON + 660 * SECOND), Reserved)


def test_hundred_requests_on_a_budget_for_fifty() -> None:
    """100 reservations of 0.02 on a budget of 1.00: exactly 50 are admitted."""
    costs = tracker(budget("team", "team", 10**9))
    replies = [reserve(costs, f"charge-{n}", 20_000_000) for n in range(100)]
    assert sum(isinstance(reply, Reserved) for reply in replies) == 50
    for n in range(100):
        costs.post(NOON, "c", f"charge-{n}", 20_000_000, Usage())
    assert account(costs, "team") == (10**9, 0, 0)


def test_i7_all_budgets_or_none() -> None:
    """I7: a charge that one of its budgets refuses holds nothing on the others."""
    costs = tracker(budget("team", "team", 100), budget("user", "user", 10))
    both = (("team", "team-1"), ("user", "ann"))
    assert isinstance(reserve(costs, "a", 11, subjects=both), Exhausted)
    assert account(costs, "team") is None
    assert account(costs, "daily") == (0, 0, DAILY)
    assert isinstance(reserve(costs, "b", 10, subjects=both), Reserved)
    assert account(costs, "team") == (0, 10, 90)


def test_subjects_have_accounts_of_their_own(hundred: CostTracker) -> None:
    """One team's spending leaves another's budget alone."""
    reserve(hundred, "a", 100)
    assert isinstance(reserve(hundred, "b", 100, subjects=(("team", "team-2"),)), Reserved)
    assert account(hundred, "team", subject="team-2") == (0, 100, 0)


def test_subject_may_be_any_text() -> None:
    """What separates the parts of a row's key does no harm within a subject."""
    costs = tracker(budget("user", "user", 100))
    for n, subject in enumerate(["a|b", "a", "b|a|", ""]):
        assert isinstance(reserve(costs, str(n), 100, subjects=(("user", subject),)), Reserved)
    assert account(costs, "user", subject="b|a|") == (0, 100, 0)


def test_budget_named_twice_counts_once(hundred: CostTracker) -> None:
    """The same account named twice, or the cluster's by the way, is held once."""
    reserve(hundred, "a", 60, subjects=(*TEAM, *TEAM, ("daily", ""), ("daily", "x")))
    assert account(hundred, "team") == (0, 60, 40)
    assert account(hundred, "daily") == (0, 60, DAILY - 60)


def test_unknown_budget_is_passed_over(hundred: CostTracker) -> None:
    """A name that policy has just taken away is no error; the cluster's budget still holds."""
    assert reserve(hundred, "a", 10, subjects=(("gone", "x"),)).accounts == ("daily|2025-11-23|",)
    assert account(hundred, "daily") == (0, 10, DAILY - 10)


def test_cluster_budget_can_not_be_evaded() -> None:
    """All of the cluster's budgets bind every charge, named or not."""
    costs = tracker(budget("year", "cluster", 100, "total"))
    assert reserve(costs, "a", 101, subjects=()) == Exhausted("year", "", 100, 100, None)


def test_overrun_is_posted_in_full_and_counted(hundred: CostTracker) -> None:
    """A bill larger than its reservation is paid, shows in status, and stops the next one."""
    reserve(hundred, "a", 90)
    assert hundred.post(NOON, "c", "a", 130, Usage()) == "posted"
    status = hundred.status(NOON, "c")
    assert (status["overruns"], status["overrun_nanos"]) == (1, 40)
    assert account(hundred, "team") == (130, 0, -30)
    assert reserve(hundred, "b", 1) == Exhausted("team", "team-1", 100, 0, 12 * HOUR)


def test_overrun_of_an_estimate_is_counted_by_its_last_word(hundred: CostTracker) -> None:
    """An estimate's overrun goes when the actual cost is none, and the other way round."""
    for id, estimate, actual in (("a", 15, 10), ("b", 10, 18), ("c", 15, 16)):
        reserve(hundred, id, 10)
        hundred.post(NOON, "c", id, estimate, Usage(), True)
        hundred.post(NOON, "c", id, actual, Usage())
    status = hundred.status(NOON, "c")
    assert (status["overruns"], status["overrun_nanos"]) == (2, 14)


def test_free_calls_are_never_refused(hundred: CostTracker) -> None:
    """An amount of 0 is admitted on a spent budget, and posted like any other."""
    reserve(hundred, "a", 100)
    hundred.post(NOON, "c", "a", 150, Usage())
    assert isinstance(reserve(hundred, "b", 0), Reserved)
    assert hundred.post(NOON, "c", "b", 0, Usage(5, 0, 5, 0)) == "posted"
    assert hundred.spend(NOON, "c", "team", 1)[0].calls == 2


def test_time_alone_frees_nothing(hundred: CostTracker) -> None:
    """I2, I12: what is held stays held, for days, until its holder or a bury ends it."""
    reserve(hundred, "a", 60)
    later = NOON + 3 * 24 * HOUR
    hundred.advance(later)
    assert hundred.status(later, "c")["pending_nanos"] == 60
    assert hundred.post(later, "c", "a", 10, Usage()) == "posted"
    assert hundred.status(later, "c")["pending_nanos"] == 0


def test_ledger_row_says_everything(hundred: CostTracker) -> None:
    """A charge's row has id, time, cluster, who, what, tokens by kind, prices, amount, tags."""
    hundred.configure(NOON, "c", "r2", {"budgets": [], "cluster": "eu-1"})
    reserve(hundred, "a", 60)
    hundred.post(NOON + 5, "c", "a", 42, Usage(100, 30, 20, 5))
    (entry,) = entries(hundred.take_changes().rows)
    assert entry._asdict() | {"previous": b""} == {
        "sequence": 1, "previous": b"", "at_ns": NOON + 5, "cluster": "eu-1", "charge_id": "a",
        "state": "actual", "amount_nanos": 42, "change_nanos": 42, "reserved_nanos": 60,
        "key": "key-1", "team": "team-1", "user": "ann", "model": "fast", "target": "openai/gpt",
        "price_version": "v1", "input": 100, "cached": 30, "output": 20, "reasoning": 5,
        "day": "2025-11-23", "tags": {"app": "crm"},
    }  # fmt: skip


def test_head_of_the_ledger_shows_lost_rows(hundred: CostTracker) -> None:
    """A database that ends before, or elsewhere than, the head noted outside says so."""
    reserve(hundred, "a", 10)
    hundred.post(NOON, "c", "a", 10, Usage())
    sequence, hash = hundred.head()
    rows = [
        as_plain(row)
        for row in hundred.take_changes().rows
        if row.table != "ledger" and row.value is not None
    ]

    def damage(head: tuple[int, str] | None) -> Any:
        found = CostTracker()
        found.load(Row(*row) for row in rows)
        found.restored(head)
        assert found.head() == (sequence, hash)
        saved = {row.key for row in found.take_changes().rows}
        assert ("damage" in saved) == (found.status(NOON, "c")["damage"] is not None)
        return found.status(NOON, "c")["damage"]

    assert damage(None) is damage((sequence, hash)) is damage((0, "00" * 32)) is None
    assert "row 1 is not" in damage((1, "ff" * 32))
    assert "row 2 was written" in damage((2, "ff" * 32))


@pytest.mark.parametrize("amount", [-1, 1.5, True, None, MAX_CHARGE_NANOS + 1])
def test_amount_must_be_whole_nano_dollars(hundred: CostTracker, amount: Any) -> None:
    """A float or a negative amount is refused before anything changes."""
    reserve(hundred, "a", 10)
    hundred.take_changes()
    with pytest.raises(InvalidRequest):
        reserve(hundred, "b", amount)
    with pytest.raises(InvalidRequest):
        hundred.post(NOON, "c", "a", amount, Usage())
    assert hundred.take_changes().rows == []
    assert account(hundred, "team") == (0, 10, 90)


def test_facts_that_can_not_be_stored_are_refused(hundred: CostTracker) -> None:
    """Tags that are no plain values are the caller's error, not ours."""
    for bad in ({"a": "\ud800"}, {"a": object()}, {"a": 2**70}):
        with pytest.raises(InvalidRequest):
            reserve(hundred, "a", 10, facts=FACTS._replace(tags=bad))
    assert hundred.status(NOON, "c")["pending"] == 0


def test_memory_is_bounded(hundred: CostTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed charges, refusals and held charges are bounded; rows go with what is forgotten."""
    monkeypatch.setattr(charge_memory, "MAX_CLOSED", 5)
    monkeypatch.setattr(charge_memory, "MAX_REFUSALS", 5)
    monkeypatch.setattr(two_phase, "MAX_HELD", 3)
    kept: dict[tuple[str, str], Any] = {}
    for n in range(20):
        reserve(hundred, f"a{n}", 1)
        hundred.post(NOON, "c", f"a{n}", 1, Usage())
        reserve(hundred, f"b{n}", 1_000)
        hundred.advance(NOON)
        for row in hundred.take_changes().rows:
            kept[row.table, row.key] = row.value
    status = hundred.status(NOON, "c")
    assert (status["remembered"], status["refusals"]) == (5, 5)
    stored = [table for (table, _), value in kept.items() if value is not None]
    assert (stored.count("closed"), stored.count("refusals")) == (5, 5)
    assert stored.count("charges") == 0
    for n in range(3):
        reserve(hundred, f"c{n}", 1)
    with pytest.raises(Overloaded):
        reserve(hundred, "c3", 1)


def test_closed_charges_are_forgotten_after_an_hour(hundred: CostTracker) -> None:
    """Within an hour a repeat is recognised; afterwards nothing of it is left in memory."""
    reserve(hundred, "a", 1)
    hundred.post(NOON, "c", "a", 1, Usage())
    assert hundred.post(NOON + HOUR - 1, "c", "a", 1, Usage()) == "already_posted"
    due = hundred.advance(NOON + HOUR - 1)
    assert due is not None
    assert NOON + HOUR <= due < NOON + HOUR + 120 * SECOND
    hundred.advance(due)
    assert hundred.status(due, "c")["remembered"] == 0
    assert hundred.post(due, "c", "a", 1, Usage()) == "unknown"


def test_ledger_of_a_tracker_verifies(hundred: CostTracker) -> None:
    """The rows that a tracker hands out are a sound ledger with its head."""
    for n in range(5):
        reserve(hundred, str(n), 10)
        hundred.post(NOON, "c", str(n), 9, Usage(), n % 2 == 0)
        hundred.post(NOON, "c", str(n), 8, Usage())
    rows = [row for row in hundred.take_changes().rows if row.table == "ledger"]
    assert len(rows) == 8
    assert verify([(row.key, as_plain(row.value)) for row in rows], hundred.head()) is None
