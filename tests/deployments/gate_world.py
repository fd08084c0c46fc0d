"""A provider with so many slots behind gates, in virtual time."""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

from deployments.target_gate import NORMAL, Gate


@dataclass
class World:
    """Calls arrive at gates in turn; who is let in works, or waits for a slot, at the provider.

    slots: at the provider, for all gates. works_s: how long one call takes there, at a moment.
    admitted: (began, ended) of each call; refused: by priority; waits_s: that refusals named.
    """

    slots: int
    works_s: Callable[[float, Random], tuple[int, float]]
    gates: Sequence[Gate]
    seed: int = 1
    now: float = 100.0
    admitted: list[tuple[float, float]] = field(default_factory=list)
    let_in: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._busy = 0
        self._line: deque[Callable[[], None]] = deque()
        self._turn = 0

    def run(self, rate: float, seconds: float, priorities: Sequence[int] = (NORMAL,)) -> None:
        """Let calls come at this mean rate for so long."""
        end = self.now + seconds
        for at in self._arrivals(rate, self.now, end):
            self._until(at)
            self._arrive(self._random.choice(priorities))
        self._until(end)

    def _arrivals(self, rate: float, at: float, end: float) -> Iterator[float]:
        while rate > 0 and (at := at + self._random.expovariate(rate)) < end:
            yield at

    def _until(self, end: float) -> None:
        while self._events and self._events[0][0] <= end:
            self.now, _, happens = heapq.heappop(self._events)
            happens()
        self.now = end

    def _later(self, after_s: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + after_s, next(self._order), happens))

    def _arrive(self, priority: int) -> None:
        self._turn += 1
        gate = self.gates[self._turn % len(self.gates)]
        wait_s = gate.refuses(priority, self.now)
        if wait_s is not None:
            self.refused[priority] += 1
            self.waits_s.append(wait_s)
            return
        self.let_in[priority] += 1
        among = gate.enter()
        self.most_in_flight = max(self.most_in_flight, gate.in_flight)
        began = self.now

        def begin() -> None:
            kind, works_s = self.works_s(self.now, self._random)
            self._later(works_s, lambda: end(kind))

        def end(kind: int) -> None:
            self._busy -= 1
            gate.leave(self.now)
            gate.answered(kind, among, began, self.now - began, self.now)
            self.admitted.append((began, self.now))
            if self._line:
                self._busy += 1
                self._line.popleft()()

        if self._busy < self.slots:
            self._busy += 1
            begin()
        else:
            self._line.append(begin)

    def goodput(self, since: float) -> float:
        """Answers a second since then."""
        return sum(ended >= since for _, ended in self.admitted) / (self.now - since)

    def latency_s(self, share: float, since: float) -> float:
        """That share of the calls which ended since then took no longer."""
        taken = sorted(ended - began for began, ended in self.admitted if ended >= since)
        return taken[min(int(share * len(taken)), len(taken) - 1)]
