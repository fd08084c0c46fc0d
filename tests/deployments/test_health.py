import pytest

from tests.stack import Stack

pytestmark = pytest.mark.anyio


async def test_the_whole_picture_for_an_admin(stack: Stack) -> None:
    """Every part that the outside contract shows, with the figures in force."""
    await stack.policy(limits=[{"name": "seen", "rate": 1, "per": "hour", "burst": 100}])
    await stack.chat("seen in health")
    _, health, _ = await stack.call("GET", "/health", key=stack.admin)
    assert health["status"] == "healthy"
    assert health["circuit_breaker"]["state"] == "closed"
    limiter = health["rate_limiter"]
    assert (limiter["tokens_available"], limiter["max_tokens"]) == (99.0, 100)
    assert limiter["utilization"] == pytest.approx(0.01)
    assert {"size", "max_size", "bytes", "utilization", "hit_rate"} <= health["cache"].keys()
    assert set(health["costs"]) == {
        "today_cost",
        "daily_budget",
        "budget_used_percentage",
        "remaining_budget",
        "average_daily_cost_7d",
        "projected_monthly_cost",
    }
    assert health["costs"]["daily_budget"] == 500.0
    assert health["costs"]["today_cost"] > 0
    assert set(health["singletons"]) == set(stack.services.consultants)
    assert all(
        one == {"epoch": 1, "reachable": True, "restarts": 0, "storage": "ok"}
        for one in health["singletons"].values()
    )


async def test_a_user_sees_no_money_and_nobody_sees_one_word(stack: Stack) -> None:
    """Without a key only the status; with a wrong one 401."""
    _, health, _ = await stack.call("GET", "/health")
    assert "costs" not in health
    assert "circuit_breaker" in health
    async with stack.session.get(stack.url + "/health") as reply:
        assert await reply.json() == {"status": "healthy"}
    assert (await stack.call("GET", "/health", key="rg-wrong"))[0] == 401


async def test_nearly_used_up_is_a_warning(stack: Stack) -> None:
    """Under 10 % of the global limiter, or over 90 % of the budget."""
    await stack.policy(limits=[{"name": "nearly", "rate": 1, "per": "hour", "burst": 1}])
    await stack.chat("the last one")
    _, health, _ = await stack.call("GET", "/health")
    assert health["status"] == "warning", health
    price = {"input_per_mtok": 0, "output_per_mtok": 1000}
    await stack.policy(
        models={"gpt-4o-mini": {"targets": ["simulated/gpt-4o-mini"], "price": price}},
        budgets=[{"name": "nearly-spent", "amount_usd": 0.021}],
    )
    await stack.knobs(fill_max_tokens=True)
    assert (await stack.chat("spends it", max_tokens=20))[0] == 200
    await stack.settled()
    _, health, _ = await stack.call("GET", "/health", key=stack.admin)
    assert (health["status"], health["costs"]["budget_used_percentage"] > 90) == ("warning", True)


async def test_a_forced_breaker_is_degraded(stack: Stack) -> None:
    """The worst of the targets' states stands at the top."""
    await stack.services.breaker.ask("force", "simulated/gpt-4o", "open")
    _, health, _ = await stack.call("GET", "/health")
    assert health["status"] == "degraded"
    assert health["circuit_breaker"]["state"] == "forced_open"


async def test_a_damaged_ledger_is_seen_and_takes_no_money(stack: Stack) -> None:
    """Degraded, with the row for an admin; a call is refused with what to do."""
    await stack.policy()
    assert (await stack.chat("sound"))[0] == 200
    stack.lines["cost_tracker"].host._mechanism.damaged("ledger row 7 is not what was written")
    _, health, _ = await stack.call("GET", "/health", key=stack.admin)
    assert health["status"] == "degraded"
    assert health["ledger"] == {"damage": "ledger row 7 is not what was written"}
    status, body, _ = await stack.chat("costs money")
    assert status == 503
    assert body["error"]["code"] == "ledger_damaged"
    assert "ledger row 7" in body["error"]["message"]
