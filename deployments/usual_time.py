"""How long calls usually take, by kind, where they do not wait."""

from math import inf

_PERIOD_S = 10.0
_FEW = 5
_RISE = 1.03
_FALL = 0.3
_RAISE = 1.25


class UsualTimes:
    """Means by kind, which fall quickly and rise slowly: a queue must not pass for usual.

    At most 3 % up in ten seconds, so that what grows faster than by a fifth a minute shows.
    """

    __slots__ = ("_kinds", "_until")

    def __init__(self) -> None:
        # Of each kind: the mean, and the sum and number of this period's.
        self._kinds: dict[int, list[float]] = {}
        self._until = -inf

    def learn(self, kind: int, seconds: float, now: float) -> None:
        """A call of this kind took so long."""
        if now >= self._until:
            self._until = now + _PERIOD_S
            for known in self._kinds.values():
                _end_period(known)
        known = self._kinds.setdefault(kind, [seconds, 0.0, 0.0])
        known[1] += seconds
        known[2] += 1
        if known[2] <= _FEW and known[0] > known[1] / known[2]:
            known[0] = known[1] / known[2]

    def of(self, kind: int, otherwise_s: float) -> float:
        """The usual time of this kind in seconds; `otherwise_s` where none is known."""
        known = self._kinds.get(kind)
        return otherwise_s if known is None else known[0]

    def raise_all(self) -> None:
        """By a quarter: it may be that calls take longer now."""
        for known in self._kinds.values():
            known[0] *= _RAISE

    def forget(self) -> None:
        """All of it: what comes now is usual."""
        self._kinds.clear()


def _end_period(known: list[float]) -> None:
    usual_s, sum_s, count = known
    if count >= _FEW:
        mean_s = sum_s / count
        if mean_s < usual_s:
            known[0] += _FALL * (mean_s - usual_s)
        else:
            known[0] = min(mean_s, usual_s * _RISE)
    known[1] = known[2] = 0.0
