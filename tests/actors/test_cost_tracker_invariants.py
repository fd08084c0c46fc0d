"""Random lives of a cost tracker, beside one that is restarted again and again."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.budget_terms import subject_of
from actors.cost_tracker import CostTracker, Exhausted, Facts, Paid, Purse, Reserved, Usage
from actors.ledger import Damage, Entry, verify
from actors.mechanism import Pending, Row
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

OWNERS = ["A", "B"]
amounts = st.sampled_from([0, 1, 10, 20, 29, 30, 31, 59, 60, 61, 80])
names = st.sampled_from(["ann", "bob", "a|b"])
numbers = st.integers(0, 15)
callers = st.sampled_from(["A.1", "A.2", "B.1"])
asked = st.tuples(numbers, amounts, names, names, st.sampled_from([0, 1, 3000]), callers)


class Lives(RuleBasedStateMachine):
    """Each command goes to a tracker that lives on and to one that was loaded from rows."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.began = START
        self.lived, self.loaded = CostTracker(), CostTracker()
        self.rows: dict[tuple[str, str], Any] = {}
        self.contents: dict[str, tuple[Any, ...]] = {}
        self.expected: dict[str, int] = {}
        self.waiting: set[str] = set()
        self.known: set[tuple[str, ...]] = set()
        self.generation = 0
        self.overrun = False
        self.lowered = False
        self.revision = 0
        self.both("configure", "0", POLICIES[0])

    def both(self, command: str, *args: Any, by: str = "c") -> Any:
        """Run a command on both; the replies, the rows and the results must be the same."""
        replies, changes = [], []
        for each in (self.lived, self.loaded):
            replies.append(getattr(each, command)(self.now, by, *args))
            due = each.advance(self.now)
            assert due is None or due > self.now
            taken = each.take_changes()
            rows = {row[:2]: as_plain(row.value) for row in taken.rows}
            changes.append((rows, taken.results, taken.views, set(each.owners())))
        assert replies[0] == replies[1]
        assert changes[0] == changes[1]
        self.commit(changes[0][0])
        for caller, id, reply in changes[0][1]:
            if not id.startswith("recall "):
                assert caller == self.contents[id][3]
                self.waiting.remove(id)
                self.replied(id, reply)
        return replies[0]

    def commit(self, changed: dict[tuple[str, str], Any]) -> None:
        """Store the rows."""
        for (table, key), value in changed.items():
            if table == "ledger":
                assert (table, key) not in self.rows, "a ledger row was written again"
            if value is None:
                self.rows.pop((table, key), None)
            else:
                self.rows[table, key] = value

    @rule(several=st.lists(asked, min_size=1, max_size=5))
    def reserve_some(self, several: list[tuple[int, int, str, str, int, str]]) -> None:
        for each in several:
            self.reserve(*each)

    def reserve(
        self, number: int, amount: int, user: str, team: str, seconds: int, caller: str
    ) -> None:
        id = f"charge-{number}-{self.generation}"
        new = id not in self.contents
        if not new:
            amount, user, team, _ = self.contents[id]
        self.contents[id] = (amount, user, team, caller)
        subjects, facts = self.who(id)
        before = self.lines(id)
        reply = self.both("reserve", id, subjects, amount, seconds * SECOND, facts, by=caller)
        if not new:
            return
        if isinstance(reply, Pending):
            self.waiting.add(id)
            assert amount
        elif isinstance(reply, Exhausted):
            refused = before.get((reply.budget, reply.subject), (reply.amount_nanos, 0))
            assert amount > refused[0] + refused[1], "I13: refused with room, or with money lent"
        self.replied(id, reply)

    def replied(self, id: str, reply: Any) -> None:
        """A reservation has its answer."""
        amount, *_ = self.contents[id]
        after = self.lines(id)
        if isinstance(reply, Reserved):
            self.known.add((reply.day, *reply.accounts))
            assert amount == 0 or min(left for left, _ in after.values()) >= 0, "I2: over a budget"
        elif isinstance(reply, Exhausted):
            left, _ = after.get((reply.budget, reply.subject), (reply.amount_nanos, 0))
            assert amount > max(0, left), "I13: refused with room"

    def who(self, id: str) -> tuple[Any, Facts]:
        """Subjects and facts of a charge."""
        _, user, team, _ = self.contents[id]
        return (("team", team), ("user", user)), Facts("key", team, user, "model", "p/m", "v1", {})

    def lines(self, id: str) -> dict[tuple[str, str], tuple[int, int]]:
        """(available, lent) of the accounts that bind a charge."""
        subjects, facts = self.who(id)
        return {
            (each["name"], each["subject"]): (each["available_nanos"], each["lent_nanos"])
            for each in self.lived.budgets(self.now, "c")
            if (each["name"], each["subject"]) in subjects
            or each["subject"] == subject_of(each["scope"], *facts[:2], facts.model, facts.user)
        }

    @rule(number=numbers, amount=amounts, estimated=st.booleans(), back=st.integers(0, 2))
    def post(self, number: int, amount: int, estimated: bool, back: int) -> None:
        id = f"charge-{number}-{self.generation - back}"
        reply = self.both("post", id, amount, Usage(amount, 0, 1, 0), estimated)
        if reply in ("posted", "replaced"):
            self.expected[id] = amount
            self.overrun |= amount > self.contents[id][0]

    @rule(number=numbers, back=st.integers(0, 1))
    def void(self, number: int, back: int) -> None:
        id = f"charge-{number}-{self.generation - back}"
        waited = id in self.waiting
        reply = self.both("void", id)
        assert reply == "voided" or not waited
        self.waiting.discard(id)

    @precondition(lambda self: self.known)
    @rule(caller=callers, data=st.data())
    def exchange(self, caller: str, data: st.DataObject) -> None:
        keys = sorted({key for accounts in self.known for key in accounts[1:]})
        purse = st.builds(Purse, st.sampled_from(keys), amounts, amounts)
        wishes = tuple(data.draw(st.lists(purse, min_size=1, max_size=3)))
        for wish, lent in zip(wishes, self.both("exchange", wishes, by=caller), strict=True):
            assert 0 <= lent.granted <= wish.more

    @precondition(lambda self: self.known)
    @rule(
        owner=st.sampled_from(OWNERS),
        number=numbers,
        amount=amounts,
        covered=amounts,
        estimated=st.booleans(),
        data=st.data(),
    )
    def charge(
        self, owner: str, number: int, amount: int, covered: int, estimated: bool, data: Any
    ) -> None:
        id = f"paid-{number}-{self.generation}"
        day, *keys = data.draw(st.sampled_from(sorted(self.known)))
        slices = [self.rows.get(("slices", f"{owner}|{key}"), [0])[0] for key in keys]
        told = (Usage(amount, 0, 1, 0), Facts("key", "t", "u", "model", "p/m", "v1", {}))
        paid = Paid(owner, id, tuple(keys), covered, amount, covered, *told, estimated, day)
        reply = self.both("charge", paid)
        if reply in ("posted", "replaced"):
            self.overrun |= amount > min(covered, *slices) or reply == "replaced"
            self.expected[id] = amount

    @rule(owner=st.sampled_from(OWNERS), lost=st.booleans())
    def bury(self, owner: str, lost: bool) -> None:
        self.waiting = {id for id in self.waiting if self.contents[id][3][0] != owner}
        self.both("bury", owner, lost)
        assert owner not in self.lived.owners()

    @rule(seconds=st.integers(1, 3000))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.both("status")
        if self.now > self.began + 500 * SECOND:
            # No caller uses an id again, least of all one that is forgotten.
            self.began, self.generation = self.now, self.generation + 1

    @rule(days=st.integers(1, 40))
    def sleep(self, days: int) -> None:
        self.wait(days * 86_400)

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
        per_charge: dict[str, list[Entry]] = {}
        for entry in self.ledger():
            per_charge.setdefault(entry.charge_id, []).append(entry)
        for id, rows in per_charge.items():
            states = [row.state for row in rows]
            assert states in (["estimated"], ["actual"], ["estimated", "actual"]), id
            assert sum(row.change_nanos for row in rows) == rows[-1].amount_nanos
            assert rows[-1].amount_nanos == self.expected.get(id, rows[-1].reserved_nanos)
        assert set(self.expected) <= set(per_charge)

    @invariant()
    def sums_agree(self) -> None:
        """Each sum that is kept is the one that its parts give: charges, slices, ledger rows."""
        totals: Counter[str] = Counter()
        for entry in self.ledger():
            totals[entry.day] += entry.change_nanos
        calls = len({entry.charge_id for entry in self.ledger() if entry.day == self.today()})
        spent = self.lived.spend(self.now, "c", "day", 1)
        assert [each[1:3] for each in spent] == [(totals[self.today()], calls)][: len(spent)]
        assert bool(calls) == bool(spent)
        held: Counter[str] = Counter()
        lent: Counter[str] = Counter()
        charges = 0
        for (table, key), value in self.rows.items():
            if table == "charges" and len(value) == 5:
                charges += value[4][1]
                held.update(dict.fromkeys(value[3], value[4][1]))
            elif table == "slices":
                lent[key.partition("|")[2]] += value[0]
        status = self.lived.status(self.now, "c")
        assert status["posted_today_nanos"] == totals[self.today()]
        assert status["pending_nanos"] == charges
        assert status["waiting"] == len(self.waiting)
        labels = self.rows["meta", "periods"][1]
        for each in self.lived.budgets(self.now, "c"):
            key = f"{each['name']}|{labels[each['name']]}|{each['subject']}"
            assert each["lent_nanos"] == lent[key]
            assert each["pending_nanos"] == held[key] + lent[key], "held by somebody"
        for (table, key), value in self.rows.items():
            if table == "accounts" and key.startswith("daily|"):
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

    def today(self) -> str:
        """The day of UTC."""
        return datetime.fromtimestamp(self.now // SECOND, UTC).date().isoformat()

    def ledger(self) -> list[Entry]:
        """All ledger rows so far."""
        keys = sorted(key for key in self.rows if key[0] == "ledger")
        return [Entry(*self.rows[key]) for key in keys]

    def teardown(self) -> None:
        """I12: when all holders are gone, nothing is held and no account waits for one."""
        for owner in OWNERS:
            self.bury(owner, lost=False)
        status = self.both("status")
        assert status["pending"] == status["pending_nanos"] == 0
        assert status["slices"] == status["waiting"] == 0
        assert list(self.lived.owners()) == []
        self.now += 2 * 3600 * SECOND
        self.both("status")
        left = Counter(table for table, _ in self.rows)
        for table in ("charges", "closed", "refusals", "slices", "waiting"):
            assert left[table] == 0
        self.now += 370 * 86_400 * SECOND
        self.both("status")
        left = Counter(table for table, _ in self.rows)
        assert left["spending"] == 0
        assert left["accounts"] <= 3, "only accounts of total budgets stay"


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
