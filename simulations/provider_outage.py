"""A provider's outage: it fails everything for a while in the middle of a steady load."""

import asyncio
import itertools
from collections.abc import Sequence

from simulations import measures
from simulations.accounts import position, reconcile
from simulations.arrivals import fixed_rate
from simulations.client import Gateway
from simulations.driver import Clock
from simulations.records import Finding, Record, Sample, Window
from simulations.report import Report
from simulations.stage import Stage
from simulations.workload import Intent, Workload

SUMMARY = "the provider fails everything for a third of the run; the breaker opens and closes"

DURATION_S = 45.0
RATE_PER_S = 8.0
# After the load, a trickle goes on until the breaker has closed: how long, and how often.
PATIENCE_S = 90.0
TRICKLE_PER_S = 3.0
TRICKLE_STEP_S = 2.0


def intents(model: str, rate_per_s: float, start_s: float, end_s: float, seed: int) -> list[Intent]:
    """A steady mix of chats and prompts on so many topics that the cache hides no outage."""
    workload = Workload(
        model,
        prompt_share=0.5,
        stream_share=0.2,
        topics=5000,
        topic_exponent=0.0,
        max_input=120,
        max_output=24,
    )
    arrivals = (start_s + at_s for at_s in fixed_rate(rate_per_s, end_s - start_s))
    return list(workload.intents(arrivals, seed))


async def play(stage: Stage) -> Report:
    """Plays the outage; the provider's knobs are as before when it ends, however it ends."""
    duration_s = stage.duration_s or DURATION_S
    model = await stage.gateway.model()
    rate_per_s = RATE_PER_S * stage.scale
    since = await position(stage.gateway)
    async with stage.key() as key, stage.gateway.with_key(key, 500) as gateway:
        clock = Clock(delay_s=0.2)
        async with stage.watched(clock) as samples, asyncio.TaskGroup() as actors:
            outage = actors.create_task(_outage(stage, clock, duration_s / 3, 2 * duration_s / 3))
            planned = intents(model, rate_per_s, 0.0, duration_s, stage.seed)
            records = await stage.perform(gateway, planned, clock, "provider-outage")
            window = await outage
            records += await _recovery(stage, gateway, clock, model, samples)
        accounts = await reconcile(stage.gateway, since, key.id)
    return Report(
        "provider-outage",
        f"{len(records)} requests at {rate_per_s:.0f}/s; the provider failed every call "
        f"from {window.start_s:.0f} s to {window.end_s:.0f} s",
        max(record.done_s for record in records),
        tuple(records),
        tuple(samples),
        windows=(window,),
        findings=(*findings(records, samples, window), accounts.finding()),
        accounts=accounts,
    )


async def _outage(stage: Stage, clock: Clock, start_s: float, end_s: float) -> Window:
    await clock.until(start_s)
    async with stage.knobs(outage=True):
        began_s = clock.now_s()
        await clock.until(end_s)
    return Window("provider outage", began_s, clock.now_s())


async def _recovery(
    stage: Stage, gateway: Gateway, clock: Clock, model: str, samples: Sequence[Sample]
) -> list[Record]:
    # A breaker closes only by trying calls, so a trickle of them goes on until it has.
    records: list[Record] = []
    give_up_s = clock.now_s() + PATIENCE_S
    for step in itertools.count(1):
        if clock.now_s() >= give_up_s or not (samples and _not_closed(samples[-1])):
            break
        start_s = clock.now_s()
        planned = intents(
            model, TRICKLE_PER_S, start_s, start_s + TRICKLE_STEP_S, stage.seed + step
        )
        phase = "waiting for the breaker to close"
        records += await stage.perform(gateway, planned, clock, phase)
    return records


def _not_closed(sample: Sample) -> bool:
    return any(state in ("open", "half_open") for state in sample.breakers.values())


def findings(records: Sequence[Record], samples: Sequence[Sample], window: Window) -> list[Finding]:
    """What the records and samples show of an outage."""
    before = [record for record in records if record.done_s < window.start_s]
    during = [r for r in records if window.start_s <= r.intent.at_s < window.end_s]
    prompts = [record for record in during if record.intent.kind == "prompt"]
    fine = measures.share(sum(record.outcome == "success" for record in before), len(before))
    answered = measures.share(sum(record.answered for record in prompts), len(prompts))
    opened_s = next((s.at_s for s in samples if s.at_s >= window.start_s and _not_closed(s)), None)
    back_s = min(
        (r.done_s for r in records if r.outcome == "success" and r.intent.at_s >= window.end_s),
        default=None,
    )
    closed_s = next(
        (s.at_s for s in samples if s.at_s >= window.end_s and not _not_closed(s)), None
    )
    lines = [
        Finding(fine > 0.95, f"before the outage {fine:.0%} of the requests succeeded"),
        Finding(
            answered > 0.95,
            f"during it {answered:.0%} of the prompts still got a text, a fallback for the most",
        ),
    ]
    if opened_s is None:
        lines.append(Finding(False, "the breaker never opened"))
    else:
        after_s = opened_s - window.start_s
        lines.append(Finding(None, f"the breaker opened {after_s:.1f} s into the outage"))
    if closed_s is None or back_s is None:
        lines.append(Finding(False, "the breaker had not closed again when the run ended"))
    else:
        lines.append(
            Finding(
                None,
                f"the first success came {back_s - window.end_s:.1f} s after its end, and every "
                f"breaker was closed {closed_s - window.end_s:.1f} s after it",
            )
        )
    return lines
