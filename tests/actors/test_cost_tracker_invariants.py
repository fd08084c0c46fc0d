"""Random lives of a cost tracker, beside one that is restarted again and again."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.budget_terms import subject_of
from actors.cost_tracker import CostTracker, Facts, Reserved, Usage
from actors.ledger import Damage, Entry, verify
from actors.mechanism import Row
from actors.store import as_plain

SECOND = 10**9
START = 1_764_541_800 * SECOND  # 2025-11-30 22:30 UTC: days and a month are about to end
POLICIES: list[dict[str, Any]] = [
    {"budgets": [
        {"name": "daily", "scope": "cluster", "period": "day", "amount_nanos": 300},
        {"name": "team", "scope": "team", "period": "month", "amount_nanos": 150},
        {"name": "user", "scope": "user", "period": "day", "amount_nanos": 60,
         "timezone": "Europe/Berlin"},
    ]},
    {"budgets": [
        {"name": "daily", "scope": "cluster", "period": "day", "amount_nanos": 300},
        {"name": "team", "scope": "team", "period": "month", "amount_nanos": 400},
        {"name": "life", "scope": "cluster", "period": "total", "amount_nanos": 2_000},
    ]},
    {"budgets": [
        {"name": "daily", "scope": "cluster", "period": "day", "amount_nanos": 100},
        {"name": "user", "scope": "user", "period": "week", "amount_nanos": 60},
    ]},
]  # fmt: skip

ADDED: list[dict[str, Any]] = [
    {"scope": "team", "subject": "ann", "period": "week", "amount_nanos": 50},
    {"scope": "model", "period": "day", "amount_nanos": 90, "timezone": "Asia/Tokyo"},
    {"scope": "cluster", "period": "total", "amount_nanos": 500},
]

UP = {("held", "estimated"), ("held", "actual"), ("held", "void"), ("estimated", "actual")}
amounts = st.sampled_from([0, 1, 10, 20, 29, 30, 31, 59, 60, 61, 80])
names = st.sampled_from(["ann", "bob", "a|b"])
numbers = st.integers(0, 15)
asked = st.tuples(numbers, amounts, names, names, st.integers(1, 4000))


class Lives(RuleBasedStateMachine):
    """Each command goes to a tracker that lives on and to one that was loaded from rows."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.lived, self.loaded = CostTracker(), CostTracker()
        self.rows: dict[tuple[str, str], Any] = {}
        self.states: dict[str, str] = {}
        self.contents: dict[str, tuple[Any, ...]] = {}
        self.expected: dict[str, int] = {}
        self.lives: Counter[int] = Counter()
        self.overrun = False
        self.lowered = False
        self.revision = 0
        self.both("configure", "0", POLICIES[0])

    def both(self, command: str, *args: Any) -> Any:
        """Run a command on both; the replies and the rows must be the same."""
        replies, changes = [], []
        for each in (self.lived, self.loaded):
            replies.append(getattr(each, command)(self.now, "c", *args))
            each.advance(self.now)
            changes.append({row[:2]: as_plain(row.value) for row in each.take_changes().rows})
        assert replies[0] == replies[1]
        assert plain_orders(changes[0]) == plain_orders(changes[1])
        self.commit(changes[0])
        return replies[0]

    def commit(self, changed: dict[tuple[str, str], Any]) -> None:
        """Store the rows, and follow each charge's state."""
        for (table, key), value in changed.items():
            if table == "ledger":
                assert (table, key) not in self.rows, "a ledger row was written again"
            if table == "charges" and value is not None:
                step = (self.states.get(key, "held"), value[0])
                assert step in UP or step[0] == step[1], f"I3: {key} went {step}"
                self.states[key] = value[0]
            if value is None:
                self.rows.pop((table, key), None)
                if table in ("charges", "refusals"):
                    # No caller uses an id again, least of all one that is forgotten.
                    self.lives[int(key.split("-")[1])] += 1
            else:
                self.rows[table, key] = value

    @rule(several=st.lists(asked, min_size=1, max_size=5))
    def reserve_some(self, several: list[tuple[int, int, str, str, int]]) -> None:
        for each in several:
            self.reserve(*each)

    def reserve(self, number: int, amount: int, user: str, team: str, life: int) -> None:
        id = self.id(number)
        new = id not in self.contents
        if not new:
            amount, user, team = self.contents[id]
        facts = Facts("key", team, user, "model", "p/m", "v1", {})
        subjects = (("team", team), ("user", user))
        reply = self.both("reserve", id, subjects, amount, life * SECOND, facts)
        self.contents[id] = (amount, user, team)
        if not new:
            return
        left = {
            (each["name"], each["subject"]): each["available_nanos"]
            for each in self.both("budgets")
            if (each["name"], each["subject"]) in subjects
            or each["subject"] == subject_of(each["scope"], "key", team, "model", user)
        }
        if isinstance(reply, Reserved):
            assert amount == 0 or min(left.values()) >= 0, "I2: admitted over a budget"
        else:
            refused = left.get((reply.budget, reply.subject), reply.amount_nanos)
            assert amount > max(0, refused) == reply.available_nanos, "I13: refused with room"

    @rule(number=numbers, amount=amounts, estimated=st.booleans())
    def post(self, number: int, amount: int, estimated: bool) -> None:
        id = self.id(number)
        reply = self.both("post", id, amount, Usage(amount, 0, 1, 0), estimated)
        if reply in ("posted", "replaced"):
            self.expected[id] = amount
            self.overrun |= amount > self.contents[id][0]

    @rule(number=numbers)
    def void(self, number: int) -> None:
        self.both("void", self.id(number))

    @rule(seconds=st.integers(1, 3000))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.both("status")

    @rule(days=st.integers(1, 40))
    def sleep(self, days: int) -> None:
        self.now += days * 86_400 * SECOND
        self.both("status")

    @rule(policy=st.sampled_from(POLICIES))
    def configure(self, policy: dict[str, Any]) -> None:
        self.revision += 1
        self.lowered = True
        self.both("configure", str(self.revision), policy)

    @rule(name=st.sampled_from(["extra", "other"]), spec=st.sampled_from(ADDED))
    def set_budget(self, name: str, spec: dict[str, Any]) -> None:
        self.lowered = True
        self.both("set_budget", name, spec)

    @rule(name=st.sampled_from(["extra", "other"]))
    def remove_budget(self, name: str) -> None:
        if any(each["name"] == name for each in self.both("budgets")):
            self.both("remove_budget", name)

    @rule()
    def restart(self) -> None:
        """load(rows) of everything ever handed out is the state that lived."""
        self.loaded = CostTracker()
        live = [Row(*key, value) for key, value in self.rows.items() if key[0] != "ledger"]
        self.loaded.load(reversed(live))
        self.loaded.restored(self.lived.head())
        assert self.loaded.take_changes().rows == []

    @rule(by=st.sampled_from(["key", "team", "model", "day"]), days=st.integers(1, 62))
    def report(self, by: str, days: int) -> None:
        self.both("spend", by, days)
        self.both("summary")

    @invariant()
    def i2_money_is_exact(self) -> None:
        """I2: posted + held <= budget, but for counted overruns and lowered budgets."""
        for each in self.both("budgets"):
            used = each["posted_nanos"] + each["pending_nanos"]
            assert each["pending_nanos"] >= 0
            assert each["posted_nanos"] >= 0
            assert used + each["available_nanos"] == each["amount_nanos"]
            assert used <= each["amount_nanos"] or self.overrun or self.lowered
        assert not self.lived.status(self.now, "c")["overruns"] or self.overrun

    @invariant()
    def i3_charged_once(self) -> None:
        """I3: the ledger has each charge once, plus one correction of an estimate at most."""
        entries = self.ledger()
        per_charge: dict[str, list[Entry]] = {}
        for entry in entries:
            per_charge.setdefault(entry.charge_id, []).append(entry)
        for id, rows in per_charge.items():
            states = [row.state for row in rows]
            assert states in (["estimated"], ["actual"], ["estimated", "actual"]), id
            assert sum(row.change_nanos for row in rows) == rows[-1].amount_nanos
            assert rows[-1].amount_nanos == self.expected.get(id, rows[-1].reserved_nanos)
        assert set(self.expected) <= set(per_charge)

    @invariant()
    def sums_agree(self) -> None:
        """Each sum that is kept is the one that its parts give: charges, rows, accounts."""
        totals: Counter[str] = Counter()
        for entry in self.ledger():
            totals[entry.day] += entry.change_nanos
        calls = len({entry.charge_id for entry in self.ledger() if entry.day == self.today()})
        spent = self.lived.spend(self.now, "c", "day", 1)
        assert [each[1:3] for each in spent] == [(totals[self.today()], calls)][: len(spent)]
        assert bool(calls) == bool(spent)
        held: Counter[str] = Counter()
        for (table, _), value in self.rows.items():
            if table == "charges" and value[0] == "held":
                held[""] += value[3]
                held.update(dict.fromkeys(value[5], value[3]))
        status = self.lived.status(self.now, "c")
        assert status["posted_today_nanos"] == totals[self.today()]
        assert status["pending_nanos"] == held[""]
        for (table, key), value in self.rows.items():
            if table == "accounts":
                assert value[1] == held[key], "what is pending is held by somebody"
                if key.startswith("daily|"):
                    assert value[0] == totals[key.split("|")[1]]

    @precondition(lambda self: any(key[0] == "ledger" for key in self.rows))
    @rule(data=st.data())
    def tamper(self, data: st.DataObject) -> None:
        """The chain verifies as it is, and not with any row changed or taken out."""
        rows = sorted(
            (key, value) for (table, key), value in self.rows.items() if table == "ledger"
        )
        head = self.lived.head()
        assert verify(rows, head) is None
        at = data.draw(st.integers(0, len(rows) - 1))
        assert isinstance(verify(rows[:at] + rows[at + 1 :], head), Damage)
        changed = [*rows[at][1]]
        changed[6] += 1
        rows[at] = (rows[at][0], changed)
        assert isinstance(verify(rows, head), Damage)

    def id(self, number: int) -> str:
        """A charge id that is in use, or has not been yet."""
        return f"charge-{number}-{self.lives[number]}"

    def today(self) -> str:
        """The day of UTC."""
        return datetime.fromtimestamp(self.now // SECOND, UTC).date().isoformat()

    def ledger(self) -> list[Entry]:
        """All ledger rows so far."""
        keys = sorted(key for key in self.rows if key[0] == "ledger")
        return [Entry(*self.rows[key]) for key in keys]

    def teardown(self) -> None:
        """I12: when all holders are gone, nothing is held and no account waits for one."""
        self.now += 4000 * SECOND
        self.both("status")
        status = self.lived.status(self.now, "c")
        assert status["pending"] == status["pending_nanos"] == 0
        self.now += 2 * 3600 * SECOND
        self.both("status")
        left = Counter(table for table, _ in self.rows)
        assert left["charges"] == left["refusals"] == 0
        self.now += 370 * 86_400 * SECOND
        self.both("status")
        left = Counter(table for table, _ in self.rows)
        assert left["spending"] == 0
        assert left["accounts"] <= 3, "only accounts of total budgets stay"


def plain_orders(changed: dict[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    """Rows without the running number of closings, which counts from anew after a restart."""
    found = dict(changed)
    for (table, key), value in changed.items():
        if value is None:
            continue
        if table == "charges" and value[0] != "held":
            place = 8 if value[0] == "estimated" else 4
            found[table, key] = [*value[:place], 0, *value[place + 1 :]]
        elif table == "refusals":
            found[table, key] = [*value[:3], 0]
    return found


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
