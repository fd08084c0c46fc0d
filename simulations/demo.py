"""The demo: ten questions of three users, three urgent ones among them, all at once."""

import random

from simulations import measures
from simulations.accounts import position, reconcile
from simulations.driver import Clock
from simulations.records import Finding
from simulations.report import Report
from simulations.stage import Stage
from simulations.workload import Intent, text

SUMMARY = "ten requests of three users and three urgent ones of high priority, all at once"

NORMAL = 10
URGENT = 3
USERS = ("ana", "ben", "chloe")
DISTINCT = 6
DATA_TOKENS = 60


def intents(scale: float, seed: int) -> list[Intent]:
    """The demo's requests, all due at 0; the urgent ones last, so that overtaking would show.

    The normal ones ask DISTINCT different things, so that some of them can share an answer.
    """
    rng = random.Random(seed)
    normal, urgent = max(1, round(NORMAL * scale)), max(1, round(URGENT * scale))
    subjects = [
        f"Figures of region {number}: {text(DATA_TOKENS, rng)}"
        for number in range(max(1, round(DISTINCT * scale)))
    ]
    return [
        Intent(
            0.0,
            "prompt",
            template="business_analysis_v1",
            inputs={"data": subjects[number % len(subjects)]},
            user=USERS[number % len(USERS)],
        )
        for number in range(normal)
    ] + [
        Intent(
            0.0,
            "prompt",
            template="urgent_analysis_v1",
            inputs={"data": f"Incident {number}: {text(DATA_TOKENS, rng)}"},
            user=USERS[number % len(USERS)],
            priority="high",
        )
        for number in range(urgent)
    ]


async def play(stage: Stage) -> Report:
    """Plays the demo; `duration_s` does not apply."""
    planned = intents(stage.scale, stage.seed)
    since = await position(stage.gateway)
    async with stage.key() as key, stage.gateway.with_key(key, len(planned)) as gateway:
        clock = Clock(delay_s=0.2)
        async with stage.watched(clock) as samples:
            records = await stage.perform(gateway, planned, clock, "demo")
        accounts = await reconcile(stage.gateway, since, key.id)
    answered = sum(record.answered for record in records)
    shared = measures.shared_answers(records)
    urgent = [record for record in records if record.intent.priority == "high"]
    findings = [
        Finding(
            answered == len(records),
            f"{answered} of {len(records)} requests got an answer, {shared} of them without a "
            "provider call of their own",
        ),
        Finding(
            all(record.outcome == "success" for record in urgent),
            f"{sum(record.outcome == 'success' for record in urgent)} of {len(urgent)} urgent "
            "requests were answered by the model",
        ),
        accounts.finding(),
    ]
    return Report(
        "demo",
        f"{len(records) - len(urgent)} normal requests of {len(USERS)} users and {len(urgent)} "
        "urgent ones, all sent at once",
        max(record.done_s for record in records),
        tuple(records),
        tuple(samples),
        findings=tuple(findings),
        accounts=accounts,
    )
