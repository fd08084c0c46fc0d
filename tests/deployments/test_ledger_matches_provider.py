import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.replies import calls
from tests.stack import Stack, running

pytestmark = pytest.mark.anyio

REQUESTS = 600
AT_ONCE = 40
POLICY: dict[str, Any] = {
    "models": {
        "gpt-4o-mini": {"targets": ["simulated/gpt-4o-mini"], "max_output_tokens": 64},
        "gpt-4o": {"targets": ["simulated/gpt-4o", "simulated/gpt-4o-mini"]},
    },
    "limits": [
        {"name": "requests", "rate": 5000, "burst": 5000},
        {"name": "tokens", "scope": "key", "unit": "tokens", "rate": 10**6, "burst": 10**7},
        {"name": "slots", "unit": "concurrent", "burst": 100},
    ],
    "budgets": [
        {"name": "day", "amount_usd": 100},
        {"name": "t", "scope": "team", "amount_usd": 99},
    ],
    "breakers": {"default": {"failure_threshold": 0, "min_calls": 100_000}},
    "retries": {"attempts": 3, "base_s": 0.005, "budget_share": 1.0, "budget_floor": 1000},
}


async def one(stack: Stack, session: aiohttp.ClientSession, dice: random.Random) -> str:
    """A request of a random kind; how it ended for its client."""
    kind = dice.choice(["plain", "plain", "stream", "stream", "leave", "leave stream", "prompt"])
    text = f"question {dice.randrange(400)}"
    body: dict[str, Any] = {
        "model": dice.choice(["gpt-4o-mini", "gpt-4o"]),
        "messages": [{"role": "user", "content": text}],
        "stream": "stream" in kind,
        "max_tokens": dice.randrange(1, 60),
    }
    path = "/v1/chat/completions"
    if kind == "prompt":
        path, body = "/v1/prompts/business_analysis_v1/execute", {"inputs": {"data": text}}
    patience_s = dice.uniform(0.001, 0.06) if "leave" in kind else 100.0
    timeout = aiohttp.ClientTimeout(total=patience_s)
    try:
        async with session.post(
            stack.url + path, json=body, headers=stack.headers(), timeout=timeout
        ) as reply:
            await reply.read()
            return str(reply.status)
    except TimeoutError:
        return "left"


async def test_a_mixed_run_is_charged_call_by_call(tmp_path: Path) -> None:
    """I3: after streams, leavers, errors, resets and retries both books tell the same story."""
    dice = random.Random(11)
    async with running(tmp_path, POLICY) as stack, aiohttp.ClientSession() as session:
        await stack.knobs(
            ttft_s=0.01,
            tokens_per_s=3000,
            spread=0.5,
            error_rate=0.08,
            throttle_rate=0.02,
            retry_after_s=0.02,
            reset_rate=0.05,
            cached_tokens=3,
            seed=5,
        )
        gate = asyncio.Semaphore(AT_ONCE)

        async def guarded() -> str:
            async with gate:
                return await one(stack, session, dice)

        ends = Counter(await asyncio.gather(*(guarded() for _ in range(REQUESTS))))
        await asyncio.sleep(0.2)
        await stack.settled()
        made = {call.charge_id: call for call in await calls(stack)}
        rows = await stack.ledger()
        status = await stack.services.costs.ask("status")

    assert ends["200"] > 200, ends
    assert ends["left"] > 20, ends
    assert "500" not in ends
    outcomes = Counter(call.outcome for call in made.values())
    assert min(outcomes[word] for word in ("ok", "error", "throttled", "reset")) > 0, outcomes
    assert len(made) == sum(outcomes.values())
    assert None not in made
    charges = Counter(row["charge_id"] for row in rows)
    assert set(charges) == set(made)
    assert set(charges.values()) == {1}
    for row in rows:
        call = made[row["charge_id"]]
        if row["state"] == "actual":
            assert (row["input"], row["output"]) == (call.input_tokens, call.output_tokens)
            assert call.outcome in ("ok", "error", "throttled")
        else:
            assert call.outcome in ("reset", "hang", "client_gone")
    assert status["pending"] == status["pending_nanos"] == status["overruns"] == 0
    assert status["posted_today_nanos"] == sum(row["change_nanos"] for row in rows)
