"""Random callers against a limiter that restarts, judged by buckets that keep all history."""

from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.limits import HIGH, Admitted, Refused, Take
from actors.mechanism import Pending
from actors.rate_limiter import RateLimiter
from tests.actors.rate_limiter_history import History
from tests.actors.rate_limiter_world import restarted, store

# Nanoseconds are seconds here, so that nothing divides evenly; debt only counts for requests.
LIMITS: dict[str, dict[str, Any]] = {
    "r": {"scope": "cluster", "unit": "requests", "rate": 3, "period_ns": 7, "burst": 4, "debt": 2},
    "k": {"scope": "key", "unit": "requests", "rate": 1, "period_ns": 5, "burst": 2, "debt": 0},
    "t": {"scope": "team", "unit": "tokens", "rate": 7, "period_ns": 3, "burst": 40},
    "s": {"scope": "key", "unit": "concurrent", "burst": 2},
}
POLICY = {"limits": [{"name": name, **fields} for name, fields in LIMITS.items()]}
Key = tuple[str, str]


class Waiting(NamedTuple):
    """A ticket as its holder knows it."""

    order: tuple[int, int]
    takes: dict[Key, int]
    deadline: int


class Judge:
    """What limits have given, by their whole history; slots by their holders."""

    def __init__(self) -> None:
        self.histories: dict[Key, History] = {}
        self.holds: dict[str, tuple[int, dict[Key, int]]] = {}

    def history(self, key: Key) -> History:
        """The history of a bucket."""
        spec = LIMITS[key[0]]
        fields = (spec["rate"], spec["period_ns"], spec["burst"], spec.get("debt", 0))
        return self.histories.setdefault(key, History(*fields))

    def slots_used(self, key: Key) -> int:
        """How many slots are taken."""
        return sum(takes.get(key, 0) for _, takes in self.holds.values())

    def fits(self, now: int, key: Key, quantity: int, priority: int) -> bool:
        """Whether this limit would give so much."""
        if key[0] == "s":
            return self.slots_used(key) + quantity <= LIMITS["s"]["burst"]
        return self.history(key).fits(now, quantity, priority == HIGH)

    def admit(self, now: int, id: str, takes: dict[Key, int], ends: int) -> None:
        """Debit all."""
        self.holds[id] = (ends, takes)
        for key, quantity in takes.items():
            if key[0] != "s":
                self.history(key).take(now, quantity, id)

    def end(self, now: int, id: str, tokens: int | None = None, undo: bool = False) -> None:
        """Give back."""
        for key, quantity in self.holds.pop(id)[1].items():
            if undo and key[0] != "s":
                self.history(key).give_back(now, id, quantity)
            elif key[0] == "t" and tokens is not None:
                self.history(key).give_back(now, id, quantity - tokens)


