"""Streams: chunks a second, time to the first text, and how many go on without a stall."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.speed.held import Held
from benchmarks.speed.rounds import Progress, median, share
from benchmarks.speed.stream_words import Seen, Wish, run
from benchmarks.speed.subjects import Kind, Subject

LEAD_S = 2.0
"""The same load before a measurement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """clients: streams at once. rounds: of so many seconds, after the warm-up."""

    clients: int
    rounds: int
    seconds: float
    warm_up_s: float

    def takes_s(self, subjects: int) -> float:
        """How long all of it takes, about."""
        return subjects * (self.warm_up_s + self.rounds * 2 * (self.seconds + LEAD_S))


class Streams:
    """The measurements. held: finds how many streams go on without a stall; None: nobody asks."""

    def __init__(self, plan: Plan, held: Held | None, progress: Progress) -> None:
        self._plan = plan
        self._held = held
        self._progress = progress

    def compare(self, upstream: Subject, relays: Sequence[Subject]) -> dict[str, Any]:
        """By subject; shares are of the first relay, and added times too."""
        plan, subjects = self._plan, [upstream, *relays]
        for subject in subjects:
            for kind in ("fast", "short"):
                self._flow(subject, kind, max(plan.warm_up_s / 2 - LEAD_S, 0.1))
            self._progress.done(plan.warm_up_s, f"{subject.title} is warm, for streams")
        found: dict[str, dict[str, list[float]]] = {subject.name: {} for subject in subjects}
        for _ in range(plan.rounds):
            for measurement in (self._rate, self._first):
                for subject in subjects:
                    for name, value in measurement(subject).items():
                        found[subject.name].setdefault(name, []).append(value)
            if self._held is not None:
                for relay in relays:
                    found[relay.name].setdefault("held", []).append(self._held.most(relay))
        if self._held is not None:
            found[upstream.name]["held"] = [self._held.beyond(upstream)]
        bare = found[relays[0].name]
        summary: dict[str, Any] = {}
        for name, kept in found.items():
            summary[name] = {what: median(values) for what, values in kept.items()}
            summary[name]["share"] = share(kept["chunks_per_s"], bare["chunks_per_s"])
            pairs = zip(kept["first_p50_ms"], bare["first_p50_ms"], strict=True)
            summary[name]["first_added_ms"] = median([one - other for one, other in pairs])
        return summary

    def _rate(self, subject: Subject) -> dict[str, float]:
        seen, cpu = self._flow(subject, "fast", self._plan.seconds)
        per_s = seen.frames / seen.watched_s
        text = f"{subject.title:28} {per_s:10,.0f} chunks/s  (load: {seen.cpu:.0%} of a core)"
        self._progress.done(self._plan.seconds + LEAD_S, text + _failures(seen))
        return {
            "chunks_per_s": per_s,
            "cpu_us": cpu / max(seen.frames, 1) * 1e6,
            "load_cpu": seen.cpu,
            "failed": seen.failed,
        }

    def _first(self, subject: Subject) -> dict[str, float]:
        seen, _ = self._flow(subject, "short", self._plan.seconds)
        times = sorted(seen.first_ms) or [float("nan")]
        p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
        text = f"{subject.title:28} first text p50 {p50:6.2f} ms, p99 {p99:6.2f} ms"
        self._progress.done(self._plan.seconds + LEAD_S, text + _failures(seen))
        return {"first_p50_ms": p50, "first_p99_ms": p99}

    def _flow(self, subject: Subject, kind: Kind, seconds: float) -> tuple[Seen, float]:
        """What was seen, and the seconds of CPU that the subject took for it."""
        ask = subject.asks[kind]
        wish = Wish("flow", ask.url, dict(ask.headers), ask.model, self._plan.clients, seconds)
        return run(replace(wish, lead_s=LEAD_S), subject.processes())


def _failures(seen: Seen) -> str:
    return f"  {seen.failed} failed" if seen.failed else ""
