"""Plain requests: how many a second, and how long each takes."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.load import Round, measure
from benchmarks.speed.programs import cpu_s
from benchmarks.speed.rounds import Progress, median, share
from benchmarks.speed.subjects import Subject


@dataclass(frozen=True, slots=True)
class Plan:
    """clients: at once, one measurement each. rounds: of so many seconds, after the warm-up."""

    clients: tuple[int, ...]
    rounds: int
    seconds: float
    warm_up_s: float

    def takes_s(self, subjects: int) -> float:
        """How long all of it takes."""
        return subjects * (self.warm_up_s + len(self.clients) * self.rounds * self.seconds)


def compare(
    subjects: Sequence[Subject], plan: Plan, folder: Path, progress: Progress
) -> dict[str, Any]:
    """By number of clients and subject: medians, and the median share of the first subject."""
    for subject in subjects:
        _measure(subject, max(plan.clients), plan.warm_up_s, folder)
        progress.done(plan.warm_up_s, f"{subject.title} is warm")
    found: dict[str, Any] = {}
    for clients in plan.clients:
        rounds: dict[str, list[Round]] = {subject.name: [] for subject in subjects}
        spent: dict[str, list[float]] = {subject.name: [] for subject in subjects}
        for _ in range(plan.rounds):
            for subject in subjects:
                one, cpu_us = _measure(subject, clients, plan.seconds, folder)
                rounds[subject.name].append(one)
                spent[subject.name].append(cpu_us)
                text = f"{clients:3} clients  {subject.title:28} {one.per_s:8,.0f} req/s"
                text += f"  p50 {one.p50_ms:6.2f} ms" + f"  {one.failed} failed" * (one.failed > 0)
                progress.done(plan.seconds, text)
        bare = [one.per_s for one in rounds[subjects[0].name]]
        found[str(clients)] = {
            name: {
                "per_s": median([one.per_s for one in ones]),
                "p50_ms": median([one.p50_ms for one in ones]),
                "p99_ms": median([one.p99_ms for one in ones]),
                "failed": sum(one.failed for one in ones),
                "cpu_us": median(spent[name]),
                "share": share([one.per_s for one in ones], bare),
            }
            for name, ones in rounds.items()
        }
    return found


def _measure(subject: Subject, clients: int, seconds: float, folder: Path) -> tuple[Round, float]:
    """A round, and the microseconds of CPU that the subject itself took for each request."""
    working = subject.processes()
    before_s = cpu_s(working)
    ask, stamp = subject.asks["chat"], secrets.token_hex(4)
    one = measure(ask, clients, seconds, folder, stamp, subject.fresh)
    return one, (cpu_s(working) - before_s) / max(one.requests, 1) * 1e6