class Callers(RuleBasedStateMachine):
    """I1, I7, I11, I12, I13, and load(rows) equal to the state that lived."""

    def __init__(self) -> None:
        super().__init__()
        self.limiter = RateLimiter()
        self.stored: dict[tuple[str, str], bytes] = {}
        self.judge = Judge()
        self.waiting: dict[str, Waiting] = {}
        self.lifetimes: dict[str, int] = {}
        self.now = 0
        self.ids = 0

    @initialize()
    def configure(self) -> None:
        self.limiter.configure(0, "c", "1", POLICY)

    def may_go(self, order: tuple[int, int], takes: dict[Key, int]) -> bool:
        """The rule of turns: all limits allow, and none refuses somebody ahead."""
        ahead = [other for other in self.waiting.values() if other.order < order]
        return all(
            self.judge.fits(self.now, key, quantity, order[0])
            and all(
                self.judge.fits(self.now, key, other.takes[key], other.order[0])
                for other in ahead
                if key in other.takes
            )
            for key, quantity in takes.items()
        )

    def hear(self) -> None:
        """Check each late reply at its turn, and commit."""
        changes = self.limiter.take_changes()
        store(self.stored, changes.rows)
        for _, id, reply in changes.results:
            ticket = self.waiting.pop(id)
            if isinstance(reply, Admitted):
                assert reply.at_ns == self.now <= ticket.deadline
                assert self.may_go(ticket.order, ticket.takes)
                self.judge.admit(self.now, id, ticket.takes, self.now + self.lifetimes[id])
            else:
                assert isinstance(reply, Refused)
                assert self.now >= ticket.deadline

    def advance(self) -> int | None:
        """As the host does, before and after each batch."""
        for id in [id for id, (ends, _) in self.judge.holds.items() if ends <= self.now]:
            self.judge.end(self.now, id)
        due = self.limiter.advance(self.now)
        self.hear()
        return due

    @rule(span=st.integers(0, 60), late=st.integers(0, 3))
    def pass_time(self, span: int, late: int) -> None:
        """The host comes when it was asked to, or a little late."""
        end = self.now + span
        due = self.advance()
        while due is not None and due <= end:
            self.now = max(self.now, min(end, due + late))
            due = self.advance()
            assert due is None or due > self.now
        self.now = end
        self.advance()

    @rule(
        r=st.integers(0, 1),
        k=st.integers(0, 2),
        t=st.integers(0, 40),
        s=st.integers(0, 1),
        subject=st.sampled_from(["a", "b"]),
        priority=st.sampled_from([0, 1, 1, 2]),
        wait=st.sampled_from([0, 5, 20, 60]),
        lifetime=st.sampled_from([10, 10**6]),
    )
    def acquire(
        self,
        r: int,
        k: int,
        t: int,
        s: int,
        subject: str,
        priority: int,
        wait: int,
        lifetime: int,
    ) -> None:
        """A request that falls under some of the limits."""
        self.advance()
        self.ids += 1
        id = str(self.ids)
        given = {("r", ""): r, ("k", subject): k, ("t", subject): t, ("s", subject): s}
        takes = {key: quantity for key, quantity in given.items() if quantity}
        asked = tuple(Take(*key, quantity) for key, quantity in takes.items())
        before = self.limiter.look(self.now, "c", asked)
        reply = self.limiter.acquire(self.now, "c", id, asked, priority, wait, lifetime)
        may_go = self.may_go((priority, self.ids), takes)
        assert isinstance(reply, Admitted) == may_go
        if isinstance(reply, Admitted):
            self.judge.admit(self.now, id, takes, self.now + lifetime)
            assert reply.states == self.limiter.look(self.now, "c", asked)
        else:
            assert self.limiter.look(self.now, "c", asked) == before
        if isinstance(reply, Pending):
            assert reply.wait_ns is None or 0 < reply.wait_ns <= wait
            self.waiting[id] = Waiting((priority, self.ids), takes, self.now + wait)
            self.lifetimes[id] = lifetime
        if isinstance(reply, Refused):
            assert reply.retry_after_ns is None or reply.retry_after_ns > wait or wait == 0
        if isinstance(reply, Admitted):
            assert self.limiter.acquire(self.now, "c", id, asked, 1, 0, 1) == reply
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

    @rule()
    def restart(self) -> None:
        """The host is killed; its rows are all that is left."""
        self.hear()
        self.limiter = restarted(self.stored)

    @invariant()
    def limits_stand_as_history_says(self) -> None:
        """I1, I7: what is left is exactly what was not taken."""
        for key, history in self.judge.histories.items():
            state = self.limiter.look(self.now, "c", (Take(*key, 0),))[0]
            assert (state.remaining, state.reset_ns) == history.standing(self.now), key

    @invariant()
    def nobody_waits_who_may_go(self) -> None:
        """I13, at every moment at which the host has looked."""
        self.advance()
        for ticket in self.waiting.values():
            assert ticket.deadline > self.now
            assert not self.may_go(ticket.order, ticket.takes)

    @invariant()
    def counts_are_right(self) -> None:
        """I12: the limiter knows of exactly the holds and tickets that there are."""
        status = self.limiter.status(self.now, "c")
        assert status["waiting"] == len(self.waiting)
        assert status["holds"] == len(self.judge.holds)

    def teardown(self) -> None:
        """I1 over all windows; I12: when all are done, nothing is left but the policy."""
        for history in self.judge.histories.values():
            assert history.excess() <= 0
        self.hear()
        for id in [*self.waiting, *self.judge.holds]:
            self.limiter.undo(self.now, "c", id)
        due = self.limiter.advance(self.now)
        while due is not None:
            due = self.limiter.advance(due)
        # Some that were waiting may have been admitted by the undoing of others.
        changes = self.limiter.take_changes()
        store(self.stored, changes.rows)
        assert self.limiter.status(self.now, "c")["waiting"] == 0
        assert self.limiter.status(self.now, "c")["holds"] == 0
        assert {table for table, _ in self.stored} <= {"policy"}


TestCallers = Callers.TestCase
