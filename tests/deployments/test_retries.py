import asyncio
import time

import pytest

from deployments.providers.simulated_client import SimulatedClient
from deployments.retries import RetryBudget, backoff_s
from tests.replies import Seen
from tests.stack import PROVIDER_KEY, Stack

pytestmark = pytest.mark.anyio

CALM = {"default": {"failure_threshold": 0, "min_calls": 100_000}}


@pytest.mark.parametrize(("failures", "bound"), [(1, 0.5), (2, 1.0), (3, 2.0), (9, 8.0)])
def test_backoff_is_full_jitter(failures: int, bound: float) -> None:
    """Uniform from 0 to min(cap, base · 2ⁿ): the whole range is used, and nothing beyond."""
    waits = [backoff_s(failures, 0.5, 8.0, None) for _ in range(2000)]
    assert all(0 <= wait <= bound for wait in waits)
    assert min(waits) < 0.05 * bound
    assert max(waits) > 0.95 * bound
    assert sum(waits) / len(waits) == pytest.approx(bound / 2, rel=0.1)


def test_a_longer_retry_after_wins() -> None:
    """And a shorter one does not shorten the wait."""
    assert backoff_s(1, 0.5, 8.0, 3.0) == 3.0
    assert backoff_s(1, 0.0, 8.0, 0.0) == 0.0


def test_a_retry_budget_is_a_share_of_calls_and_a_floor() -> None:
    """20 % of 100 calls and a floor of 3 are 23 retries."""
    budget = RetryBudget(0.2, 3)
    for _ in range(100):
        budget.called()
    assert sum(budget.may_retry() for _ in range(100)) == 23


@pytest.mark.parametrize("stream", [False, True])
async def test_each_attempt_is_admitted_and_charged_by_itself(stack: Stack, stream: bool) -> None:
    """Every call has a charge of its own, and takes a unit of the request limits."""
    limit = {"name": f"attempts-{stream}", "rate": 1, "per": "hour", "burst": 50}
    await stack.policy(retries={"attempts": 4, "base_s": 0.0}, breakers=CALM, limits=[limit])
    await stack.knobs(error_rate=1.0)
    seen = await Seen.now(stack)
    status, _, headers = await stack.chat("four attempts", stream=stream)
    made = await seen.since(stack)
    assert (status, headers["x-raygate-attempts"]) == (502, "4")
    assert len({call.charge_id for call in made}) == len(made) == 4
    rows = [r for r in await stack.ledger() if r["charge_id"] in {c.charge_id for c in made}]
    assert [(row["state"], row["amount_nanos"]) for row in rows] == [("actual", 0)] * 4
    _, limits, _ = await stack.call("GET", "/admin/v1/limits", key=stack.admin)
    assert [each["remaining"] for each in limits["limits"]] == [46]


async def test_an_attempt_that_succeeds_ends_the_trying(stack: Stack) -> None:
    """The reply counts its attempts; the cost is that of all of them."""
    await stack.policy(retries={"attempts": 10, "base_s": 0.0, "budget_floor": 100}, breakers=CALM)
    await stack.knobs(error_rate=0.5, seed=1)
    seen = await Seen.now(stack)
    attempts = []
    for number in range(10):
        status, _, headers = await stack.chat(f"until it works {number}")
        assert status == 200
        attempts.append(int(headers["x-raygate-attempts"]))
    made = await seen.since(stack)
    assert sum(attempts) == len(made)
    assert max(attempts) > 1
    assert sum(call.outcome == "ok" for call in made) == 10


@pytest.mark.parametrize(
    ("error_status", "tries", "told"),
    [
        (400, 1, (400, "invalid_request")),
        (422, 1, (400, "invalid_request")),
        (401, 1, (502, "provider_error")),
        (403, 1, (502, "provider_error")),
        (404, 1, (502, "provider_error")),
        (408, 3, (502, "provider_error")),
        (429, 3, (502, "provider_error")),
        (500, 3, (502, "provider_error")),
        (503, 3, (502, "provider_error")),
        (529, 3, (502, "provider_error")),
    ],
)
async def test_which_errors_are_tried_again(
    stack: Stack, error_status: int, tries: int, told: tuple[int, str]
) -> None:
    """Connection errors, 408, 429 and 5xx are; other 4xx are not.

    The provider's words are quoted, but for those about our own key, which they may hold.
    """
    await stack.policy(retries={"attempts": 3, "base_s": 0.0}, breakers=CALM)
    await stack.knobs(error_rate=1.0, error_status=error_status)
    seen = await Seen.now(stack)
    status, body, _ = await stack.chat(f"error {error_status}")
    assert (status, body["error"]["code"]) == told
    quoted = "The simulated provider failed." in body["error"]["message"]
    assert quoted == (error_status not in (401, 403))
    assert len(await seen.since(stack)) == tries


