"""Owners that keep to the rules: they borrow, spend, report late, answer recalls, and die.

What the tracker has posted and holds is compared with what they know themselves.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actors.cost_tracker import Exhausted, Paid, Purse, Reserved, Usage
from actors.mechanism import Pending
from tests.actors.cost_tracker_world import FACTS, SECOND, World

TEAMS = ["team-1", "team-2"]
AMOUNTS = {"day": 1_000, "team": 400, "cap": 300}
WORST = 40
worsts = st.integers(1, WORST)
owners = st.integers(0, 2)
teams = st.sampled_from(TEAMS)
several = st.lists(worsts, min_size=1, max_size=4)
shares = st.lists(st.integers(0, 4), max_size=4)
RECALL = 250_000_000


@dataclass
class Owner:
    """A process that has slices.

    idle: what of them no call needs; late: of that, what came back since it last spoke of the
    account. running: calls by id. ended: charges not told yet. told: those that it would tell
    again if it died now. recalled: accounts that it is asked for.
    """

    name: str
    idle: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    running: dict[str, Paid] = field(default_factory=dict)
    ended: list[Paid] = field(default_factory=list)
    told: list[Paid] = field(default_factory=list)
    accounts: dict[str, Reserved] = field(default_factory=dict)
    recalled: set[str] = field(default_factory=set)

    def lent(self, key: str) -> int:
        """What the tracker must think that it has of an account."""
        calls = (*self.running.values(), *self.ended)
        return self.idle[key] + sum(paid.covered for paid in calls if key in paid.accounts)


class Owners(RuleBasedStateMachine):
    """Three processes that live on slices, and others that reserve each call."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.minted = 0
        self.live = [self.born(), self.born(), self.born()]
        self.held: dict[str, tuple[tuple[str, ...], int]] = {}
        self.waiting: dict[str, tuple[str, int, int]] = {}
        self.posted: Counter[str] = Counter()
        self.costs: dict[str, tuple[str, int]] = {}
        self.lumps = 0

    def mint(self, kind: str) -> str:
        self.minted += 1
        return f"{kind}{self.minted}"

    def born(self) -> Owner:
        return Owner(self.mint("owner"))

    def do(self, command: str, *args: Any, by: str = "D.1") -> Any:
        reply = self.world.do(command, *args, by=by)
        self.hear()
        return reply

    def hear(self) -> None:
        """Take in what the tracker has said late."""
        results, self.world.results = self.world.results, []
        for caller, id, reply in results:
            if id.startswith("recall "):
                for owner in self.live:
                    if caller.startswith(f"{owner.name}."):
                        owner.recalled.add(reply.account)
            else:
                _, amount, deadline_ns = self.waiting.pop(id)
                self.answered(id, amount, reply, late=self.world.now >= deadline_ns)

    # Those who reserve each call.

    @rule(team=teams, amounts=several, wait=st.sampled_from([0, SECOND]))
    def reserve(self, team: str, amounts: list[int], wait: int) -> None:
        for amount in amounts:
            self.try_to_reserve(team, amount, wait)

    def try_to_reserve(self, team: str, amount: int, wait: int) -> Any:
        id = self.mint("call")
        deadline_ns = self.world.now + max(wait, RECALL)
        self.waiting[id] = (team, amount, deadline_ns)
        facts = FACTS._replace(team=team)
        reply = self.do("reserve", id, (("team", team),), amount, wait, facts)
        if not isinstance(reply, Pending):
            del self.waiting[id]
            self.answered(id, amount, reply, late=False)
        return reply

    def answered(self, id: str, amount: int, reply: Any, late: bool) -> None:
        if isinstance(reply, Reserved):
            self.held[id] = (reply.accounts, amount)
            return
        assert isinstance(reply, Exhausted)
        name, subject, whole, *_ = reply
        label = self.world.rows["meta", "periods"][1][name]
        key = f"{name}|{label}|{subject}"
        assert amount > reply.available_nanos
        if not late:
            # Nobody but the holder knows of what came back to him after his answer.
            idle = sum(owner.idle[key] - owner.late[key] for owner in self.live)
            posted, pending = self.world.account(key)
            assert amount > whole - posted - pending + idle, "I13: a neighbour merely held it"

    @rule(ends=shares, estimated=st.booleans())
    def end_held(self, ends: list[int], estimated: bool) -> None:
        """Post a part of what was reserved, or void it."""
        for share in ends[: len(self.held)]:
            id = min(self.held)
            accounts, amount = self.held.pop(id)
            if share == 0:
                assert self.do("void", id) == "voided"
                continue
            cost = amount * share // 4
            self.post(id, accounts, cost, "estimated" if estimated else "actual")
            assert self.do("post", id, cost, Usage(), estimated) == "posted"

    def post(self, id: str, accounts: tuple[str, ...], cost: int, state: str) -> None:
        """Note what the tracker is about to post."""
        assert id not in self.costs
        self.costs[id] = (state, cost)
        self.posted.update(dict.fromkeys(accounts, cost))

    # Those who live on slices.

    def learn(self, owner: Owner, team: str) -> None:
        """Its first call for somebody is reserved, and so tells the accounts."""
        id, facts = self.mint("call"), FACTS._replace(team=team)
        self.waiting[id] = (team, 1, self.world.now + RECALL)
        reply = self.do("reserve", id, (("team", team),), 1, 0, facts, by=f"{owner.name}.1")
        del self.waiting[id]
        if not isinstance(reply, Pending):
            self.answered(id, 1, reply, late=False)
        if isinstance(reply, Reserved):
            owner.accounts[team] = reply
            del self.held[id]
        if not isinstance(reply, Exhausted):
            assert self.do("void", id) == "voided"

    def knows(self, owner: Owner, team: str) -> bool:
        """Whether it may spend from slices for that team."""
        told = owner.accounts.get(team)
        if told is None or told.revision != self.world.revision():
            owner.accounts.pop(team, None)
            self.learn(owner, team)
        return team in owner.accounts

    @rule(n=owners, team=teams, more=st.integers(1, 200))
    def borrow(self, n: int, team: str, more: int) -> None:
        owner = self.live[n]
        if self.knows(owner, team):
            keys = owner.accounts[team].accounts
            self.exchange(owner, [Purse(key, 0, more) for key in keys])

    @rule(n=owners)
    def answer(self, n: int) -> None:
        """Answer all recalls: back with whatever no call needs.

        And with what is left of accounts whose period is over, or that nobody tells of.
        """
        owner = self.live[n]
        known = {key for told in owner.accounts.values() for key in told.accounts}
        keys = sorted(
            key
            for key in {*owner.recalled, *owner.idle}
            if key in owner.recalled or (owner.idle[key] and key not in known)
        )
        owner.recalled = set()
        self.exchange(owner, [Purse(key, owner.idle[key], 0) for key in keys])

    def exchange(self, owner: Owner, wishes: list[Purse]) -> None:
        for wish in wishes:
            owner.idle[wish.account] -= wish.back
            if not wish.more:
                owner.late[wish.account] = 0
        for wish, lent in zip(
            wishes, self.do("exchange", tuple(wishes), by=f"{owner.name}.1"), strict=True
        ):
            assert 0 <= lent.granted <= wish.more
            owner.idle[wish.account] += lent.granted

    @rule(n=owners, team=teams, calls=several, ends=shares)
    def work(self, n: int, team: str, calls: list[int], ends: list[int]) -> None:
        """Begin calls without asking, where every account has enough idle; some end."""
        owner = self.live[n]
        if not self.knows(owner, team):
            return
        told = owner.accounts[team]
        if any(owner.idle[key] < WORST for key in told.accounts):
            self.borrow(n, team, 2 * WORST)
        for worst in calls:
            if all(owner.idle[key] >= worst for key in told.accounts):
                id, facts = self.mint("call"), FACTS._replace(team=team)
                amounts = (worst, worst, worst)
                owner.running[id] = Paid(
                    owner.name, id, told.accounts, *amounts, Usage(), facts, True, told.day
                )
                for key in told.accounts:
                    owner.idle[key] -= worst
                    owner.late[key] = min(owner.late[key], owner.idle[key])
        self.end(n, ends)

    @rule(n=owners, ends=shares)
    def end(self, n: int, ends: list[int]) -> None:
        """Calls end at a part of their worst case, or have not happened."""
        owner = self.live[n]
        for share in ends[: len(owner.running)]:
            paid = owner.running.pop(min(owner.running))
            if share:
                cost = paid.covered * share // 4
                owner.ended.append(paid._replace(amount_nanos=cost, estimated=False))
                continue
            for key in paid.accounts:
                owner.idle[key] += paid.covered
                owner.late[key] += paid.covered

    @rule(n=owners, count=st.integers(1, 5), lost=st.booleans())
    def report(self, n: int, count: int, lost: bool) -> None:
        """Tell some charges; lost: the reply does not arrive, and they are told again later."""
        owner = self.live[n]
        for paid in owner.told:
            assert self.do("charge", paid) == "already_posted"
        now, owner.ended = owner.ended[:count], owner.ended[count:]
        for paid in now:
            self.charge(paid)
        owner.told = [*owner.told, *now] if lost else []

    def charge(self, paid: Paid) -> None:
        self.post(
            paid.charge_id,
            paid.accounts,
            paid.amount_nanos,
            "estimated" if paid.estimated else "actual",
        )
        for owner in self.live:
            if owner.name == paid.owner:
                # Told, it is no part of the slice any more.
                owner.running.pop(paid.charge_id, None)
        assert self.do("charge", paid) == "posted"

    @rule(n=owners, lost=st.booleans())
    def die(self, n: int, lost: bool) -> None:
        """Killed: its outbox is settled by somebody else, then it is buried."""
        if lost:
            self.lose(n)
            return
        owner = self.live[n]
        for paid in (*owner.ended, *owner.running.values()):
            owner.ended = [each for each in owner.ended if each is not paid]
            self.charge(paid)
        for paid in owner.told:
            assert self.do("charge", paid) == "already_posted"
        self.bury(n, lost=False)

    def lose(self, n: int) -> None:
        """Its node is gone, and with it the outbox: all that it had counts as spent."""
        owner = self.live[n]
        lent = {key: owner.lent(key) for key in owner.idle if owner.lent(key)}
        self.posted.update(lent)
        self.lumps += sum(nanos for key, nanos in lent.items() if key.startswith("day|"))
        self.bury(n, lost=True)

    def bury(self, n: int, lost: bool) -> None:
        owner, self.live[n] = self.live[n], self.born()
        gone = [id for id in self.waiting if self.world.waits_for(id) == owner.name]
        for id in gone:
            del self.waiting[id]
        self.do("bury", owner.name, lost)
        assert owner.name not in self.world.costs.owners()

    # What goes on around them.

    @rule(seconds=st.sampled_from([0.1, 0.25, 1, 30, 24 * 3600]))
    def wait(self, seconds: float) -> None:
        """Seconds, or until the day's budget has started anew.

        Whoever holds nothing for an hour has heard by then that his charges arrived.
        """
        for owner in self.live:
            if seconds > 3600 and not any(owner.lent(key) for key in owner.idle):
                owner.told = []
        self.world.later(round(seconds * SECOND))
        self.hear()

    @rule(team=teams, there=st.booleans())
    def cap(self, team: str, there: bool) -> None:
        """An operator's budget comes or goes: it binds what is reserved afterwards."""
        spec = {"scope": "team", "period": "total", "amount_nanos": AMOUNTS["cap"]}
        names = {line["name"] for line in self.world.do("budgets")}
        if there and "cap" not in names:
            self.do("set_budget", "cap", spec)
        elif not there and "cap" in names:
            self.do("remove_budget", "cap")

    @rule()
    def restart(self) -> None:
        self.world.restart()

    # What must hold.

    @invariant()
    def i2_nothing_is_spent_twice(self) -> None:
        """I2: what is posted and held is what the owners know, and within each budget."""
        for line in self.world.costs.budgets(self.world.now, "c"):
            if line["subject"] is None:
                continue
            label = self.world.rows["meta", "periods"][1][line["name"]]
            key = f"{line['name']}|{label}|{line['subject']}"
            held = sum(amount for accounts, amount in self.held.values() if key in accounts)
            assert line["lent_nanos"] == sum(owner.lent(key) for owner in self.live)
            assert line["pending_nanos"] == held + line["lent_nanos"]
            # One that was taken out and put back has forgotten what was spent before.
            assert line["posted_nanos"] == self.posted[key] or line["name"] == "cap"
            assert line["posted_nanos"] + line["pending_nanos"] <= AMOUNTS[line["name"]]
        assert not self.world.costs.status(self.world.now, "c")["overruns"]

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Who waits has somebody to wait for: a recall that is out, or one before him."""
        status = self.world.costs.status(self.world.now, "c")
        assert status["waiting"] == len(self.waiting)
        assert not self.waiting or any(
            value[2] for (table, _), value in self.world.rows.items() if table == "slices"
        )

    def teardown(self) -> None:
        """I3, I12, I13: in the end every call has its charge, and a budget can be spent."""
        self.wait(24 * 3600)
        for n, owner in enumerate(self.live):
            while owner.running:
                self.end_first(owner)
            self.report(n, len(owner.ended) + 1, lost=False)
        for id in sorted(self.held):
            self.held.pop(id)
            assert self.do("void", id) == "voided"
        self.spend_it_all()
        for n in range(len(self.live)):
            self.bury(n, lost=False)
        for id in sorted(self.held):
            self.held.pop(id)
            assert self.do("void", id) == "voided"
        assert list(self.world.costs.owners()) == []
        status = self.world.do("status")
        assert status["pending"] == status["slices"] == status["waiting"] == 0
        entries: dict[str, list[Any]] = {}
        for entry in self.world.ledger():
            entries.setdefault(entry.charge_id, []).append(entry)
        lumps = [rows for id, rows in entries.items() if "-lost-" in id]
        assert sum(rows[0].amount_nanos for rows in lumps) == self.lumps
        assert {id for id in entries if "-lost-" not in id} == set(self.costs)
        for id, (state, cost) in self.costs.items():
            [row] = entries[id]
            assert (row.state, row.amount_nanos) == (state, cost), id

    def end_first(self, owner: Owner) -> None:
        paid = owner.running.pop(min(owner.running))
        owner.ended.append(paid._replace(estimated=False))

    def spend_it_all(self) -> None:
        """I13: neighbours that answer keep nobody from the last of a budget."""
        while True:
            reply = self.try_to_reserve("team-1", WORST, SECOND)
            while isinstance(reply, Pending) and self.waiting:
                assert any(owner.recalled for owner in self.live)
                for n in range(len(self.live)):
                    self.answer(n)
            if len(self.held) * WORST > AMOUNTS["day"] or not self.went(reply):
                break
        lines = [
            line for line in self.world.do("budgets") if line["subject"] in ("", "team-1", None)
        ]
        left = min(line["available_nanos"] + self.idle_of(line) for line in lines)
        assert left < WORST

    def went(self, reply: Any) -> bool:
        """Whether the last that was asked for is held."""
        return isinstance(reply, Reserved) or f"call{self.minted}" in self.held

    def idle_of(self, line: dict[str, Any]) -> int:
        label = self.world.rows["meta", "periods"][1][line["name"]]
        key = f"{line['name']}|{label}|{line['subject']}"
        return sum(owner.idle[key] for owner in self.live)


TestOwners = Owners.TestCase
TestOwners.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
