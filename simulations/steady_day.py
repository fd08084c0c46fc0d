"""A steady day: an office's day of requests, pressed into half a minute."""

import random

from simulations import measures
from simulations.accounts import position, reconcile
from simulations.arrivals import office_day, shaped
from simulations.driver import Clock
from simulations.records import Finding
from simulations.report import Report, seconds
from simulations.stage import Stage
from simulations.token_sizes import size_source
from simulations.workload import Intent, Workload

SUMMARY = "a day's rise and fall of chats, streams and prompts, in half a minute"

DURATION_S = 30.0
PEAK_PER_S = 12.0


def intents(model: str, scale: float, duration_s: float, seed: int) -> list[Intent]:
    """The day's requests: at most PEAK_PER_S·scale per second, of Zipf-popular topics."""
    peak_per_s = PEAK_PER_S * scale
    arrivals = shaped(
        lambda at_s: peak_per_s * office_day(at_s / duration_s),
        peak_per_s,
        duration_s,
        random.Random(seed),
    )
    return list(Workload(model, prompt_share=0.15, sizes=size_source()).intents(arrivals, seed))


async def play(stage: Stage) -> Report:
    """Plays the day."""
    duration_s = stage.duration_s or DURATION_S
    planned = intents(await stage.gateway.model(), stage.scale, duration_s, stage.seed)
    since = await position(stage.gateway)
    async with stage.key() as key, stage.gateway.with_key(key, 500) as gateway:
        clock = Clock(delay_s=0.2)
        async with (
            stage.watched(clock, every_s=0.5) as samples,
            # Answers as long as the workload's sizes say, and not all at the same pace.
            stage.knobs(fill_max_tokens=True, spread=0.25),
        ):
            records = await stage.perform(gateway, planned, clock, "steady-day")
        accounts = await reconcile(stage.gateway, since, key.id)
    failed = sum(record.outcome in ("failed", "unsent") for record in records)
    shared = measures.share(measures.shared_answers(records), len(records))
    first = measures.spread(measures.first_texts(records))
    findings = [
        Finding(failed == 0, f"{failed} of {len(records)} requests failed"),
        Finding(None, f"{shared:.0%} were answered without a provider call of their own"),
        accounts.finding(),
    ]
    if first is not None:
        findings.insert(
            1,
            Finding(
                None,
                f"half of the streams began within {seconds(first.p50)}, "
                f"99 % within {seconds(first.p99)}",
            ),
        )
    return Report(
        "steady-day",
        f"{len(records)} requests over {duration_s:.0f} s, shaped like an office's day, "
        f"at most {PEAK_PER_S * stage.scale:.0f}/s",
        max((record.done_s for record in records), default=duration_s),
        tuple(records),
        tuple(samples),
        findings=tuple(findings),
        accounts=accounts,
    )