@pytest.mark.parametrize("retry_after_s", [1.0])
async def test_retry_after_is_honoured(stack: Stack, retry_after_s: float) -> None:
    """No attempt before it is over, one soon after, and the target rests meanwhile."""
    await stack.policy(retries={"attempts": 2, "base_s": 0.0})
    await stack.knobs(throttle=True, retry_after_s=retry_after_s)
    asked = asyncio.create_task(stack.chat(f"throttled {retry_after_s}"))
    await asyncio.sleep(0.15)
    await stack.knobs(throttle=False)
    seen = await Seen.now(stack)
    status, body, _ = await stack.chat("meanwhile")
    assert (status, body["error"]["code"]) == (503, "provider_unavailable")
    status, _, headers = await asked
    assert (status, headers["x-raygate-attempts"]) == (200, "2")
    (call,) = await seen.since(stack)
    assert call.outcome == "ok"


async def test_a_retry_after_beyond_the_deadline_is_a_refusal_now(stack: Stack) -> None:
    """Nobody sleeps for what can't be."""
    await stack.policy(retries={"attempts": 3, "base_s": 0.0})
    await stack.knobs(throttle=True, retry_after_s=30)
    began = time.monotonic()
    status, body, headers = await stack.chat("too long", x_raygate_timeout="5")
    assert time.monotonic() - began < 4
    assert (status, body["error"]["code"]) == (502, "provider_error")
    assert "429" in body["error"]["message"]
    assert headers["retry-after"] == "30"


async def test_a_retry_storm_is_cut_short(stack: Stack) -> None:
    """With everything failing, calls exceed requests by the retry budget and no more."""
    retries = {"attempts": 5, "base_s": 0.0, "budget_share": 0.2, "budget_floor": 5}
    await stack.policy(retries=retries, breakers=CALM)
    await stack.knobs(error_rate=1.0)
    seen = await Seen.now(stack)
    await asyncio.gather(*(stack.chat(f"storm {number}") for number in range(50)))
    assert 50 < len(await seen.since(stack)) <= 50 + 5 + 10 + 1


async def test_a_refused_retry_is_not_made(stack: Stack) -> None:
    """An attempt that its budget refuses is no call: the reply names the budget."""
    price = {"input_per_mtok": 0, "output_per_mtok": 1000}
    model = {"targets": ["simulated/gpt-4o-mini"], "price": price}
    await stack.policy(
        models={"gpt-4o-mini": model},
        retries={"attempts": 3, "base_s": 0.0},
        budgets=[{"name": "one-attempt", "amount_usd": 0.03}],
    )
    await stack.knobs(reset_rate=1.0, reset_at="before")
    seen = await Seen.now(stack)
    status, body, _ = await stack.chat("one attempt only", max_tokens=20)
    assert (status, body["error"]["code"]) == (429, "insufficient_quota")
    assert len(await seen.since(stack)) == 1


async def test_connection_errors_are_tried_again_and_cost_nothing(stack: Stack) -> None:
    """Where nothing was sent there is no charge, and nothing stays held."""
    providers = stack.services.providers
    provider = providers["simulated"]
    providers["simulated"] = SimulatedClient("simulated", "http://127.0.0.1:9/v1", PROVIDER_KEY)
    rows = len(await stack.ledger())
    await stack.policy(retries={"attempts": 2, "base_s": 0.0})
    try:
        status, body, headers = await stack.chat("nobody there")
    finally:
        providers["simulated"] = provider
    assert (status, body["error"]["code"]) == (502, "provider_error")
    assert headers["x-raygate-attempts"] == "2"
    assert "127.0.0.1" not in body["error"]["message"]
    assert len(await stack.ledger()) == rows
