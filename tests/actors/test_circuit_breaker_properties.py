import random
from typing import Any, NamedTuple

import msgpack
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from actors.circuit_breaker import (
    FAILURE,
    HALF_OPEN,
    IGNORED,
    OPEN,
    SUCCESS,
    THROTTLED,
    UNKNOWN,
    BreakerView,
    CircuitBreaker,
    Permit,
)
from actors.mechanism import Row

SECOND = 1_000_000_000
ME = "replica"
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

targets = st.sampled_from(["a", "a", "a", "b"])
outcomes = st.sampled_from([SUCCESS, SUCCESS, FAILURE, FAILURE, IGNORED, THROTTLED])
owners = st.sampled_from(["one", "two", "three"])
latencies = st.sampled_from([0, SECOND, 5 * SECOND])
retries = st.sampled_from([None, 0, SECOND, 4 * SECOND])
specs = st.fixed_dictionaries(
    {
        "failure_threshold": st.sampled_from([0, 2, 2]),
        "window": st.sampled_from(["time", "count"]),
        "window_ns": st.sampled_from([2 * SECOND, 10 * SECOND, 100 * SECOND]),
        "window_calls": st.integers(2, 6),
        "min_calls": st.integers(1, 4),
        "failure_rate": st.sampled_from([0, 0.5]),
        "slow_rate": st.sampled_from([0, 0.5]),
        "slow_ns": st.just(4 * SECOND),
        "recovery_ns": st.just(5 * SECOND),
        "recovery_cap_ns": st.just(15 * SECOND),
        "jitter": st.sampled_from([0, 0.5]),
        "half_open_max_ns": st.sampled_from([None, 3 * SECOND]),
    }
)


class Probe(NamedTuple):
    target: str
    id: str
    generation: int
    owner: str


