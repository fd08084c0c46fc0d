"""The rate limiter: one that was reloaded answers as the one that lived, from then on."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.limits import Admitted, Lent, Take, Wish
from actors.mechanism import Pending
from actors.rate_limiter import RateLimiter
from tests.actors.rate_limiter_world import S, requests, slots, tokens
from tests.actors.reloading import Twin

T = S // 4
LIMITS: list[list[Any]] = [
    [requests("r", 2, 6, debt=3), requests("k", 1, 4, scope="key"), tokens("t", 5, 20),
     slots("s", 3)],
    [requests("r", 4, 3), tokens("t", 5, 40), slots("s", 2)],
    [requests("k", 2, 8, scope="key"), requests("t", 2, 8), slots("s", 6)],
]  # fmt: skip
OWNERS = ["a", "b", "c"]
callers = st.sampled_from(["a.1", "a.2", "b.1", "c"])
takes = st.lists(
    st.builds(
        Take, st.sampled_from("rkts"), st.sampled_from(["", "x"]), st.sampled_from([0, 1, 2, 3, 9])
    ),
    min_size=1,
    max_size=3,
).map(tuple)


def hand_over(lived: RateLimiter, loaded: RateLimiter) -> None:
    """A restart lends at once where a recall was answered lately, and counts marks anew."""
    loaded._gates.number = lived._gates.number
    quiet = {(gate.limit.name, gate.subject): gate.quiet_ns for gate in lived._gates}
    for gate in loaded._gates:
        gate.quiet_ns = quiet.get((gate.limit.name, gate.subject), 0)


class Limiter(RuleBasedStateMachine):
    """Callers that ask, borrow, report wrongly, leave and die."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10 * S
        self.twin = Twin(lambda: RateLimiter(max_tickets=4), hand_over, ["buckets"])
        self.known: list[str] = ["never"]
        self.marks: list[tuple[str, str, int]] = []
        self.revision = 0
        self.configure(LIMITS[0])

    def do(self, command: str, *args: Any, by: str = "c") -> Any:
        return self.twin.do(self.now, command, *args, by=by)

    @rule(limits=st.sampled_from(LIMITS))
    def configure(self, limits: list[Any]) -> None:
        self.revision += 1
        self.do("configure", str(self.revision), {"limits": limits})

    @rule(
        takes=takes,
        priority=st.sampled_from([0, 1, 1, 1, 2, 3]),
        wait=st.sampled_from([0, T, 8 * T, 40 * T]),
        held=st.booleans(),
        by=callers,
        times=st.integers(1, 3),
    )
    def acquire(
        self, takes: Any, priority: int, wait: int, held: bool, by: str, times: int
    ) -> None:
        for _ in range(times):
            id = str(len(self.known))
            reply = self.do("acquire", id, takes, priority, wait, held, by=by)
            if isinstance(reply, Admitted | Pending):
                self.known.append(id)

    @rule(data=st.data(), by=callers)
    def acquire_again(self, data: st.DataObject, by: str) -> None:
        """A caller that heard no reply."""
        self.do("acquire", self.one(data), (Take("r", "", 1),), 1, 0, by=by)

    def one(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.known[-6:]))

    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        self.do("use", self.one(data))

    @rule(data=st.data(), tokens=st.none() | st.sampled_from([0, 1, 3, 30]))
    def settle(self, data: st.DataObject, tokens: int | None) -> None:
        self.do("settle", self.one(data), tokens)

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        self.do("undo", self.one(data))

    @rule(
        limit=st.sampled_from("rkts"),
        subject=st.sampled_from(["", "x"]),
        used=st.sampled_from([0, 0, 1, 3]),
        takes=st.integers(0, 2),
        back=st.sampled_from([0, 0, 1, 50]),
        more=st.sampled_from([0, 1, 5, 50]),
        by=callers,
    )
    def exchange(
        self, limit: str, subject: str, used: int, takes: int, back: int, more: int, by: str
    ) -> None:
        used, takes = (0, 0) if limit == "s" else (used, takes)
        reply = self.do("exchange", (Wish(limit, subject, used, takes, back, more, ()),), by=by)
        for lent in reply:
            if isinstance(lent, Lent) and lent.mark:
                self.marks.append((limit, subject, lent.mark))

    @precondition(lambda self: self.marks)
    @rule(data=st.data(), takes=st.integers(0, 2), units=st.integers(-2, 4), by=callers)
    def end_takes(self, data: st.DataObject, takes: int, units: int, by: str) -> None:
        """By whom it was lent, or by another who must not."""
        limit, subject, mark = data.draw(st.sampled_from(self.marks[-4:]))
        wish = Wish(limit, subject, 0, 0, 0, 0, ((mark, takes, units),))
        self.do("exchange", (wish,), by=by)

    @rule(owner=st.sampled_from(OWNERS), lost=st.booleans())
    def bury(self, owner: str, lost: bool) -> None:
        self.do("bury", owner, lost)

    @rule(steps=st.integers(1, 20))
    def wait(self, steps: int) -> None:
        self.now += steps * T
        self.twin.until(self.now)

    @rule(steps=st.integers(1, 20))
    def oversleep(self, steps: int) -> None:
        """The timer is late: the next command finds everything overdue."""
        self.now += steps * T

    @rule()
    def crash(self) -> None:
        self.twin.crash(self.now)

    @invariant()
    def they_stand_alike(self) -> None:
        """Each limit, and how many wait and hold."""
        asked = tuple(Take(limit, subject, 0) for limit in "rkts" for subject in ("", "x"))
        assert self.twin.lived.look(self.now, "c", asked) == self.twin.loaded.look(
            self.now, "c", asked
        )
        counts = [
            {name: each.status(self.now, "c")[name] for name in ("waiting", "holds", "slices")}
            for each in (self.twin.lived, self.twin.loaded)
        ]
        assert counts[0] == counts[1]


TestLimiter = Limiter.TestCase
TestLimiter.settings = settings(max_examples=settings.default.max_examples, stateful_step_count=40)
