"""Circuit breakers for the whole cluster, one per target (provider and model).

Callers look at the view of a target, and ask for a permit only where it is open with its
wait over, or half-open. Every outcome is reported here, so that one window and one count
of probes hold for all replicas.
"""

import random
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal

from actors.breaker_messages import (
    CLOSED,
    FAILURE,
    FORCED_CLOSED,
    FORCED_OPEN,
    HALF_OPEN,
    IGNORED,
    OPEN,
    OUTCOMES,
    SUCCESS,
    THROTTLED,
    Barred,
    BreakerView,
    Permit,
)
from actors.breaker_policy import BreakerPolicy
from actors.breaker_target import BreakerTarget
from actors.errors import Conflict, InvalidRequest, Overloaded
from actors.mechanism import Bookkeeping, Changes, Row, owner_of

__all__ = [
    "CLOSED",
    "FAILURE",
    "FORCED_CLOSED",
    "FORCED_OPEN",
    "HALF_OPEN",
    "IGNORED",
    "MAX_TARGETS",
    "OPEN",
    "OUTCOMES",
    "SUCCESS",
    "THROTTLED",
    "UNKNOWN",
    "Barred",
    "BreakerView",
    "CircuitBreaker",
    "Permit",
]

MAX_TARGETS = 1000
UNKNOWN = BreakerView(CLOSED, 0, 0, 0)
"""What holds for a target without a view entry."""


