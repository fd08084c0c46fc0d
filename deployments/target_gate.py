"""How many calls one target is given at a time: about twice what it works on, and no more.

A provider that is given more than it can do keeps the rest waiting: no more is answered, and
everything takes longer. That calls take longer says little by itself, for models have slow days.
What tells a queue from slowness is what happens when a target is given less: a queue gets
shorter, slowness stays. So a gate that sees calls take more than twice their time lets in less,
soon lets in less still for a moment, and then either holds the target to what it was found to do,
or believes in the new pace and stands open again.

The gradient (the time of a call without a queue, over its time now; by Little's law that is
what the target works on, over what it has been given) is that of Netflix's concurrency-limits
and Envoy's adaptive concurrency; giving less every now and then to see the time without a queue
is BBR's (Cardwell et al., 2016).
"""

import math
import random
from collections.abc import Callable
from math import inf

from deployments.gate_windows import GAIN, Sums, Trial, Window
from deployments.usual_time import UsualTimes

HIGH, NORMAL, LOW = 0, 1, 2

_LEAST = 8
_FORGET_S = 600.0
_RUNG = (1.15, 1.0, 0.85)
_MOST_AFTER_S = 30.0


class Gate:
    """One target's gate at one replica. Times are seconds on a clock that never goes back.

    most: calls at once, whatever they tell.
    ahead_s: what is to be added to `now` for a clock that replicas share: they let in less at
        the same moments, or none would see that it helps.
    limit: how many calls of normal priority there may be now; low may use 85 % of it, high
        115 %. in_flight: how many there are.
    """

    __slots__ = (
        "_ahead_s", "_dice", "_done", "_floor", "_last", "_mean_s", "_refused", "_refused_at",
        "_second", "_sums", "_trial", "_trial_at", "_unit_s", "_usual", "_widest", "in_flight",
        "limit",
    )  # fmt: skip

    def __init__(
        self, most: int, ahead_s: float = 0.0, dice: Callable[[], float] = random.random
    ) -> None:
        self._widest = most / _RUNG[HIGH]
        self.limit = self._widest
        self.in_flight = 0
        self._ahead_s = ahead_s
        self._dice = dice
        self._usual = UsualTimes()
        self._sums = Sums(-inf)
        self._last = Window(0.0, 0.0)
        self._mean_s = 0.0
        self._unit_s = 1.0
        # 0 once it was seen that less given means less waiting: until then at most half is cut.
        self._floor = 0.0
        self._refused_at = -inf
        self._trial: Trial | None = None
        self._trial_at = inf
        # Of this second and the last one: how many were refused, and how many ended.
        self._second = 0
        self._refused, self._done = [0, 0], [0, 0]

    @property
    def open(self) -> bool:
        """Whether the target has shown no limit of its own."""
        return self.limit >= self._widest

    def refuses(self, priority: int, now: float) -> float | None:
        """None where one more call may begin; else seconds after which to come back.

        The seconds are what the target would need for all who were refused of late.
        """
        if now >= self._trial_at:
            self._try_less(now)
        if self.in_flight < self.limit * _RUNG[priority]:
            return None
        self._turn(now)
        self._refused[1] += 1
        self._refused_at = now
        if self._trial is not None and now >= self._trial.over_at:
            self._end_trial(now)
        after_s = sum(self._refused) / max(sum(self._done), 1)
        return min(max(after_s, 1.0), _MOST_AFTER_S) * (0.75 + 0.5 * self._dice())

    def enter(self) -> int:
        """A call begins, for which exactly one `leave` is owed; among how many it does."""
        self.in_flight += 1
        return self.in_flight

    def leave(self, now: float) -> None:
        """A call has ended, however it did."""
        self.in_flight -= 1
        self._turn(now)
        self._done[1] += 1

    def answered(self, kind: int, among: int, began: float, first_s: float, now: float) -> None:
        """A call that was answered tells how long it took; its `leave` comes before or after.

        kind: calls of a kind take about the same time where there is no queue.
        among: what `enter` said.
        first_s: the part of its time in which a queue would show: to the first byte of a
            stream, to the end of anything else.
        """
        trial = self._trial
        if trial is not None and began >= trial.sums.since:
            self._usual.learn(kind, first_s, now)
            trial.sums.add(among, now - began, first_s - self._usual.of(kind, first_s))
            if now >= trial.until and trial.sums.enough:
                self._end_trial(now)
            return
        if self.open:
            self._usual.learn(kind, first_s, now)
        self._sums.add(among, now - began, first_s - self._usual.of(kind, first_s))
        if self._sums.full(now):
            self._last, self._mean_s = self._sums.window(), self._sums.mean_s
            self._sums = Sums(now)
            self._look(now)

    def _look(self, now: float) -> None:
        """A window is full: what follows from it."""
        longer = self._last.longer
        pressed = now - self._refused_at < max(2.0, 2.0 * self._mean_s)
        if self._trial is not None:
            self._trial.saw(self._last)
        elif self.open:
            if longer > GAIN - 1.0 and self.in_flight >= _LEAST:
                self._floor = max(self.in_flight / 2, _LEAST)
                self._hold(self._last)
                self._plan(now)
        elif longer > GAIN - 1.0:
            self._hold(self._last)
        elif pressed and longer < 0.6 * (GAIN - 1.0):
            # The smaller a gate, the larger its step: so replicas come to equal shares.
            self.limit = min(self.limit + max(math.sqrt(self.limit), 1.0), self._widest)
        elif now - self._refused_at > _FORGET_S:
            self._reopen()

    def _reopen(self) -> None:
        self._usual.forget()
        self.limit = self._widest
        self._unit_s, self._trial_at = 1.0, inf

    def _hold(self, window: Window) -> None:
        allowed = max(window.works_on * GAIN, self._floor, _LEAST)
        self.limit = min(self.limit, allowed)

    def _plan(self, now: float) -> None:
        """When to try with less: at the same moments in all replicas, as far as clocks agree."""
        unit_s = self._unit()
        period_s = (2.0 if self._floor else 16.0) * unit_s
        shared = now + self._ahead_s
        self._trial_at = (shared // period_s + 1.0) * period_s - self._ahead_s

    def _unit(self) -> float:
        """A time in which a call ends; coarse, and it only rises, so that replicas agree on it."""
        while self._unit_s < self._mean_s:
            self._unit_s *= 4.0
        return self._unit_s

    def _try_less(self, now: float) -> None:
        if now - self._refused_at > max(2.0, 2.0 * self._mean_s):
            # Nobody wants more than there is, so there is nothing to be learned.
            self._plan(now)
            return
        self._trial_at = inf
        self._trial = Trial(now, self._unit(), self._last, self.limit)
        # What it works on, where that is known: nothing is lost by it then.
        works_on = self._last.works_on if self._floor == 0 else 0.0
        self.limit = max(works_on, min(self.limit, self.in_flight) / 2, _LEAST)

    def _end_trial(self, now: float) -> None:
        trial, self._trial = self._trial, None
        assert trial is not None
        self.limit, self._sums = trial.limit, Sums(now)
        verdict = trial.verdict()
        if verdict == "slow" and self._floor:
            self._reopen()
            return
        if verdict == "slow":
            # Where a queue was seen before, one trial does not prove that there is none now.
            self._usual.raise_all()
        if verdict == "queue":
            self._floor = 0.0
            during = trial.sums.window()
            if during.longer > GAIN - 1.0:
                self._hold(during)
        self._plan(now)

    def _turn(self, now: float) -> None:
        second = int(now)
        if second != self._second:
            follows = second == self._second + 1
            self._refused = [self._refused[1] if follows else 0, 0]
            self._done = [self._done[1] if follows else 0, 0]
            self._second = second
