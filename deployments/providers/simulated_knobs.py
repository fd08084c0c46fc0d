"""How the simulated provider behaves, and the dice that decide each call's fate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_OUTPUT_TOKENS = 131_072

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
ErrorStatus = Annotated[int, Field(ge=400, le=599)]
Verdict = Literal["answer", "error", "throttled", "reset", "hang"]


class Outage(BaseModel):
    """A stretch of time in which every call fails.

    from_s: its beginning, seconds after the knobs were set.
    for_s: its length in seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    from_s: Seconds
    for_s: Seconds


class Knobs(BaseModel):
    """Everything about the simulated provider that can change while it runs.

    seed: of the dice. Each call throws the same number of them, so the n-th call meets the same
        luck whatever the other knobs say.
    ttft_s: median time to the first token. Errors and throttling take error_after_s instead.
    tokens_per_s: median pace after it; 0 means all at once.
    spread: sigma of the log-normal that both are drawn from; 0 means exactly the median.

    output_tokens: length of a reply in tokens, unless the request allows less.
    fill_max_tokens: a request that names a maximum gets exactly that many.
    input_tokens: what usage says of every prompt; None counts it (see `simulated_text`).
    cached_tokens: how many of the input tokens usage calls cached.

    outage, outages: while one is on, calls fail in the manner of outage_mode.
    error_rate, error_status: share of calls answered with this status.
    throttle, throttle_rate, retry_after_s: all calls, or a share, answered 429 with Retry-After.
    reset_rate, reset_at: share of calls whose connection is cut: "before" anything is sent (an
        ingress in between makes a 5xx of it), or in the "middle" of the body.
    hang_rate, hang_s: share of calls that are accepted and then say nothing; the connection is
        cut after hang_s.
    Where several apply, the order is outage, throttle, error, reset, hang.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = 0
    ttft_s: Seconds = 0.2
    tokens_per_s: Annotated[float, Field(ge=0, le=1e9)] = 200.0
    spread: Annotated[float, Field(ge=0, le=3)] = 0.0

    output_tokens: Annotated[int, Field(ge=1, le=MAX_OUTPUT_TOKENS)] = 64
    fill_max_tokens: bool = False
    input_tokens: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    cached_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 0

    outage: bool = False
    outages: Annotated[tuple[Outage, ...], Field(max_length=100)] = ()
    outage_mode: Literal["error", "reset", "hang"] = "error"
    error_rate: Share = 0.0
    error_status: ErrorStatus = 500
    error_after_s: Seconds = 0.0
    throttle: bool = False
    throttle_rate: Share = 0.0
    retry_after_s: Seconds = 1.0
    reset_rate: Share = 0.0
    reset_at: Literal["before", "middle"] = "middle"
    hang_rate: Share = 0.0
    hang_s: Seconds = 600.0


@dataclass(frozen=True, slots=True)
class Fate:
    """What will become of one call.

    ttft_s, token_gap_s: time to the first token, and between any two after it.
    cut_at: where within its body a reset falls, from 0 (its beginning) to 1.
    """

    verdict: Verdict
    ttft_s: float
    token_gap_s: float
    cut_at: float


class Dice:
    """Throws for one call after the other; the same seed and order give the same fates."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def throw(self, knobs: Knobs, age_s: float) -> Fate:
        """Decide a call.

        age_s: seconds since the knobs were set, for the outages' sake.
        """
        throw = self._random.random
        throttle, error, reset, hang, cut = throw(), throw(), throw(), throw(), throw()
        start, pace = self._random.gauss(0, 1), self._random.gauss(0, 1)
        verdict: Verdict = "answer"
        if knobs.outage or any(o.from_s <= age_s < o.from_s + o.for_s for o in knobs.outages):
            verdict = knobs.outage_mode
        elif knobs.throttle or throttle < knobs.throttle_rate:
            verdict = "throttled"
        elif error < knobs.error_rate:
            verdict = "error"
        elif reset < knobs.reset_rate:
            verdict = "reset"
        elif hang < knobs.hang_rate:
            verdict = "hang"
        gap_s = 1 / knobs.tokens_per_s if knobs.tokens_per_s else 0.0
        return Fate(
            verdict,
            ttft_s=knobs.ttft_s * math.exp(knobs.spread * start),
            token_gap_s=gap_s * math.exp(knobs.spread * pace),
            cut_at=cut,
        )


class Behaviour:
    """The knobs in force, since when, and the dice.

    monotonic_s: the clock that outages go by, in seconds.
    """

    def __init__(self, knobs: Knobs, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._dice = Dice(knobs.seed)
        self.set(knobs)

    def set(self, knobs: Knobs, reseed: bool = False) -> None:
        """Put other knobs in force; the outages' time begins now."""
        self.knobs = knobs
        self._since_s = self._monotonic_s()
        if reseed:
            self._dice = Dice(knobs.seed)

    def decide(self) -> Fate:
        """The next call's fate."""
        return self._dice.throw(self.knobs, self._monotonic_s() - self._since_s)
