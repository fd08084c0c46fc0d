import asyncio

import pytest

from deployments.config import parse_policy
from deployments.policy import PolicyInForce, Who
from tests.replies import Seen
from tests.stack import Stack, policy, running

pytestmark = pytest.mark.anyio

PRICES = {"simulated": "openai"}
ANN = Who("key1", "team-a", "gpt-4o", "ann")


def in_force(**changes: object) -> PolicyInForce:
    """The small policy, resolved."""
    return PolicyInForce(parse_policy(policy(**changes), ("simulated",)), PRICES)


@pytest.mark.parametrize(
    ("scope", "subject"),
    [
        ("cluster", ""),
        ("team", "team-a"),
        ("key", "key1"),
        ("model", "gpt-4o"),
        ("key_model", "key1|gpt-4o"),
        ("user", "team-a/ann"),
    ],
)
def test_each_scope_has_its_subject(scope: str, subject: str) -> None:
    """A user is one within his team: the same name elsewhere is somebody else."""
    limit = {"name": "x", "scope": scope, "burst": 1}
    (take,) = in_force(limits=[limit]).request_takes(ANN)
    assert take == ("x", subject, 1)


def test_who_has_no_subject_is_not_bound() -> None:
    """A request without a user falls under no user's limit, nor budget."""
    nobody = Who("k", "", "m", "")
    made = in_force(
        limits=[{"name": "u", "scope": "user", "burst": 1}],
        budgets=[{"name": "b", "scope": "user", "amount_usd": 1}],
    )
    assert made.request_takes(nobody) == ()
    assert made.budget_subjects(nobody) == ()


def test_tokens_and_slots_are_taken_at_admission() -> None:
    """Tokens by their number, slots by one; requests are not among them."""
    made = in_force(
        limits=[
            {"name": "r", "burst": 1},
            {"name": "t", "unit": "tokens", "burst": 1000},
            {"name": "c", "unit": "concurrent", "burst": 4},
        ]
    )
    assert made.admission_takes(ANN, 70) == (("t", "", 70), ("c", "", 1))


def test_the_revision_follows_the_content() -> None:
    """Same content, same revision, whoever computes it; other content, another."""
    assert in_force().revision == in_force().revision
    assert in_force().revision != in_force(cache={"ttl_s": 1}).revision


async def test_a_policy_changes_in_place_and_keeps_what_was_used(stack: Stack) -> None:
    """A limit that is raised keeps its debits; requests see the new models at once."""
    limit = {"name": "in-place", "rate": 1, "per": "hour", "burst": 2}
    await stack.policy(limits=[limit])
    for number in range(2):
        assert (await stack.chat(f"used {number}"))[0] == 200
    assert (await stack.chat("used up"))[0] == 429
    await stack.policy(limits=[limit | {"burst": 3}])
    assert (await stack.chat("one more"))[0] == 200
    assert (await stack.chat("no more"))[0] == 429
    await stack.policy(models={"renamed": {"targets": ["simulated/gpt-4o"]}})
    assert (await stack.chat("gone"))[0] == 404
    assert (await stack.chat("new", model="renamed"))[0] == 200


@pytest.mark.parametrize(
    "bad",
    [
        {"limits": [{"name": "x", "rate": 0, "burst": 1}]},
        {"budgets": [{"name": "x", "amount_usd": 1, "timezone": "Mars"}]},
        {"models": {"m": {"targets": ["simulated/unheard-of"]}}},
        {"models": {"m": {"targets": ["nobody/x"]}}},
        {"budgets": [{"name": "daily", "scope": "key", "amount_usd": 1}]},
    ],
)
async def test_a_bad_policy_is_in_force_nowhere(stack: Stack, bad: dict[str, object]) -> None:
    """Neither here nor at any singleton; health says so until a good one comes."""
    await stack.policy(limits=[{"name": "kept", "rate": 5, "burst": 50}])
    _, before, _ = await stack.call("GET", "/admin/v1/config", key=stack.admin)
    await stack.services.apply_policy(policy(**bad))
    _, after, _ = await stack.call("GET", "/admin/v1/config", key=stack.admin)
    assert after["revision"] == before["revision"]
    assert after["problem"].startswith("user_config.")
    _, limits, _ = await stack.call("GET", "/admin/v1/limits", key=stack.admin)
    assert [each["name"] for each in limits["limits"]] == ["kept"]
    _, health, _ = await stack.call("GET", "/health", key=stack.admin)
    assert (health["status"], health["policy"]["revision"]) == ("degraded", before["revision"])
    assert (await stack.chat("goes on"))[0] == 200
    await stack.policy()
    _, health, _ = await stack.call("GET", "/health", key=stack.admin)
    assert (health["status"], "problem" in health["policy"]) == ("healthy", False)


async def test_without_any_policy_requests_are_told_to_wait(stack: Stack) -> None:
    """503, not a 500; the process lives, and is not ready."""
    good, stack.services.policy = stack.services.policy, None
    try:
        for status, body, headers in (await stack.chat("early"), await stack.execute("early")):
            assert (status, body["error"]["code"]) == (503, "overloaded")
            assert "retry-after" in headers
        assert (await stack.call("GET", "/health/live"))[0] == 200
        status, body, _ = await stack.call("GET", "/health/ready")
        assert (status, body["waiting_for"]) == (503, ["a valid policy"])
        assert (await stack.call("GET", "/v1/models"))[1]["data"] == []
        assert (await stack.call("GET", "/health", key=stack.admin))[0] == 200
    finally:
        stack.services.policy = good


async def test_a_policy_that_a_silent_singleton_misses_is_a_problem(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in force here, and health tells that it is not everywhere."""
    monkeypatch.setattr("deployments.services.asyncio.timeout", lambda _: asyncio.Timeout(0.0))
    stack.lines["rate_limiter"].silence()
    try:
        await stack.services.apply_policy(policy(cache={"ttl_s": 77}))
    finally:
        stack.lines["rate_limiter"].restore()
    assert "not in force everywhere" in (stack.services.policy_problem or "")


async def test_unpriced_and_free_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An unknown model never costs 0 by mistake; one that is marked free does on purpose."""
    free = {"targets": ["simulated/gpt-4o-mini"], "price": {"free": True}}
    folder = tmp_path_factory.mktemp("free")
    async with running(folder, policy(models={"gpt-4o-mini": free})) as stack:
        seen = await Seen.now(stack)
        _, _, headers = await stack.chat("for free")
        assert headers["x-raygate-cost-usd"] == "0.000000000"
        assert len(await seen.since(stack)) == 1
        (row,) = await stack.ledger()
        assert (row["amount_nanos"], row["price_version"]) == (0, "free")
        assert row["output"] > 0
