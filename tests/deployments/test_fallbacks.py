import asyncio
from typing import Any

import pytest
import yaml

from deployments.prompts import BUILTIN
from tests.replies import Seen, events
from tests.stack import Stack

pytestmark = pytest.mark.anyio

TEXTS = yaml.safe_load((BUILTIN / "fallbacks.yaml").read_text())
FREE_INPUT = {"input_per_mtok": 0, "output_per_mtok": 1000}


def check_fallback(answer: tuple[int, Any, dict[str, str]], reason: str) -> None:
    """A 200 with the text of the template's type, at no cost, and the reason twice."""
    status, body, headers = answer
    assert status == 200, body
    assert (body["status"], body["reason"]) == ("fallback", reason)
    assert body["response"] == TEXTS["business_analysis"]
    assert (body["cost"], body["cached"]) == (0.0, False)
    assert body["token_usage"] == {"input": 0, "output": 0}
    assert headers["x-raygate-fallback"] == reason


async def open_breaker(stack: Stack) -> None:
    """No target of the default model may be asked."""
    await stack.services.breaker.ask("force", "simulated/gpt-4o-mini", "open")


async def no_requests_left(stack: Stack) -> None:
    """A limit that is used up for minutes."""
    await stack.policy(limits=[{"name": "none-left", "rate": 1, "per": "hour", "burst": 1}])
    await stack.chat("takes the only one")


async def no_tokens_left(stack: Stack) -> None:
    """A token limit that is used up for minutes."""
    limit = {"name": "few", "unit": "tokens", "rate": 1, "per": "hour", "burst": 1000}
    await stack.policy(limits=[limit])
    await stack.services.limiter.ask("acquire", "all", (("few", "", 1000),), 1, 0)
    await stack.services.limiter.ask("settle", "all", 1000)


async def no_money(stack: Stack) -> None:
    """A budget of nothing."""
    await stack.policy(budgets=[{"name": "nothing", "scope": "team", "amount_usd": 0}])


async def provider_down(stack: Stack) -> None:
    """Every call is answered with a 500."""
    await stack.policy(retries={"attempts": 2, "base_s": 0.0})
    await stack.knobs(outage=True)


async def provider_silent(stack: Stack) -> None:
    """Every call times out."""
    await stack.policy(
        retries={"attempts": 1}, breakers={"default": {"timeout_s": 0.2, "failure_threshold": 0}}
    )
    await stack.knobs(hang_rate=1.0)


async def ledger_silent(stack: Stack) -> None:
    """The cost tracker can be reached, and never answers."""
    stack.lines["cost_tracker"].silence()


CAUSES = [
    (open_breaker, "circuit_breaker_open", 503, "provider_unavailable"),
    (no_requests_left, "rate_limited", 429, "rate_limit_exceeded"),
    (no_tokens_left, "rate_limited", 429, "rate_limit_exceeded"),
    (no_money, "budget_exhausted", 429, "insufficient_quota"),
    (provider_down, "provider_error", 502, "provider_error"),
    (provider_silent, "provider_error", 504, "provider_timeout"),
    (ledger_silent, "unexpected_error", 503, "singleton_unavailable"),
]


@pytest.mark.parametrize(("cause", "reason", "status", "code"), CAUSES)
async def test_every_reason_is_answered_as_promised(
    stack: Stack, cause: Any, reason: str, status: int, code: str
) -> None:
    """The text and reason for a prompt; with `fallback: off`, and for a chat, the error."""
    await cause(stack)
    patience = {"x_raygate_timeout": "2.3" if cause is ledger_silent else "10"}
    try:
        prompt, off, chat = await asyncio.gather(
            stack.execute(f"cause {reason}", **patience),
            stack.execute(f"off {reason}", x_raygate_fallback="off", **patience),
            stack.chat(f"chat {reason}", **patience),
        )
    finally:
        stack.lines["cost_tracker"].restore()
    check_fallback(prompt, reason)
    for answer in (off, chat):
        assert answer[0] == status, answer
        assert answer[1]["error"]["code"] == code
        if status == 503:
            assert int(answer[2]["retry-after"]) >= 1
    trace = await stack.trace(prompt[1]["trace_id"])
    assert trace["outcome"] == reason
    assert trace["fallback_of"]


async def test_a_fallback_as_a_stream(stack: Stack) -> None:
    """One delta with the text, then the result with its reason."""
    await open_breaker(stack)
    status, body, headers = await stack.execute("streamed fallback", stream=True)
    found = events(body)
    assert (status, headers["x-raygate-fallback"]) == (200, "circuit_breaker_open")
    assert found[0] == ("delta", {"text": TEXTS["business_analysis"]})
    assert found[-1][1]["reason"] == "circuit_breaker_open"
    assert found[-1][1]["response"] == TEXTS["business_analysis"]


