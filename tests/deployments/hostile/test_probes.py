from typing import Any

import pytest

from tests.deployments.hostile.meeting import (
    TARGET,
    ask,
    breaker_of,
    charge_of,
    nothing_left,
    provided,
)
from tests.deployments.hostile.server import (
    BILL,
    DONE,
    EVENTS,
    Script,
    answers,
    completion,
    delta,
    for_ever,
    hostile,
    reply,
    says,
)
from tests.replies import eventually
from tests.stack import Stack

pytestmark = pytest.mark.anyio

POLICY: dict[str, Any] = {
    "retries": {"attempts": 1},
    "breakers": {
        "default": {
            "timeout_s": 0.3,
            "failure_threshold": 1,
            "recovery_timeout_s": 2,
            "recovery_factor": 1,
            "success_threshold": 1,
        }
    },
}

NO_WORD = answers(reply(b"", status="404 What"))
LATER = answers(reply(b"", "retry-after: 1", status="429 Slow"))

# To a plain probe and to a streamed one; what the breaker is afterwards; the probe's charge.
PROBES: dict[str, tuple[Script, Script, str, str]] = {
    "silence": (says(hold=True), says(EVENTS, hold=True), "open", "worst"),
    "half-a-line": (says(b"HTTP/1.1 20"), says(b"HTTP/1.1 20"), "open", "worst"),
    "head-for-ever": (for_ever(b"HTTP", b"x"), for_ever(b"HTTP", b"x"), "open", "worst"),
    "no-completion": (answers(reply(b"{}")), says(EVENTS + b"{}"), "open", "worst"),
    "redirect": (*[answers(reply(b"", "location: /", status="307 Moved"))] * 2, "open", "free"),
    "no-such-model": (NO_WORD, NO_WORD, "half_open", "free"),
    "throttled": (LATER, LATER, "half_open", "free"),
    "answer": (
        answers(reply(completion())),
        says(EVENTS + delta("hello") + BILL + DONE),
        "closed",
        "told",
    ),
}
STREAMS: dict[str, tuple[Script, str, str]] = {
    "cut-off": (says(EVENTS, delta("hello")), "open", "seen"),
    "error-event": (says(EVENTS, delta("hello"), b'data: {"error":{"a":1}}\n\n'), "open", "seen"),
    "without-end": (for_ever(EVENTS, delta("and")), "half_open", "seen"),
}
CASES = [
    (name, stream, (streamed if stream else plain), state, charge)
    for name, (plain, streamed, state, charge) in PROBES.items()
    for stream in (False, True)
] + [(name, True, script, state, charge) for name, (script, state, charge) in STREAMS.items()]


@pytest.mark.parametrize(
    ("stream", "script", "state", "charge"),
    [case[1:] for case in CASES],
    ids=[f"{case[0]}-{'stream' if case[1] else 'plain'}" for case in CASES],
)
async def test_a_probe_gives_its_permit_back(
    stack: Stack, stream: bool, script: Script, state: str, charge: str
) -> None:
    """However a half-open target answers its probe, the next one may come; each is charged once.

    What says nothing of the target's health leaves it half-open.
    """
    before = len(await stack.ledger())
    async with hostile(script) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with provided(stack, url, **POLICY) as provider:
            await stack.services.breaker.ask(
                "report", TARGET, (await generation(stack)), "failure", 0, None, None
            )
            assert (await breaker_of(stack))["state"] == "open"

            async def asked_again() -> bool:
                return (await ask(stack, stream, within_s=0.8)).attempts == 1

            await eventually(asked_again)
            await nothing_left(stack, provider)
            found = await breaker_of(stack)
            assert (found["state"], found["probes"]) == (state, 0)
            assert [charge_of(row) for row in (await stack.ledger())[before:]] == [charge]
            assert server.accepted == 1
        await eventually(server.is_left)


async def test_a_probe_that_reaches_nobody_gives_its_permit_back(stack: Stack) -> None:
    """The connection is refused: open again, and nothing is charged."""
    async with hostile(says()) as server:
        port = server.port
    before = len(await stack.ledger())
    async with provided(stack, f"http://127.0.0.1:{port}", **POLICY) as provider:
        await stack.services.breaker.ask(
            "report", TARGET, (await generation(stack)), "failure", 0, None, None
        )

        async def asked_again() -> bool:
            return (await ask(stack, False)).code == "provider_error"

        await eventually(asked_again)
        await nothing_left(stack, provider)
        found = await breaker_of(stack)
        assert (found["state"], found["probes"]) == ("open", 0)
        assert len(await stack.ledger()) == before


async def generation(stack: Stack) -> int:
    """The breaker's present one."""
    found = await stack.services.breaker.ask("status")
    number: int = found["targets"].get(TARGET, {"generation": 0})["generation"]
    return number
