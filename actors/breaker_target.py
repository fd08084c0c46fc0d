"""The circuit breaker of one target: its states, its probes and its rest.

    closed ──failures or slowness──> open ──wait over, first permit──> half_open
      ^                               ^                                    │
      │                               └──bad probes, or half-open too long─┤
      └──────────────────────────────good probes──────────────────────────-┘

Each change of state begins a new generation, so that calls which started before it
cannot decide what comes after it (after gobreaker). `forced_open` and `forced_closed`
are left by a reset only. A probe ends by its report, or with its owner: time does not tell
whether a call is still in flight.
"""

import random
from collections.abc import Callable
from typing import Any

from actors.breaker_messages import (
    CLOSED,
    FAILURE,
    FORCED_CLOSED,
    FORCED_OPEN,
    HALF_OPEN,
    IGNORED,
    OPEN,
    THROTTLED,
    Barred,
    BreakerView,
    Permit,
)
from actors.breaker_policy import BreakerSpec
from actors.outcome_window import OutcomeWindow, carry_over, window_from_row

_LATEST_NS = 2**62
_PROBES_BUSY_NS = 1_000_000_000


class BreakerTarget:
    """State machine of one target. All times are nanoseconds of one clock.

    mint: gives the number of a new generation, never the same twice.
    changed: whether the row differs from the one handed out last; the owner clears it.
    """

    __slots__ = (
        "_half_open_since",
        "_mint",
        "_nominal_ns",
        "_open_until",
        "_probes",
        "_random",
        "_rest_until",
        "_spec",
        "_streak",
        "_window",
        "changed",
        "generation",
        "state",
        "touched_ns",
    )

    def __init__(self, spec: BreakerSpec, mint: Callable[[], int], rng: random.Random) -> None:
        self._spec = spec
        self._mint = mint
        self._random = rng
        self.state = CLOSED
        self.generation = 0
        self.touched_ns = 0
        self.changed = False
        self._streak = 0
        self._nominal_ns = 0
        self._open_until = 0
        self._half_open_since = 0
        self._rest_until = 0
        self._window: OutcomeWindow = spec.closed_window()
        self._probes: dict[str, tuple[int, str]] = {}

    @property
    def face(self) -> tuple[str, int, int]:
        """What a view shows, without the passing of time: when it differs, so does the view."""
        return (self.state, self.generation, self._rest_until)

    def due(self) -> int | None:
        """When `tick` has something to do next; None: not before the next command."""
        if self.state != HALF_OPEN or self._spec.half_open_max_ns is None:
            return None
        return self._half_open_since + self._spec.half_open_max_ns

    def tick(self, now: int) -> None:
        """End a half-open state that took too long."""
        due = self.due()
        if due is not None and due <= now:
            self._open(due)

    def owners(self) -> set[str]:
        """Whose probes are out."""
        return {owner for _, owner in self._probes.values()}

    def bury(self, owner: str) -> int:
        """Take an owner's probes as given back, and say how many there were."""
        dead = [id for id, (_, holder) in self._probes.items() if holder == owner]
        for permit_id in dead:
            del self._probes[permit_id]
        if dead:
            self.changed = True
        return len(dead)

    def permit(self, now: int, permit_id: str, owner: str) -> Permit | Barred:
        """Ask whether one call may go; asking again with a held probe's id changes nothing."""
        held = self._probes.get(permit_id)
        if held is not None:
            return Permit(held[0], True)
        wait_ns = self._wait_ns(now)
        if wait_ns:
            return Barred(self.state, wait_ns)
        if self.state in (CLOSED, FORCED_CLOSED):
            return Permit(self.generation, False)
        # Probes of earlier generations that are still out burden the provider as well.
        if len(self._probes) >= self._spec.success_threshold:
            return Barred(self.state, _PROBES_BUSY_NS)
        if self.state == OPEN:
            self._enter(HALF_OPEN, self._spec.probe_window())
            self._half_open_since = now
        self._probes[permit_id] = (self.generation, owner)
        self.changed = True
        return Permit(self.generation, True)

    def report(
        self,
        now: int,
        generation: int,
        outcome: str,
        latency_ns: int,
        permit_id: str | None,
        retry_after_ns: int | None,
    ) -> None:
        """Give back a probe, and count the outcome if it belongs to this generation.

        In a half-open breaker only the outcome of a probe that is still held counts: a
        repeated report, or one after its owner's burial, changes nothing.
        """
        held = self._probes.pop(permit_id, None) if permit_id is not None else None
        if held is not None:
            self.changed = True
        if generation != self.generation or (held is not None and held[0] != self.generation):
            return
        if self.state not in (CLOSED, FORCED_CLOSED) and held is None:
            return
        if outcome == THROTTLED:
            self._rest(now, retry_after_ns or 0)
        elif outcome != IGNORED:
            self._count(now, outcome == FAILURE, latency_ns > self._spec.slow_ns)

    def force(self, state: str) -> None:
        """Hold the breaker in FORCED_OPEN or FORCED_CLOSED."""
        if self.state != state:
            self._nominal_ns = 0
            self._enter(state, self._spec.closed_window())

    def reset(self) -> None:
        """Make it closed with nothing counted and no rest. Probes that are out stay held."""
        self._rest_until = 0
        self._close()

    def configure(self, spec: BreakerSpec) -> None:
        """Go on under another specification.

        What was counted stays, where the window is of the same kind; a wait that has begun
        stays as it is.
        """
        self._spec = spec
        if self.state == OPEN:
            return
        fresh = spec.probe_window() if self.state == HALF_OPEN else spec.closed_window()
        if fresh.shape != self._window.shape:
            self._window = carry_over(self._window, fresh)
            self.changed = True

    def forgettable(self, now: int) -> bool:
        """Whether nothing but recent counts would be lost with it."""
        return self.state == CLOSED and not self._probes and self._rest_until <= now

    def view(self, now: int) -> BreakerView:
        """What callers see of it."""
        resting_ns = max(0, self._rest_until - now)
        return BreakerView(self.state, self.generation, self._wait_ns(now), resting_ns)

    def status(self, now: int) -> dict[str, Any]:
        """For health and operators: counts and rates of the window (None: too few calls).

        An open breaker shows what opened it.
        """
        counts = self._window.counts(now)
        rates = counts.rates(self._window.min_calls)
        return {
            "state": self.state,
            "failure_count": counts.failures,
            "success_count": counts.calls - counts.failures,
            "generation": self.generation,
            "failure_rate": None if rates is None else rates.failure,
            "slow_rate": None if rates is None else rates.slow,
            "retry_after_ns": self._wait_ns(now),
            "probes": len(self._probes),
        }

    def row(self) -> list[Any]:
        """All of it as plain values, for `restore`."""
        return [
            self.state,
            self.generation,
            self.touched_ns,
            self._streak,
            self._nominal_ns,
            self._open_until,
            self._half_open_since,
            self._rest_until,
            self._window.row(),
            [[permit_id, *held] for permit_id, held in self._probes.items()],
        ]

    def restore(self, row: list[Any]) -> None:
        """Take the state that `row()` gave."""
        (
            self.state,
            self.generation,
            self.touched_ns,
            self._streak,
            self._nominal_ns,
            self._open_until,
            self._half_open_since,
            self._rest_until,
            window,
            probes,
        ) = row
        self._window = window_from_row(window)
        self._probes = {permit_id: (generation, owner) for permit_id, generation, owner in probes}

    def _wait_ns(self, now: int) -> int:
        until = self._rest_until
        if self.state == FORCED_OPEN:
            # Nobody knows when an operator comes back: a usual wait is a fair hint.
            until = max(until, now + self._spec.recovery_ns)
        elif self.state == OPEN:
            until = max(until, self._open_until)
        return max(0, until - now)

    def _rest(self, now: int, retry_after_ns: int) -> None:
        until = min(now + retry_after_ns, _LATEST_NS)
        if until > max(now, self._rest_until):
            self._rest_until = until
            self.changed = True

    def _count(self, now: int, failed: bool, slow: bool) -> None:
        self._window.add(now, failed, slow)
        self.changed = True
        self._streak = self._streak + 1 if failed else 0
        if self.state == FORCED_CLOSED:
            return
        counts = self._window.counts(now)
        # One failed probe is proof enough for the rule that counts in a row; the rates
        # wait for all of them.
        streak_limit = self._spec.failure_threshold if self.state == CLOSED else 1
        in_a_row = self._spec.failure_threshold > 0 and self._streak >= streak_limit
        rates = counts.rates(self._window.min_calls)
        if in_a_row or (
            rates is not None
            and (
                0 < self._spec.failure_rate <= rates.failure
                or 0 < self._spec.slow_rate <= rates.slow
            )
        ):
            self._open(now)
        elif self.state == HALF_OPEN and counts.calls >= self._spec.success_threshold:
            self._close()

    def _open(self, now: int) -> None:
        spec = self._spec
        if self._nominal_ns == 0:
            self._nominal_ns = wait_ns = spec.recovery_ns
        else:
            grown = max(spec.recovery_ns, int(self._nominal_ns * spec.recovery_factor))
            cap = max(spec.recovery_ns, spec.recovery_cap_ns)
            self._nominal_ns = min(cap, grown)
            off = int(self._nominal_ns * spec.jitter * self._random.random())
            wait_ns = max(spec.recovery_ns, self._nominal_ns - off)
        self._open_until = now + wait_ns
        self._enter(OPEN, self._window)

    def _close(self) -> None:
        self._nominal_ns = 0
        self._enter(CLOSED, self._spec.closed_window())

    def _enter(self, state: str, window: OutcomeWindow) -> None:
        self.state = state
        self.generation = self._mint()
        self._streak = 0
        self._window = window
        self.changed = True