@pytest.mark.parametrize("type", ["business_analysis", "customer_support", "urgent_analysis"])
async def test_the_text_is_chosen_by_the_templates_type(stack: Stack, type: str) -> None:
    """Each built-in template has the words of its own type, none the default's."""
    for target in ("simulated/gpt-4o-mini", "simulated/gpt-4o"):
        await stack.services.breaker.ask("force", target, "open")
    name = "message" if type == "customer_support" else "data"
    path = f"/v1/prompts/{type}_v1/execute"
    status, body, _ = await stack.call("POST", path, {"inputs": {name: "help"}})
    assert status == 200, body
    assert body["response"] == TEXTS[type] != TEXTS["default"]


async def test_own_and_policys_texts_come_first(stack: Stack) -> None:
    """The version's own text, else the policy's for its type, else the default."""
    await stack.policy(fallbacks={"business_analysis": "from the policy"})
    await open_breaker(stack)
    assert (await stack.execute())[1]["response"] == "from the policy"
    for id, more in (("own", {"fallback": "my own words"}), ("typeless", {})):
        spec = {"type": "unheard_of", "template": "Hello.", **more}
        await stack.call("POST", f"/admin/v1/prompts/{id}", spec, stack.admin)
        _, body, _ = await stack.call("POST", f"/v1/prompts/{id}/execute", {"inputs": {}})
        assert body["response"] == (more.get("fallback") or TEXTS["default"])


@pytest.mark.parametrize(("cause", "reason"), [(c[0], c[1]) for c in CAUSES[:1] + CAUSES[3:6]])
@pytest.mark.parametrize("kind", ["chat", "stream", "prompt"])
async def test_a_stale_answer_is_better_than_an_error(
    stack: Stack, cause: Any, reason: str, kind: str
) -> None:
    """Past its time an answer still serves where there is nothing better, marked STALE."""
    text = f"stale {reason} {kind}"
    ask = stack.execute if kind == "prompt" else stack.chat
    more = {"stream": True} if kind == "stream" else {}
    await stack.policy(cache={"ttl_s": 0.1, "stale_if_error_s": 60})
    await ask(text, **more)
    await stack.settled()
    await asyncio.sleep(0.15)
    await cause(stack)
    # The cause has set a policy of its own: entries keep the times that they were stored with.
    status, body, headers = await ask(text, **more)
    assert status == 200
    assert headers["x-raygate-cache"] == "STALE"
    assert headers["x-raygate-fallback"] == reason
    if kind == "prompt":
        assert (body["status"], body["cached"], body["reason"]) == ("success", True, reason)


async def test_a_refused_rate_limit_is_not_papered_over(stack: Stack) -> None:
    """A stale answer is no way round a limit that protects the gateway."""
    await stack.policy(cache={"ttl_s": 0.1, "stale_if_error_s": 60})
    await stack.chat("limited")
    await stack.settled()
    await asyncio.sleep(0.15)
    await no_requests_left(stack)
    assert (await stack.chat("limited"))[0] == 429


async def test_a_fallback_is_never_cached(stack: Stack) -> None:
    """When the provider is back, the next request reaches it."""
    await open_breaker(stack)
    await stack.execute("recovers")
    await stack.services.breaker.ask("force", "simulated/gpt-4o-mini", "reset")
    seen = await Seen.now(stack)
    for _ in range(50):
        _, body, _ = await stack.execute("recovers")
        if body["status"] == "success":
            break
        await asyncio.sleep(0.02)
    assert (body["status"], body["cached"]) == ("success", False)
    assert len(await seen.since(stack)) == 1


async def test_a_silent_limiter_and_cache_end_in_time(stack: Stack) -> None:
    """Whichever singleton hangs, the request ends with its own time, and recovers after."""
    await stack.policy(limits=[{"name": "some", "rate": 1000, "burst": 1000}])
    lines = [stack.lines[name] for name in ("rate_limiter", "response_cache")]
    for line in lines:
        line.silence()
    try:
        (status, body, _), (_, health, _) = await asyncio.gather(
            stack.execute("silence", x_raygate_timeout="2.3"),
            stack.call("GET", "/health", key=stack.admin),
        )
    finally:
        for line in lines:
            line.restore()
    assert (status, body["reason"]) == (200, "unexpected_error")
    assert health["status"] == "degraded"
    silent = {name for name, one in health["singletons"].items() if not one["reachable"]}
    assert silent == {"rate_limiter", "response_cache"}
    assert (await stack.execute("and again"))[1]["status"] == "success"