class Breakers(RuleBasedStateMachine):
    """A cluster that asks, reports late, dies and restarts, with two witnesses beside it.

    `self.lived` is told the same and never dies. `self.out` holds the probes that are in
    flight: granted, not reported, and their owner is not buried. It knows nothing of states,
    generations or time.
    """

    MOST = 2
    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000 * SECOND
        self.rng = random.Random(0)
        self.breaker = CircuitBreaker(self.rng)
        self.lived = CircuitBreaker(random.Random(0))
        self.rows: dict[tuple[str, str], Any] = {}
        self.shown: set[str] = set()
        self.out: dict[str, Probe] = {}
        self.ids = 0
        self.revision = 0
        self.apply({"failure_threshold": 2, "recovery_ns": 5 * SECOND})

    def do(self, command: str, *args: Any, caller: str = ME) -> Any:
        """Give both breakers a command; what has lived and what was loaded answer the same."""
        both = (self.breaker, self.lived)
        replies = [getattr(at, command)(self.now, caller, *args) for at in both]
        assert replies[0] == replies[1]
        return replies[0]

    def view(self, name: str) -> BreakerView:
        views = [at.view(name, self.now) or UNKNOWN for at in (self.breaker, self.lived)]
        assert views[0] == views[1]
        return views[0]

    def apply(self, spec: dict[str, Any]) -> None:
        self.revision += 1
        policy = {"default": {**spec, "success_threshold": self.MOST}}
        self.do("configure", str(self.revision), policy)

    def keep(self) -> None:
        rows, _, views, _ = self.breaker.take_changes()
        for row in rows:
            packed = msgpack.packb(row.value)
            if row.value is None:
                self.rows.pop((row.table, row.key), None)
            else:
                self.rows[row.table, row.key] = packed
        self.shown |= views

    def loaded(self) -> CircuitBreaker:
        made = CircuitBreaker(self.rng)
        made.load(
            Row(table, key, msgpack.unpackb(packed)) for (table, key), packed in self.rows.items()
        )
        return made

    @rule(target=calls, name=targets, owner=owners)
    def ask(self, name: str, owner: str) -> Any:
        call = self.call(name, owner)
        return multiple() if call is None else call

    @rule(target=calls, name=targets, owner=owners, times=st.integers(1, 3))
    def ask_when_it_says(self, name: str, owner: str, times: int) -> Any:
        """Callers who come at the end of the wait, several at once."""
        self.pass_until(self.now + self.view(name).retry_after_ns)
        calls = [self.call(name, owner) for _ in range(times)]
        return multiple(*(call for call in calls if call is not None))

    @rule(name=targets)
    def outage(self, name: str) -> None:
        """Failures until the breaker has seen enough of them."""
        for _ in range(6):
            self.do("report", name, self.view(name).generation, FAILURE, 0, None, None)

    @rule(owner=owners)
    def bury(self, owner: str) -> None:
        """A process is found dead, or lost: what it held is back, and nothing else changes."""
        views = {name: self.view(name) for name in ("a", "b")}
        mine = [id for id, probe in self.out.items() if probe.owner == owner]
        assert self.do("bury", owner, bool(mine)) == len(mine)
        for id in mine:
            del self.out[id]
        assert {name: self.view(name) for name in views} == views

    def call(self, name: str, owner: str) -> Probe | None:
        self.ids += 1
        id, caller = f"p{self.ids}", f"{owner}.{self.ids}"
        reply = self.do("permit", id, name, caller=caller)
        if not isinstance(reply, Permit):
            assert reply.retry_after_ns > 0
            return None
        assert self.do("permit", id, name, caller=caller) == reply
        probe = Probe(name, id, reply.generation, owner)
        if reply.probe:
            self.out[id] = probe
        return probe

    @rule(call=consumes(calls), outcome=outcomes, latency=latencies, retry=retries)
    def report(self, call: Probe, outcome: str, latency: int, retry: int | None) -> None:
        self.end(call, outcome, latency, retry)

    @rule(call=calls, outcome=outcomes)
    def report_and_keep(self, call: Probe, outcome: str) -> None:
        """The same call may be reported again later: a repeat, or one of the buried."""
        self.end(call, outcome, 0, None)

    def end(self, call: Probe, outcome: str, latency: int, retry: int | None) -> None:
        view = self.view(call.target)
        held = self.out.pop(call.id, None)
        status = self.do("status")["targets"].get(call.target)
        self.do("report", call.target, call.generation, outcome, latency, call.id, retry)
        after = self.do("status")["targets"].get(call.target)
        late = view.state == HALF_OPEN and held is None
        if call.generation != view.generation or late:
            # A report out of its generation changes nothing but the place it gives back.
            assert self.view(call.target) == view
            if status is not None and after is not None:
                assert {**status, "probes": 0} == {**after, "probes": 0}
        assert self.view(call.target).resting_ns >= view.resting_ns, "a rest was cut short"

    @rule(name=targets, times=st.integers(1, 4), outcome=outcomes, retry=retries)
    def some_report(self, name: str, times: int, outcome: str, retry: int | None) -> None:
        self.report_by_view(name, times, outcome, retry)

    def report_by_view(self, name: str, times: int, outcome: str, retry: int | None) -> None:
        """Calls that went by the view of a closed breaker, without a permit."""
        for _ in range(times):
            before = self.view(name)
            self.do("report", name, before.generation, outcome, 0, None, retry)
            assert self.view(name).resting_ns >= before.resting_ns, "a rest was cut short"

    @rule(name=targets, first=retries, then=retries)
    def throttle(self, name: str, first: int | None, then: int | None) -> None:
        self.report_by_view(name, 1, THROTTLED, first)
        self.report_by_view(name, 1, THROTTLED, then)

    @rule(name=targets, action=st.sampled_from(["open", "closed", "reset", "reset"]))
    def force(self, name: str, action: str) -> None:
        self.do("force", name, action)

    @rule(spec=specs)
    def configure(self, spec: dict[str, Any]) -> None:
        self.apply(spec)

    @rule(pause=st.sampled_from([1, SECOND, 3 * SECOND, 6 * SECOND, 20 * SECOND]))
    def wait(self, pause: int) -> None:
        """Time passes as a host lets it pass: it calls `advance` whenever that asked for it."""
        self.pass_until(self.now + pause)

    @rule(pause=st.sampled_from([SECOND, 20 * SECOND]))
    def oversleep(self, pause: int) -> None:
        """Time passes and nobody calls `advance`: the next command must see to it."""
        self.now += pause
        self.do("status")

    def due(self) -> int | None:
        dues = [at.advance(self.now) for at in (self.breaker, self.lived)]
        assert dues[0] == dues[1]
        assert dues[0] is None or dues[0] > self.now, "advance asks for the past"
        return dues[0]

    def pass_until(self, end: int) -> None:
        while (due := self.due()) is not None and due <= end:
            self.now = due
        self.now = end
        self.due()

    @rule()
    def restart(self) -> None:
        """The singleton dies; a new one reads the rows of the last batch."""
        self.keep()
        self.breaker = self.loaded()

    @invariant()
    def i4_probes_are_counted(self) -> None:
        """At most `success_threshold` probes are in flight, of all generations together."""
        known = self.do("status")["targets"]
        for name in ("a", "b"):
            out = [probe for probe in self.out.values() if probe.target == name]
            assert len(out) <= self.MOST
            assert known.get(name, {"probes": 0})["probes"] == len(out)
        assert set(self.breaker.owners()) == {probe.owner for probe in self.out.values()}

    @invariant()
    def rows_are_the_state(self) -> None:
        """What was handed out in rows makes a breaker that shows and asks for the same."""
        self.keep()
        twin = self.loaded()
        assert twin.status(self.now, ME) == self.breaker.status(self.now, ME)
        assert set(twin.view_keys()) == set(self.breaker.view_keys())
        for key in twin.view_keys():
            assert twin.view(key, self.now) == self.view(key)
        assert twin.advance(self.now) == self.breaker.advance(self.now)
        assert twin.take_changes() == ([], [], set(), []), "loading is no change"

    def teardown(self) -> None:
        """I12: whatever happened, no probe is out when all owners are buried.

        And none is withheld: in the end every breaker lets a call go, unless it is forced open.
        """
        self.pass_until(self.now + 1_000 * SECOND)
        self.i4_probes_are_counted()
        for owner in ("one", "two", "three"):
            self.bury(owner)
        known = self.do("status")["targets"]
        assert [at["probes"] for at in known.values()] == [0] * len(known)
        assert not self.out
        for name, at in known.items():
            reply = self.do("permit", "last", name)
            assert isinstance(reply, Permit) == (at["state"] != "forced_open")
            if isinstance(reply, Permit):
                assert reply.probe == (at["state"] in (OPEN, HALF_OPEN))


TestBreakers = Breakers.TestCase
TestBreakers.settings = settings(PATIENT, max_examples=120, stateful_step_count=50)


class ViewsTell(Breakers):
    """The same cluster, seen by a watcher that only hears of changed views."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[str, tuple[BreakerView, int]] = {}

    def rows_are_the_state(self) -> None:
        """Not looked at here: the changes go to the watcher."""

    @invariant()
    def a_watcher_knows_the_views(self) -> None:
        """A view that was not announced is the one known before, but for the time gone by."""
        self.keep()
        self.watched |= {key: (self.view(key), self.now) for key in self.shown}
        self.shown.clear()
        for key in self.breaker.view_keys():
            known, at = self.watched.get(key, (UNKNOWN, self.now))
            view = self.view(key)
            assert (known.state, known.generation) == (view.state, view.generation)
            assert max(0, known.resting_ns - (self.now - at)) == view.resting_ns
            if known.state != "forced_open":
                assert max(0, known.retry_after_ns - (self.now - at)) == view.retry_after_ns


TestViews = ViewsTell.TestCase
TestViews.settings = settings(PATIENT, max_examples=60, stateful_step_count=30)
