"""Random callers and owners against a limiter that restarts, judged by all that ever happened."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.limits import Admitted, Lent, Recall, Refused, Take, Wish
from actors.mechanism import Pending, owner_of
from actors.rate_limiter import RateLimiter
from actors.rate_slices import QUIET_NS, RECALL_NS
from tests.actors.rate_limiter_judge import LIMITS, POLICY, Desk, Judge, Key, T, Waiting
from tests.actors.rate_limiter_world import restarted, store

# How long an owner takes to answer a recall: always in time, unless it is dead.
ANSWERS = {"o1": 0, "o2": 7 * T, "o3": RECALL_NS - 1}
KEYS = [("r", ""), ("k", "a"), ("t", "a"), ("t", "b"), ("s", "a")]


class Callers(RuleBasedStateMachine):
    """I1, I7, I11, I12, I13, and load(rows) equal to the state that lived."""

    def __init__(self) -> None:
        super().__init__()
        self.limiter = RateLimiter()
        self.stored: dict[tuple[str, str], bytes] = {}
        self.judge = Judge()
        self.waiting: dict[str, Waiting] = {}
        self.recalls: dict[tuple[str, Key], int] = {}
        self.quiet: dict[Key, int] = {}
        self.dead: set[str] = set()
        self.now = 0
        self.ids = 0

    @initialize()
    def configure(self) -> None:
        self.limiter.configure(0, "c", "1", POLICY)

    # What ought to be.

    def stopped(self, order: tuple[int, int], takes: dict[Key, int], lent: bool = True) -> set[Key]:
        """The rule of turns: the limits that refuse, or refuse somebody ahead.

        lent: or would if all that is lent were back.
        """
        ahead = [other for other in self.waiting.values() if other.order < order]

        def fits(key: Key, quantity: int, priority: int) -> bool:
            return self.judge.fits(self.now, key, quantity, priority, lent)

        return {
            key
            for key, quantity in takes.items()
            if not fits(key, quantity, order[0])
            or any(
                not fits(key, other.takes[key], other.order[0])
                for other in ahead
                if key in other.takes
            )
        }

    def enough(self, order: tuple[int, int], takes: dict[Key, int]) -> bool:
        """Whether there would be enough, were all back that is lent, for him and all ahead."""
        ahead = [other.takes for other in self.waiting.values() if other.order[0] <= order[0]]
        sums = {key: sum((o.get(key, 0) for o in ahead), takes[key]) for key in takes}
        return all(
            self.judge.fits(self.now, key, quantity, order[0], lent=False)
            for key, quantity in sums.items()
        )

    def held_up_by_the_dead(self, keys: set[Key]) -> bool:
        """Whether the dead, who answer no recall, hold something there."""
        return any(
            owner in self.dead and key in keys and desk.left + desk.used
            for (owner, key), desk in self.judge.desks.items()
        )

    # What the host does.

    def hear(self) -> None:
        """Check each late reply at its turn, and commit."""
        changes = self.limiter.take_changes()
        store(self.stored, changes.rows)
        for caller, id, reply in changes.results:
            if isinstance(reply, Recall):
                key, owner = (reply.limit, reply.subject), owner_of(caller)
                assert self.judge.desks[owner, key].left + self.judge.desks[owner, key].used
                assert (owner, key) not in self.recalls
                self.recalls[owner, key] = self.now
                self.quiet[key] = self.now + QUIET_NS
                continue
            ticket = self.waiting.pop(id)
            stopped = self.stopped(ticket.order, ticket.takes)
            if isinstance(reply, Admitted):
                assert reply.at_ns == self.now <= ticket.until + RECALL_NS
                assert not stopped
                self.judge.admit(self.now, id, ticket.caller, ticket.takes)
            else:
                assert isinstance(reply, Refused)
                assert ticket.until <= self.now
                slices_only = not self.stopped(ticket.order, ticket.takes, lent=False)
                assert not slices_only or self.held_up_by_the_dead(stopped)

    def advance(self) -> int | None:
        """As the host does, before and after each batch."""
        due = self.limiter.advance(self.now)
        self.hear()
        return due

    # Rules of all.

    @rule(span=st.integers(0, 60 * T), late=st.integers(0, 3))
    def pass_time(self, span: int, late: int) -> None:
        """The host comes when it was asked to, or a little late; recalls are answered."""
        end = self.now + span
        while True:
            due = self.advance()
            assert due is None or due > self.now
            answers = {
                place: at + ANSWERS[place[0]]
                for place, at in self.recalls.items()
                if place[0] not in self.dead
            }
            first = min(answers, key=lambda place: answers[place], default=None)
            if first is not None and answers[first] <= min(end, due or end):
                self.now = max(self.now, answers[first])
                self.advance()
                if first in self.recalls:
                    self.exchange(*first, report=True, back=10**6, more=0)
            elif due is not None and due <= end:
                latest = min(end, due + late, *answers.values())
                self.now = max(self.now, due, latest)
            else:
                break
        self.now = end
        self.advance()

    @rule()
    def restart(self) -> None:
        """The host is killed; its rows are all that is left."""
        self.hear()
        self.limiter = restarted(self.stored)
        # Which of its gates had a recall lately it remembers while the slices are out.
        self.quiet.clear()

    # Rules of those who ask directly.

    @rule(
        r=st.integers(0, 2),
        k=st.integers(0, 3),
        t=st.integers(0, 40),
        s=st.integers(0, 2),
        subject=st.sampled_from(["a", "a", "b"]),
        priority=st.sampled_from([0, 1, 1, 2]),
        wait=st.sampled_from([0, 0, 5 * T, 20 * T, 60 * T]),
        caller=st.sampled_from(["c", "o1.x", "o2.x", "o3.x"]),
    )
    def acquire(
        self, r: int, k: int, t: int, s: int, subject: str, priority: int, wait: int, caller: str
    ) -> None:
        """A request that falls under some of the limits."""
        self.advance()
        if owner_of(caller) in self.dead:
            return
        self.ids += 1
        id = str(self.ids)
        given = {("r", ""): r, ("k", subject): k, ("t", subject): t, ("s", subject): s}
        takes = {key: quantity for key, quantity in given.items() if quantity}
        asked = tuple(Take(*key, quantity) for key, quantity in takes.items())
        before = self.limiter.look(self.now, "c", asked)
        order = (priority, self.ids)
        stopped, enough = self.stopped(order, takes), self.enough(order, takes)
        reply = self.limiter.acquire(self.now, caller, id, asked, priority, wait)
        assert isinstance(reply, Admitted) == (not stopped)
        if isinstance(reply, Admitted):
            self.judge.admit(self.now, id, caller, takes)
            assert reply.states == self.limiter.look(self.now, "c", asked)
            assert self.limiter.acquire(self.now, "c", id, asked, 1, 0) == reply
        else:
            assert self.limiter.look(self.now, "c", asked) == before
        if isinstance(reply, Pending):
            assert reply.wait_ns is None or 0 <= reply.wait_ns <= wait
            self.waiting[id] = Waiting(caller, order, takes, self.now + wait)
        if isinstance(reply, Refused):
            assert reply.retry_after_ns is None or reply.retry_after_ns > wait or wait == 0
            assert not enough
        self.hear()

    @precondition(lambda self: self.judge.holds)
    @rule(data=st.data(), tokens=st.none() | st.integers(0, 60))
    def settle(self, data: st.DataObject, tokens: int | None) -> None:
        """The holder knows what it used; settling again changes nothing."""
        self.advance()
        if not self.judge.holds:
            return
        id = data.draw(st.sampled_from(sorted(self.judge.holds)))
        for _ in range(2):
            self.limiter.settle(self.now, "c", id, tokens)
        self.judge.end(self.now, id, tokens)
        self.hear()

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        """Of a hold, of a ticket, or of what never was; again changes nothing."""
        self.advance()
        known = sorted([*self.judge.holds, *self.waiting, "never"])
        id = data.draw(st.sampled_from(known))
        for _ in range(2):
            self.limiter.undo(self.now, "c", id)
        if id in self.judge.holds:
            self.judge.end(self.now, id, undo=True)
        self.waiting.pop(id, None)
        self.hear()

    # Rules of owners who borrow.

    @rule(
        owner=st.sampled_from(sorted(ANSWERS)),
        key=st.sampled_from(KEYS),
        report=st.booleans(),
        back=st.sampled_from([0, 0, 1, 10**6]),
        more=st.integers(0, 30),
    )
    def exchange(self, owner: str, key: Key, report: bool, back: int, more: int) -> None:
        """An owner reports (or not yet), returns, and wishes."""
        self.advance()
        if owner in self.dead:
            return
        desk = self.judge.desks.setdefault((owner, key), Desk())
        back = min(back, desk.left)
        used, takes, closes = 0, 0, []
        if report:
            used, takes = desk.used, len(desk.unreported)
            closes = [(mark, 1, units) for _, mark, units in desk.ended]
        wish = Wish(*key, used, takes, back, more, tuple(closes))
        self.ids += 1
        [lent] = self.limiter.exchange(self.now, f"{owner}.{self.ids}", (wish,))
        assert isinstance(lent, Lent)
        assert (lent.mark > 0) == (used > 0)
        desk.left -= back
        if report and key[0] != "s":
            self.judge.report(self.now, key, desk, lent.mark)
        self.check_lending(key, more, lent.granted)
        desk.left += lent.granted
        self.recalls.pop((owner, key), None)
        self.hear()

    def check_lending(self, key: Key, more: int, granted: int) -> None:
        """Never more than the rule leaves; that much, unless somebody waits or did lately."""
        may = min(more, self.judge.spare(self.now, key))
        if any(key in ticket.takes for ticket in self.waiting.values()):
            assert granted == 0
        elif self.now < self.quiet.get(key, 0):
            # A gate that was idle meanwhile may have been forgotten.
            assert granted in (0, may)
        else:
            assert granted == may

    @rule(data=st.data(), quantity=st.integers(1, 12))
    def spend(self, data: st.DataObject, quantity: int) -> None:
        """An owner admits somebody from its slice; the host hears of it later."""
        rich = [
            place
            for place, desk in sorted(self.judge.desks.items())
            if desk.left and place[0] not in self.dead and place[1][0] != "s"
        ]
        if not rich:
            return
        owner, key = data.draw(st.sampled_from(rich))
        desk = self.judge.desks[owner, key]
        quantity = min(quantity, desk.left)
        self.ids += 1
        desk.left -= quantity
        desk.unreported[str(self.ids)] = quantity
        self.judge.use(self.now, key, str(self.ids), quantity)

    @rule(data=st.data(), actual=st.integers(0, 15))
    def end_take(self, data: st.DataObject, actual: int) -> None:
        """A take turns out to have needed less, or more, than it took."""
        ends = [
            (place, id)
            for place, desk in sorted(self.judge.desks.items())
            if place[0] not in self.dead
            for id in sorted([*desk.unreported, *desk.open])
        ]
        if not ends:
            return
        (owner, key), id = data.draw(st.sampled_from(ends))
        desk = self.judge.desks[owner, key]
        if id in desk.open:
            mark, quantity = desk.open.pop(id)
            desk.ended.append((id, mark, quantity - actual))
        else:
            quantity = desk.unreported.pop(id)
            less = max(0, quantity - actual)
            desk.left += less
            desk.spent += quantity - less
            self.judge.shrink(key, id, less * self.judge.history(key).unit)

    @rule(owner=st.sampled_from(sorted(ANSWERS)))
    def die(self, owner: str) -> None:
        """What it used and did not report, nobody will."""
        self.dead.add(owner)

    @precondition(lambda self: self.dead)
    @rule(data=st.data(), lost=st.booleans())
    def bury(self, data: st.DataObject, lost: bool) -> None:
        """It is proven; its name is free for somebody else."""
        self.advance()
        owner = data.draw(st.sampled_from(sorted(self.dead)))
        tickets = [id for id, ticket in self.waiting.items() if owner_of(ticket.caller) == owner]
        for id in tickets:
            del self.waiting[id]
        ended = self.limiter.bury(self.now, "c", owner, lost)
        assert ended == self.judge.bury(self.now, owner) + len(tickets)
        assert owner not in self.limiter.owners()
        self.recalls = {place: at for place, at in self.recalls.items() if place[0] != owner}
        self.dead.discard(owner)
        self.hear()

    # What holds always.

    @invariant()
    def limits_stand_as_history_says(self) -> None:
        """I1, I7: what is left is exactly what was neither taken nor lent."""
        for key in KEYS:
            state = self.limiter.look(self.now, "c", (Take(*key, 0),))[0]
            lent = self.judge.lent(key)
            if key[0] == "s":
                free = LIMITS["s"]["burst"] - self.judge.slots_used(key) - lent
                assert state[4:] == (free, 0)
            else:
                assert state[4:] == self.judge.history(key).standing(self.now, lent), key

    @invariant()
    def nobody_waits_who_may_go(self) -> None:
        """I13, at every moment at which the host has looked.

        Where slices alone are in the way, a holder knows. (Not all of them need to: a limit
        may have closed to a ticket since it was looked at, by newcomers who passed it; it is
        looked at again when what is known to stop it has gone.)
        """
        self.advance()
        for ticket in self.waiting.values():
            assert ticket.until + RECALL_NS > self.now
            stopped = self.stopped(ticket.order, ticket.takes)
            assert stopped
            if not self.stopped(ticket.order, ticket.takes, lent=False):
                assert any(key in stopped for _, key in self.recalls)

    @invariant()
    def counts_are_right(self) -> None:
        """I12: the limiter knows of exactly the holds, slices and tickets that there are."""
        status = self.limiter.status(self.now, "c")
        known = {place: desk for place, desk in self.judge.desks.items() if desk.known}
        assert status["waiting"] == len(self.waiting)
        assert status["holds"] == len(self.judge.holds)
        assert status["slices"] == len(known)
        callers = [caller for caller, _ in self.judge.holds.values()]
        callers += [ticket.caller for ticket in self.waiting.values()]
        assert set(self.limiter.owners()) == {*map(owner_of, callers), *(o for o, _ in known)}

    def teardown(self) -> None:
        """I1 over all windows; I12: when all are done, nothing is left but the policy."""
        assert self.judge.excess() <= 0
        self.dead.clear()
        for owner, key in list(self.judge.desks):
            desk = self.judge.desks[owner, key]
            self.exchange(owner, key, report=True, back=10**6, more=0)
            desk.ended += [(id, mark, 0) for id, (mark, _) in desk.open.items()]
            desk.open.clear()
            self.exchange(owner, key, report=True, back=10**6, more=0)
        while everything := [*self.waiting, *self.judge.holds]:
            self.limiter.undo(self.now, "c", everything[0])
            if everything[0] in self.judge.holds:
                self.judge.end(self.now, everything[0], undo=True)
            self.waiting.pop(everything[0], None)
            self.hear()
        due = self.advance()
        while due is not None:
            self.now = due
            due = self.advance()
        assert set(self.limiter.owners()) == set()
        assert {table for table, _ in self.stored} <= {"policy"}
        assert self.judge.excess() <= 0


TestCallers = Callers.TestCase
