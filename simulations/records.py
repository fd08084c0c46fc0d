"""What became of each intent, and what the gateway said about itself meanwhile."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from simulations.workload import Intent

Outcome = Literal["success", "fallback", "refused", "failed", "unsent"]

SHARED = frozenset({"HIT", "WAIT", "STALE"})
"""Cache headers of answers that cost no provider call of their own."""


@dataclass(frozen=True, slots=True)
class Record:
    """One intent's end. Times are seconds from the start of the run.

    intent: what was meant
    outcome: success; fallback (a text in place of an answer); refused (429: a limit or a budget
        did its work); failed (any other error); unsent (the driver had no slot left for it)
    reason: the fallback's reason or the error's code; empty on success
    status: HTTP status; 0 where there was none
    sent_s: when it really left
    latency_s: from the INTENDED send time to the last byte, so that waiting in any queue counts,
        the driver's own too
    ttft_s: from the intended send time to the first generated text; streams only
    cache: the x-raygate-cache header, HIT, MISS, WAIT, STALE or BYPASS; empty where absent
    cost_nanos: nano-dollars as told by the gateway; None where it told none (streams of chat)
    tokens_in, tokens_out: usage as told by the gateway
    trace_id: the trace to look up at /admin/v1/traces; empty where absent
    """

    intent: Intent
    outcome: Outcome
    reason: str = ""
    status: int = 0
    sent_s: float = 0.0
    latency_s: float = 0.0
    ttft_s: float | None = None
    cache: str = ""
    cost_nanos: int | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    trace_id: str = ""

    @property
    def done_s(self) -> float:
        """When it ended, seconds from the start of the run."""
        return self.intent.at_s + self.latency_s

    @property
    def answered(self) -> bool:
        """Whether the caller got text to work with."""
        return self.outcome in ("success", "fallback")


class BudgetState(NamedTuple):
    """A budget at one instant, in nano-dollars."""

    amount_nanos: int
    posted_nanos: int
    pending_nanos: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The gateway's health at one instant.

    at_s: seconds from the start of the run
    status: healthy, warning or degraded
    breakers: target -> closed, open, half_open, forced_open or forced_closed
    limiter_used, cache_used: shares from 0 to 1
    cache_hit_rate: share from 0 to 1, since the cache was last emptied
    cost_today_usd, budget_used: today's spend, and its share (0 to 1) of the daily budget
    budget: the scenario's own budget, where it has one
    """

    at_s: float
    status: str
    breakers: dict[str, str] = field(default_factory=dict)
    limiter_used: float = 0.0
    cache_used: float = 0.0
    cache_hit_rate: float = 0.0
    cost_today_usd: float = 0.0
    budget_used: float = 0.0
    budget: BudgetState | None = None


class Window(NamedTuple):
    """A span of the run that figures shade and name; seconds from its start."""

    label: str
    start_s: float
    end_s: float


class Finding(NamedTuple):
    """What a run showed. holds: whether that is as it should be; None where it is news only."""

    holds: bool | None
    text: str


class Progress(NamedTuple):
    """How far a run is: `done` of `total` steps of what `phase` names."""

    phase: str
    done: int
    total: int
