"""Counters of one replica, and the Prometheus text of the whole cluster's sums.

A counter travels by a name that carries its labels (`name{label="value"}`): the cluster-wide sum
is then one dictionary. Labels are models, targets, codes and the like, never tenants.
"""

from bisect import bisect_left
from collections import defaultdict

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_HELP = {
    "raygate_requests_total": "Requests answered, by endpoint, model and outcome",
    "raygate_cache_total": "Cache lookups, by result",
    "raygate_provider_calls_total": "Calls to providers, by target and outcome",
    "raygate_tokens_total": "Tokens charged, by target and kind",
    "raygate_cost_nanodollars_total": "Money charged, by target, in 1e-9 US dollars",
    "raygate_fallbacks_total": "Fallbacks given, by reason",
    "raygate_shed_total": "Requests refused for want of room, by where and priority (0 is high)",
    "raygate_request_seconds": "Time from request to answer (streams: to the first byte)",
    "raygate_went_on_without_total": "Steps done without a singleton that was silent, by its name",
    "raygate_ledger_overruns_total": "Bills larger than what was reserved for them",
}

_LABELS = {
    "raygate_requests_total": ("endpoint", "model", "outcome"),
    "raygate_cache_total": ("result",),
    "raygate_provider_calls_total": ("target", "outcome"),
    "raygate_tokens_total": ("target", "kind"),
    "raygate_cost_nanodollars_total": ("target",),
    "raygate_fallbacks_total": ("reason",),
    "raygate_went_on_without_total": ("singleton",),
    "raygate_shed_total": ("where", "priority"),
    "raygate_request_seconds_bucket": ("le",),
}


class Metrics:
    """Deltas since they were last taken."""

    def __init__(self) -> None:
        self._counters: defaultdict[tuple[str, ...], int] = defaultdict(int)

    def count(self, family: str, *labels: str, by: int = 1) -> None:
        """Add to a counter. labels: the values of its family's (see `_LABELS`), in order."""
        self._counters[family, *labels] += by

    def observe(self, seconds: float) -> None:
        """Add a request's duration to the histogram."""
        index = bisect_left(_LATENCY_S, seconds)
        bound = f"{_LATENCY_S[index]}" if index < len(_LATENCY_S) else "+Inf"
        self._counters["raygate_request_seconds_bucket", bound] += 1
        self._counters["raygate_request_microseconds_sum",] += round(seconds * 1e6)

    def take(self) -> dict[str, int]:
        """What was counted since the last call, by names that carry their labels."""
        taken, self._counters = self._counters, defaultdict(int)
        return {_name(*counter): count for counter, count in taken.items()}


def _name(family: str, *labels: str) -> str:
    if not labels:
        return family
    pairs = [f'{name}="{label(text)}"' for name, text in zip(_LABELS[family], labels, strict=True)]
    return f"{family}{{{','.join(pairs)}}}"


def label(text: str) -> str:
    """A label's value, escaped as the format wants it."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def exposition(sums: dict[str, int], gauges: dict[str, float]) -> str:
    """Prometheus text of cluster-wide sums and present values."""
    lines: list[str] = []
    families: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in sorted(sums.items()):
        if not name.startswith("raygate_request_"):
            families[name.partition("{")[0]].append(f"{name} {value}")
    for family, samples in families.items():
        lines += [f"# HELP {family} {_HELP.get(family, family)}", f"# TYPE {family} counter"]
        lines += samples
    lines += _histogram(sums)
    for name, number in sorted(gauges.items()):
        family = name.partition("{")[0]
        if f"# TYPE {family} gauge" not in lines:
            lines.append(f"# TYPE {family} gauge")
        lines.append(f"{name} {number:g}")
    return "\n".join(lines) + "\n"


def _histogram(sums: dict[str, int]) -> list[str]:
    family = "raygate_request_seconds"
    lines = [f"# HELP {family} {_HELP[family]}", f"# TYPE {family} histogram"]
    running = 0
    for bound in [*(f"{bound}" for bound in _LATENCY_S), "+Inf"]:
        running += sums.get(f'{family}_bucket{{le="{bound}"}}', 0)
        lines.append(f'{family}_bucket{{le="{bound}"}} {running}')
    total_s = sums.get("raygate_request_microseconds_sum", 0) / 1e6
    return [*lines, f"{family}_sum {total_s:g}", f"{family}_count {running}"]
