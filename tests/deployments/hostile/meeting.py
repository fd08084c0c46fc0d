"""The gateway at a hostile provider: one request, all that came of it, and nothing left."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from deployments.providers.openai import OpenAIProvider
from tests.deployments.hostile.cases import Case, Told, told
from tests.deployments.hostile.server import OUTPUT_TOKENS, Hostile, hostile
from tests.replies import eventually
from tests.stack import Stack

TARGET = "hostile/m"
TIMEOUT_S = 0.6
DRAIN_S = 0.15
TOKEN_NANOS = 1_000_000
MOST_TOKENS = 64
WORST_NANOS = MOST_TOKENS * TOKEN_NANOS

_SLACK_S = 4.0
"""Of a machine that has other work as well."""


@asynccontextmanager
async def provided(
    stack: Stack, url: str, model: str = "m", **policy: Any
) -> AsyncIterator[OpenAIProvider]:
    """The gateway with one model at this address, two attempts and the least patience."""
    services = stack.services
    provider = OpenAIProvider("hostile", f"{url}/v1", "sk-secret", connect_timeout_s=0.4)
    services.providers["hostile"] = provider
    kept = services.args
    services.args = kept.model_copy(update={"drain_s": DRAIN_S})
    price = {"input_per_mtok": 0, "output_per_mtok": TOKEN_NANOS / 1000}
    route = {"targets": [TARGET], "max_output_tokens": MOST_TOKENS, "price": price}
    changes: dict[str, Any] = {
        "models": {model: route},
        "retries": {"attempts": 2, "base_s": 0.0, "budget_floor": 100},
        "breakers": {"default": {"timeout_s": TIMEOUT_S}},
        "limits": [{"name": "slots", "unit": "concurrent", "burst": 100}],
    }
    try:
        await stack.policy(**{**changes, **policy})
        yield provider
    finally:
        await provider.close()
        services.args = kept
        await stack.policy()
        del services.providers["hostile"]


@dataclass(frozen=True)
class Seen:
    """What a client saw. text: all of it; code: of the error in it, "" without one."""

    status: int
    code: str
    message: str
    text: bytes
    attempts: int
    took_s: float


async def ask(stack: Stack, stream: bool, within_s: float = 5.0, text: str = "hi") -> Seen:
    """One request for `m`, however its answer looks."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}
    headers = stack.headers(x_raygate_timeout=f"{within_s:g}")
    began = time.monotonic()
    url = stack.url + "/v1/chat/completions"
    timeout = aiohttp.ClientTimeout(total=30)
    async with stack.session.post(url, json=body, headers=headers, timeout=timeout) as found:
        content = await found.read()
        last = content.rsplit(b"data: ", 1)[-1] if found.status == 200 else content
        try:
            error = orjson.loads(last).get("error") or {}
        except orjson.JSONDecodeError:
            error = {}
        return Seen(
            found.status,
            error.get("code", ""),
            error.get("message", ""),
            content,
            int(found.headers.get("x-raygate-attempts", "0")),
            time.monotonic() - began,
        )


async def breaker_of(stack: Stack) -> dict[str, Any]:
    """The target's breaker: its counts, probes and rest."""
    found = await stack.services.breaker.ask("status")
    unknown = {"failure_count": 0, "success_count": 0, "probes": 0, "retry_after_ns": 0}
    breaker: dict[str, Any] = found["targets"].get(TARGET, unknown)
    return breaker


def charge_of(row: dict[str, Any]) -> str:
    """A ledger's row in the words of `Told`."""
    amount = row["amount_nanos"]
    if row["state"] == "actual":
        return {0: "free", OUTPUT_TOKENS * TOKEN_NANOS: "told"}.get(amount, f"actual {amount}")
    if row["state"] == "estimated":
        return "worst" if amount == WORST_NANOS else "seen" if amount < WORST_NANOS else "over"
    return str(row["state"])


async def nothing_left(stack: Stack, provider: OpenAIProvider) -> None:
    """No task, hold, ticket, reservation, permit or place in the pool is kept by anybody."""

    async def idle() -> bool:
        return not stack.services._background and not stack.services.running

    await eventually(idle)
    await stack.settled()
    costs = await stack.services.costs.ask("status")
    limits = await stack.services.limiter.ask("status")
    assert (costs["pending_nanos"], limits["holds"], limits["waiting"]) == (0, 0, 0)
    assert (await breaker_of(stack))["probes"] == 0
    pool = provider._pool
    assert pool._places == len(pool._idle) == len(pool._open)
    assert not pool._waiters


async def meet(
    stack: Stack, case: Case, stream: bool, url: str, server: Hostile | None = None
) -> Seen:
    """Send one request there and check all that has to come of it.

    server: whose connections have to end with the provider's.
    """
    expected = told(case, stream)
    assert expected is not None
    before = len(await stack.ledger())
    async with provided(stack, url) as provider:
        seen = await ask(stack, stream, case.within_s)
        await nothing_left(stack, provider)
        await agrees(stack, seen, expected, before)
        assert seen.took_s < min(case.within_s, 2 * TIMEOUT_S) + _SLACK_S
    if server is not None:
        await eventually(server.is_left)
    return seen


def counts_of(breaker: dict[str, Any]) -> list[int]:
    """Failures and successes in a breaker's window."""
    return [breaker["failure_count"], breaker["success_count"]]


async def agrees(stack: Stack, seen: Seen, expected: Told, before: int) -> None:
    """What client, breaker and ledger say is what was expected. before: rows until then."""
    assert (seen.status, seen.code) == (expected.status, expected.code), seen
    assert "sk-secret" not in seen.message
    breaker = await breaker_of(stack)
    counted = {"failure": [expected.calls, 0], "success": [0, expected.calls]}
    assert counts_of(breaker) == counted.get(expected.outcome, [0, 0]), breaker
    rows = (await stack.ledger())[before:]
    charges = [] if expected.charge == "none" else [expected.charge] * expected.calls
    assert [charge_of(row) for row in rows] == charges, rows
    if seen.attempts:
        assert seen.attempts == expected.calls


async def check(stack: Stack, case: Case, stream: bool) -> Seen:
    """Meet a case over plain TCP."""
    async with hostile(case.script) as server:
        return await meet(stack, case, stream, f"http://127.0.0.1:{server.port}", server)
