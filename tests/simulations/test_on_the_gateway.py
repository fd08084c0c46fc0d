"""The scenarios on a real gateway: what they ask of it is what it offers."""

from pathlib import Path
from typing import Any

import pytest

from simulations.scenarios import simulate
from tests.stack import policy, running

pytestmark = pytest.mark.anyio

POLICY = policy(breakers={"default": {"recovery_timeout_s": 2.0, "jitter": 0.0}})


@pytest.mark.parametrize(
    ("name", "scale", "duration_s"),
    [
        ("demo", 1.0, None),
        ("steady-day", 0.5, 4.0),
        ("budget-runs-out", 0.5, 2.0),
        ("provider-outage", 1.0, 6.0),
    ],
)
async def test_it_plays_and_holds(
    tmp_path: Path, name: str, scale: float, duration_s: float | None
) -> None:
    """Every finding holds, and keys, budgets and knobs are as they were."""
    async with running(tmp_path, POLICY, ttft_s=0.02, tokens_per_s=2000.0) as stack:

        async def state() -> list[Any]:
            knobs = await stack.call("GET", "/admin/v1/providers/simulated/control", key=admin)
            return [knobs[1], await stack.services.keys.ask("count")]

        admin = stack.admin
        before = await state()
        report = await simulate(name, stack.url, admin, scale, duration_s=duration_s)
        assert [each.text for each in report.findings if each.holds is False] == []
        assert await state() == before
        budgets = await stack.services.costs.ask("budgets")
        assert {each["source"] for each in budgets} == {"policy"}
