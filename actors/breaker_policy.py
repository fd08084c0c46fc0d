"""What a circuit breaker is told: the specification of each target, checked."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.errors import InvalidRequest
from actors.outcome_window import CountWindow, OutcomeWindow, TimeWindow

_SECOND = 1_000_000_000
_MONTH = 31 * 24 * 3600 * _SECOND


@dataclass(frozen=True, slots=True)
class BreakerSpec:
    """How one target's breaker behaves.

    failure_threshold: consecutive failures that open it; 0: no such rule.
    window: "time" (the last `window_ns`) or "count" (the last `window_calls`).
    window_ns, window_calls: length of the window, nanoseconds or calls.
    min_calls: fewest calls in the window for a rate to mean anything.
    failure_rate, slow_rate: share of calls (0 to 1) at which it opens; 0: no such rule.
    slow_ns: a first token later than this is slow, nanoseconds.
    recovery_ns: how long it stays open the first time, nanoseconds.
    recovery_factor: each reopening without a closing in between waits this much longer.
    recovery_cap_ns: the longest wait, nanoseconds (never below `recovery_ns`).
    jitter: up to this share (0 to 1) is taken off the wait of a reopening, at random.
    success_threshold: most probes in flight while half-open, and how many outcomes decide.
    half_open_max_ns: longest time half-open, nanoseconds; None: no limit.
    """

    failure_threshold: int = 5
    window: str = "time"
    window_ns: int = 20 * _SECOND
    window_calls: int = 100
    min_calls: int = 10
    failure_rate: float = 0.5
    slow_rate: float = 1.0
    slow_ns: int = 60 * _SECOND
    recovery_ns: int = 60 * _SECOND
    recovery_factor: float = 2.0
    recovery_cap_ns: int = 600 * _SECOND
    jitter: float = 0.1
    success_threshold: int = 3
    half_open_max_ns: int | None = None

    def closed_window(self) -> OutcomeWindow:
        """An empty window for a closed breaker."""
        if self.window == "count":
            return CountWindow(self.window_calls, self.min_calls)
        return TimeWindow(self.window_ns, self.min_calls)

    def probe_window(self) -> OutcomeWindow:
        """An empty window for a half-open breaker: all of its outcomes decide together."""
        return CountWindow(self.success_threshold, self.success_threshold)


_WHOLE = {
    "failure_threshold": (0, 1_000_000),
    "window_ns": (1_000_000, _MONTH),
    "window_calls": (1, 10_000),
    "min_calls": (1, 1_000_000),
    "slow_ns": (0, _MONTH),
    "recovery_ns": (1, _MONTH),
    "recovery_cap_ns": (1, _MONTH),
    "success_threshold": (1, 1_000),
    "half_open_max_ns": (1, _MONTH),
}
_SHARES = {
    "failure_rate": (0.0, 1.0),
    "slow_rate": (0.0, 1.0),
    "recovery_factor": (1.0, 100.0),
    "jitter": (0.0, 1.0),
}
_NAMES = tuple(field.name for field in dataclasses.fields(BreakerSpec))


class BreakerPolicy:
    """The specification of every target: the default one, and what some have otherwise.

    policy: `{"default": {...}, "targets": {target: {...}}}`; the inner keys are the fields
        of `BreakerSpec`, all optional.
    Raises InvalidRequest, with the path of the field as `param`.
    """

    def __init__(self, policy: Mapping[str, Any], max_targets: int) -> None:
        policy = _mapping("policy", policy)
        for key in policy:
            if key not in ("default", "targets"):
                raise InvalidRequest(f"{key}: unknown; allowed are default, targets", param=key)
        default = _mapping("default", policy.get("default", {}))
        targets = _mapping("targets", policy.get("targets", {}))
        if len(targets) > max_targets:
            message = f"targets: {len(targets)} given, at most {max_targets} are allowed"
            raise InvalidRequest(message, param="targets")
        self._default = _spec("default", default)
        self._special: dict[str, BreakerSpec] = {}
        self._stored: dict[str, Any] = {"default": dict(default), "targets": {}}
        for target, own in targets.items():
            path = f"targets.{target}"
            self._special[target] = _spec(path, {**default, **_mapping(path, own)}, own)
            self._stored["targets"][target] = dict(own)

    def spec(self, target: str) -> BreakerSpec:
        """What holds for this target."""
        return self._special.get(target, self._default)

    def stored(self) -> dict[str, Any]:
        """The policy as it was given, as plain values."""
        return self._stored


def _mapping(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidRequest(f"{path}: must be an object with text keys", param=path)
    return value


def _spec(
    path: str, values: Mapping[str, Any], own: Mapping[str, Any] | None = None
) -> BreakerSpec:
    for key in values if own is None else own:
        _check(f"{path}.{key}", key, values[key])
    return BreakerSpec(**values)


def _check(path: str, key: str, value: Any) -> None:
    if key == "window":
        allowed, fine = '"time" or "count"', value in ("time", "count")
    elif key in _WHOLE:
        low, high = _WHOLE[key]
        allowed = f"a whole number from {low} to {high}"
        fine = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        if key == "half_open_max_ns":
            allowed, fine = f"{allowed}, or null", fine or value is None
    elif key in _SHARES:
        least, most = _SHARES[key]
        allowed = f"a number from {least:g} to {most:g}"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fine = number and least <= value <= most
    else:
        message = f"{path}: unknown; allowed are {', '.join(_NAMES)}"
        raise InvalidRequest(message, param=path)
    if not fine:
        raise InvalidRequest(f"{path}: {value!r} found, must be {allowed}", param=path)
