import asyncio
from typing import Any

import pytest

from tests.replies import Seen, eventually
from tests.stack import Stack, running

pytestmark = pytest.mark.anyio

TARGET = "simulated/gpt-4o-mini"


async def state_of(stack: Stack, target: str = TARGET) -> Any:
    """A target's breaker as the admin sees it."""
    _, found, _ = await stack.call("GET", "/admin/v1/breakers", key=stack.admin)
    return found["data"].get(target, {}).get("state", "closed")


async def test_consecutive_failures_open_it_and_calls_stop(stack: Stack) -> None:
    """After the fifth failure the provider hears nothing more; health is degraded."""
    await stack.policy(retries={"attempts": 1})
    await stack.knobs(outage=True)
    seen = await Seen.now(stack)
    codes = []
    for number in range(12):
        _, body, headers = await stack.chat(f"down {number}")
        codes.append(body["error"]["code"])
        await asyncio.sleep(0.05)
    assert codes == ["provider_error"] * 5 + ["provider_unavailable"] * 7
    assert int(headers["retry-after"]) > 30
    assert len(await seen.since(stack)) == 5
    assert await state_of(stack) == "open"
    async with stack.session.get(stack.url + "/health") as reply:
        assert await reply.json() == {"status": "degraded"}
    _, health, _ = await stack.call("GET", "/health", key=stack.admin)
    assert health["circuit_breaker"]["state"] == "open"
    assert health["circuit_breaker"]["targets"][TARGET]["state"] == "open"


async def test_every_attempt_counts_not_every_request(stack: Stack) -> None:
    """Two requests of three attempts each are six failures: enough to open."""
    await stack.policy(retries={"attempts": 3, "base_s": 0.05, "cap_s": 0.1})
    await stack.knobs(outage=True)
    for number in range(2):
        await stack.chat(f"attempts count {number}")
    assert await eventually(lambda: _is(stack, "open"))


async def _is(stack: Stack, state: str) -> bool:
    return bool(await state_of(stack) == state)


async def test_one_breaker_per_target(stack: Stack) -> None:
    """gpt-4o's failures leave gpt-4o-mini alone."""
    await stack.services.breaker.ask("force", "simulated/gpt-4o", "open")
    assert (await stack.chat("the other one"))[0] == 200
    assert await state_of(stack) == "closed"


async def test_a_clients_mistakes_and_ours_are_no_failures(stack: Stack) -> None:
    """400s, and clients that leave, say nothing about the provider."""
    await stack.policy(breakers={"default": {"failure_threshold": 2}})
    for number in range(6):
        assert (await stack.chat(f"bad tools {number}", tools=[]))[0] == 400
    await stack.settled()
    assert await state_of(stack) == "closed"


async def test_an_operator_forces_and_resets(stack: Stack) -> None:
    """Forced open refuses at once everywhere; reset lets calls through again."""
    path = "/admin/v1/breakers"

    async def force(to: str) -> tuple[int, Any]:
        status, body, _ = await stack.call("POST", path, {"target": TARGET, "to": to}, stack.admin)
        return status, body

    assert (await force("open"))[0] == 200
    assert (await stack.chat("forced open"))[0] == 503
    assert (await force("reset"))[0] == 200
    assert (await stack.chat("reset"))[0] == 200
    status, body = await force("half_open")
    assert (status, body["error"]["code"]) == (409, "breaker_not_open")
    assert (await force("ajar"))[0] == 400
    status, body, _ = await stack.call(
        "POST", path, {"target": "nobody/none", "to": "open"}, stack.admin
    )
    assert status == 404


async def test_recovery_lets_few_probes_through_and_closes(tmp_path: Any) -> None:
    """Of 60 requests at once on a recovering target at most 3 are in flight, all marked."""
    breaker = {
        "failure_threshold": 3,
        "recovery_timeout_s": 2,
        "recovery_factor": 1,
        "success_threshold": 3,
    }
    changes: dict[str, Any] = {
        "models": {"gpt-4o-mini": {"targets": [TARGET]}},
        "breakers": {"default": breaker},
        "retries": {"attempts": 1},
    }
    async with running(tmp_path, changes) as stack:
        await stack.knobs(outage=True)
        for number in range(3):
            await stack.chat(f"trip {number}")
        assert await eventually(lambda: _is(stack, "open"))
        await stack.knobs(outage=False, ttft_s=0.3)
        await asyncio.sleep(2.05)
        seen = await Seen.now(stack)
        answers = await asyncio.gather(*(stack.chat(f"recovering {n}") for n in range(60)))
        probes = await seen.since(stack)
        assert [call.probe for call in probes] == [True] * 3
        assert max(call.probes_in_flight for call in probes) == 3
        assert sum(status == 200 for status, _, _ in answers) == 3
        refused = {body["error"]["code"] for status, body, _ in answers if status != 200}
        assert refused == {"provider_unavailable"}
        assert await eventually(lambda: _is(stack, "closed"))
        assert (await stack.chat("recovered"))[0] == 200
        assert not (await seen.since(stack))[-1].probe
