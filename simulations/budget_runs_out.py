"""A budget runs out: a team asks for three times what its money buys."""

import random

from simulations import measures
from simulations.accounts import Accounts, position, reconcile
from simulations.arrivals import fixed_rate
from simulations.client import SimulationError
from simulations.driver import Clock
from simulations.records import BudgetState, Finding, Record
from simulations.report import Report, usd
from simulations.stage import Stage
from simulations.workload import Intent, text

SUMMARY = "a team's small budget under three times the demand; the spend stops in time"

DURATION_S = 15.0
# How many calls the budget pays for, and by how much more is asked.
CALLS = 40
DEMAND = 3
INPUT_TOKENS = 80
MAX_TOKENS = 32


def intents(model: str, scale: float, duration_s: float, seed: int) -> list[Intent]:
    """Plain chats of equal size, each about something else, at a fixed rate."""
    rng = random.Random(seed)
    asked = max(1, round(CALLS * scale)) * DEMAND
    return [_chat(model, at_s, rng) for at_s in fixed_rate(asked / duration_s, duration_s)]


def _chat(model: str, at_s: float, rng: random.Random) -> Intent:
    question = f"Case {rng.randrange(10**9):09d}: {text(INPUT_TOKENS, rng)}"
    return Intent(at_s, "chat", model, (("user", question),), max_tokens=MAX_TOKENS)


async def play(stage: Stage) -> Report:
    """Plays it; the budget and the key are gone when it ends, however it ends."""
    duration_s = stage.duration_s or DURATION_S
    model = await stage.gateway.model()
    call_nanos = await _cost_of_a_call(stage, model)
    amount_nanos = call_nanos * max(1, round(CALLS * stage.scale))
    planned = intents(model, stage.scale, duration_s, stage.seed)
    since = await position(stage.gateway)
    async with (
        stage.key() as key,
        stage.budget(key.team, amount_nanos) as budget,
        stage.gateway.with_key(key, 500) as gateway,
    ):
        clock = Clock(delay_s=0.2)
        async with stage.watched(clock, budget=budget) as samples:
            records = await stage.perform(gateway, planned, clock, "budget-runs-out")
        accounts = await reconcile(stage.gateway, since, key.id)
        samples.append(await stage.sample(clock, budget))
    states = [sample.budget for sample in samples if sample.budget is not None]
    return Report(
        "budget-runs-out",
        f"{len(records)} requests over {duration_s:.0f} s on a budget of {usd(amount_nanos)}, "
        f"which pays for about {amount_nanos // call_nanos} of them",
        max(record.done_s for record in records),
        tuple(records),
        tuple(samples),
        findings=(*findings(records, states, accounts, amount_nanos), accounts.finding()),
        accounts=accounts,
    )


async def _cost_of_a_call(stage: Stage, model: str) -> int:
    # A team of its own pays for it, so that the budget starts untouched.
    async with stage.key() as key, stage.gateway.with_key(key, 1) as gateway:
        rng = random.Random(stage.seed - 1)
        planned = [_chat(model, 0.0, rng)]
        (record,) = await stage.perform(gateway, planned, Clock(), "asking what a call costs")
    if record.outcome != "success":
        raise SimulationError(f"the first call failed already: {record.status} {record.reason}")
    if not record.cost_nanos:
        raise SimulationError(f"{model} costs nothing, so no budget for it can run out")
    return record.cost_nanos


def findings(
    records: list[Record], states: list[BudgetState], accounts: Accounts, amount_nanos: int
) -> list[Finding]:
    """What the records, the budget's states and the books show."""
    highest = max((state.posted_nanos + state.pending_nanos for state in states), default=0)
    left = amount_nanos - accounts.spend_nanos
    dearest = max(accounts.charge_nanos, default=0)
    refused = sum(record.reason == "insufficient_quota" for record in records)
    others = [r for r in records if r.outcome != "success" and r.reason != "insufficient_quota"]
    paid = sum(record.outcome == "success" for record in records)
    return [
        Finding(
            highest <= amount_nanos and accounts.spend_nanos <= amount_nanos,
            f"spent and reserved together never passed the budget of {usd(amount_nanos)}: "
            f"at most {usd(highest)} at any look, {usd(accounts.spend_nanos)} at the end",
        ),
        Finding(
            # Requests differ by a token or two in size, and a reservation is for the worst case.
            0 <= left <= 2 * dearest,
            f"nothing was withheld: {usd(left)} is left, "
            f"{measures.share(left, dearest):.2f} of a call's price",
        ),
        Finding(
            refused > 0 and not others,
            f"{paid} requests were paid for, {refused} refused for want of money, "
            f"{len(others)} ended otherwise",
        ),
    ]