class CircuitBreaker(Bookkeeping):
    """See `Mechanism` and the module's docstring.

    A target is known from its first outcome on; at MAX_TARGETS the closed one that has been
    quiet for longest makes room. View entries are `BreakerView`s by target.
    rng: source of the jitter.
    """

    NAME: ClassVar[str] = "circuit_breaker"
    DURABLE: ClassVar[bool] = False
    MIRRORED: ClassVar[bool] = True
    CLOCK: ClassVar[Literal["steady", "wall"]] = "steady"
    TABLES: ClassVar[Mapping[str, Literal["live", "archive"]]] = {
        "settings": "live",
        "targets": "live",
    }
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"configure", "permit", "report", "force", "bury", "status"}
    )
    READS: ClassVar[frozenset[str]] = frozenset({"status"})

    def __init__(self, rng: random.Random | None = None) -> None:
        super().__init__()
        self._random = rng or random.Random()
        self._revision: str | None = None
        self._policy = BreakerPolicy({}, MAX_TARGETS)
        self._targets: dict[str, BreakerTarget] = {}
        self._timed: set[str] = set()
        self._changed: set[str] = set()
        # One counter for all targets: a forgotten one that comes back repeats no number.
        self._generation = 0

    def load(self, rows: Iterable[Row]) -> None:
        """See `Mechanism`."""
        stored = list(rows)
        for row in stored:
            if (row.table, row.key) == ("settings", "policy"):
                self._revision, policy = row.value
                self._policy = BreakerPolicy(policy, MAX_TARGETS)
            elif (row.table, row.key) == ("settings", "generation"):
                self._generation = row.value
        for row in stored:
            if row.table == "targets":
                target = self._new(row.key)
                target.restore(row.value)
                self._targets[row.key] = target
                if target.due() is not None:
                    self._timed.add(row.key)

    def advance(self, now: int) -> int | None:
        """See `Mechanism`: ends half-open states that are past their time."""
        for name in sorted(self._timed):
            target, face = self._present(name, now)
            self._note(name, target, face, now)
        dues = (self._targets[name].due() for name in self._timed)
        return min((due for due in dues if due is not None), default=None)

    def take_changes(self) -> Changes:
        """See `Mechanism`. A target is one row, written once per batch."""
        for name in self._changed:
            self.put("targets", name, self._targets[name].row())
        self._changed = set()
        return super().take_changes()

    def view(self, key: str, now: int) -> BreakerView | None:
        """See `Mechanism`; None: the target is unknown, and so as `UNKNOWN` says."""
        target = self._targets.get(key)
        return None if target is None else target.view(now)

    def view_keys(self) -> Iterable[str]:
        """See `Mechanism`."""
        return list(self._targets)

    def configure(self, now: int, caller: str, revision: str, policy: dict[str, Any]) -> None:
        """Put a policy in force (see `BreakerPolicy`); the revision in force is a no-op.

        States, counts, waits and probes stay. Raises InvalidRequest and changes nothing
        when the policy is not valid.
        """
        if revision == self._revision:
            return
        self._policy = BreakerPolicy(policy, MAX_TARGETS)
        self._revision = revision
        self.put("settings", "policy", [revision, self._policy.stored()])
        for name in list(self._targets):
            target, face = self._present(name, now)
            target.configure(self._policy.spec(name))
            self._note(name, target, face, now)

    def permit(self, now: int, caller: str, permit_id: str, target: str) -> Permit | Barred:
        """Ask whether one call to the target may go.

        permit_id: the caller's name for the hold, should it become a probe: it is the
            caller's owner's until it is reported.
        """
        if target not in self._targets:
            return Permit(UNKNOWN.generation, False)
        found, face = self._present(target, now)
        reply = found.permit(now, permit_id, owner_of(caller))
        self._note(target, found, face, now)
        return reply

    def report(
        self,
        now: int,
        caller: str,
        target: str,
        generation: int,
        outcome: str,
        latency_ns: int,
        permit_id: str | None = None,
        retry_after_ns: int | None = None,
    ) -> None:
        """Say how a call ended, and give back its probe, if it had one.

        Safe to repeat for a probe, and for one that was never given.
        generation: the permit's, or that of the view under which the call went.
        outcome: SUCCESS; FAILURE; IGNORED (says nothing about the target); THROTTLED (it
            rests for `retry_after_ns`; a rest is never cut short by a later report).
        latency_ns: until the first token; 0: there was none.
        """
        if outcome not in OUTCOMES:
            message = f"outcome: {outcome!r} found, must be one of {', '.join(sorted(OUTCOMES))}"
            raise InvalidRequest(message, param="outcome")
        if target not in self._targets:
            silent = outcome == IGNORED or (outcome == THROTTLED and (retry_after_ns or 0) <= 0)
            if silent or generation != UNKNOWN.generation:
                return
        found, face = self._present(target, now)
        found.report(now, generation, outcome, latency_ns, permit_id, retry_after_ns)
        self._note(target, found, face, now)

    def force(self, now: int, caller: str, target: str, action: str) -> BreakerView:
        """By an operator: "open" or "closed" holds until "reset". Returns the new view.

        A reset also forgets counts, waits and rest; probes that are out stay held.
        Raises Conflict for "half_open": only a breaker that has been open may probe.
        """
        if action == HALF_OPEN:
            message = "A breaker becomes half-open by itself, when it has been open long enough."
            raise Conflict(message, code="breaker_not_open")
        if action not in ("open", "closed", "reset"):
            message = f"action: {action!r} found, must be open, closed or reset"
            raise InvalidRequest(message, param="action")
        if action == "reset" and target not in self._targets:
            return UNKNOWN
        found, face = self._present(target, now)
        if action == "reset":
            found.reset()
        else:
            found.force(FORCED_OPEN if action == "open" else FORCED_CLOSED)
        self._note(target, found, face, now)
        return found.view(now)

    def owners(self) -> Collection[str]:
        """See `Mechanism`: whose probes are out."""
        return set[str]().union(*(target.owners() for target in self._targets.values()))

    def bury(self, now: int, caller: str, owner: str, lost: bool) -> int:
        """Take a dead owner's probes as given back: they say nothing about their targets."""
        ended = 0
        for name in list(self._targets):
            target, face = self._present(name, now)
            ended += target.bury(owner)
            self._note(name, target, face, now)
        return ended

    def status(self, now: int, caller: str) -> dict[str, Any]:
        """`{"targets": {target: ...}}`, each as `BreakerTarget.status` says."""
        self.advance(now)
        return {"targets": {name: target.status(now) for name, target in self._targets.items()}}

    def _present(self, name: str, now: int) -> tuple[BreakerTarget, tuple[str, int, int]]:
        """A target brought up to `now`, and the face that it had before."""
        target = self._targets.get(name)
        if target is None:
            if len(self._targets) >= MAX_TARGETS:
                self._forget_one(now)
            target = self._targets[name] = self._new(name)
            target.changed = True
        face = target.face
        target.tick(now)
        return target, face

    def _note(self, name: str, target: BreakerTarget, face: tuple[str, int, int], now: int) -> None:
        """Remember what a command did to a target."""
        if target.changed:
            target.changed = False
            target.touched_ns = now
            self._changed.add(name)
        if target.due() is None:
            self._timed.discard(name)
        else:
            self._timed.add(name)
        if target.face != face:
            self.show(name)

    def _new(self, name: str) -> BreakerTarget:
        return BreakerTarget(self._policy.spec(name), self._mint, self._random)

    def _mint(self) -> int:
        self._generation += 1
        self.put("settings", "generation", self._generation)
        return self._generation

    def _forget_one(self, now: int) -> None:
        quiet = [(t.touched_ns, name) for name, t in self._targets.items() if t.forgettable(now)]
        if not quiet:
            message = f"All {MAX_TARGETS} circuit breakers are open, forced or resting."
            raise Overloaded(message, retry_after_s=1.0)
        _, name = min(quiet)
        del self._targets[name]
        self._changed.discard(name)
        self.drop("targets", name)
        self.show(name)
