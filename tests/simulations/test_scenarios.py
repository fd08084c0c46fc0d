import asyncio
import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from simulations import accounts, budget_runs_out, demo, provider_outage
from simulations.client import Gateway as Client
from simulations.client import SimulationError
from simulations.records import Progress, Record, Sample, Window
from simulations.scenarios import SCENARIOS, simulate
from simulations.workload import Intent

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


class Gateway(Protocol):
    """What these tests touch of the fake gateway."""

    url: str
    skip_charges: int
    broken_pages: int
    knobs: dict[str, object]
    keys: dict[str, str]
    budgets: dict[str, tuple[str, int]]
    ledger: list[dict[str, object]]


@pytest.fixture(autouse=True)
def quick_trickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a breaker to close is tried in tenths of a second."""
    monkeypatch.setattr(provider_outage, "TRICKLE_PER_S", 20.0)
    monkeypatch.setattr(provider_outage, "TRICKLE_STEP_S", 0.2)


@pytest.mark.parametrize("name", list(SCENARIOS))
async def test_each_scenario_finds_a_sound_gateway_sound(fake_gateway: Gateway, name: str) -> None:
    """No finding speaks against a gateway that does what it should, and nothing stays behind."""
    told: list[Progress] = []
    report = await simulate(name, fake_gateway.url, "rg-admin", 1.0, told.append, 3.0)
    assert report.scenario == name
    assert [finding.text for finding in report.findings if finding.holds is False] == []
    assert told[-1].done == told[-1].total
    assert fake_gateway.keys == {}
    assert fake_gateway.budgets == {}
    assert not any(fake_gateway.knobs.values())


async def test_a_book_that_can_not_be_read_for_a_moment_spoils_no_run(
    fake_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider's log is asked for again; for good unreadable, it is an error."""

    async def broken(
        pages: int, patience_s: float, admin: Client, since: accounts.Position, key_id: str
    ) -> accounts.Accounts:
        fake_gateway.broken_pages = pages
        return await accounts.reconcile(admin, since, key_id, patience_s)

    monkeypatch.setattr(demo, "reconcile", functools.partial(broken, 1, 10.0))
    assert (await simulate("demo", fake_gateway.url, "rg-admin")).holds
    monkeypatch.setattr(demo, "reconcile", functools.partial(broken, 1000, 0.0))
    with pytest.raises(SimulationError, match="502"):
        await simulate("demo", fake_gateway.url, "rg-admin")
    assert fake_gateway.keys == {}


async def test_a_call_that_is_missing_from_the_ledger_is_found(
    fake_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report does not hold when the books differ by a single call."""
    fake_gateway.skip_charges = 1
    monkeypatch.setattr(demo, "reconcile", functools.partial(accounts.reconcile, patience_s=0.0))
    report = await simulate("demo", fake_gateway.url, "rg-admin")
    assert report.accounts is not None
    assert report.accounts.uncharged == 1
    assert not report.holds


async def test_the_budget_pays_for_exactly_what_it_should(fake_gateway: Gateway) -> None:
    """Forty calls of a budget for forty, eighty refusals, and one call to ask for the price."""
    report = await simulate("budget-runs-out", fake_gateway.url, "rg-admin", duration_s=1.0)
    outcomes = [record.reason for record in report.records]
    assert outcomes.count("insufficient_quota") == 80
    assert outcomes.count("") == 40
    assert len(fake_gateway.ledger) == 41


async def seen(condition: Callable[[], bool]) -> None:
    """Returns when it holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the fake gateway has no events to wait for
            await asyncio.sleep(0.02)


async def test_an_interrupted_outage_is_over(fake_gateway: Gateway) -> None:
    """A cancel in the middle of the outage turns the provider on again and revokes the key."""
    before = dict(fake_gateway.knobs)
    run = asyncio.create_task(
        simulate("provider-outage", fake_gateway.url, "rg-admin", duration_s=3.0)
    )
    await seen(lambda: bool(fake_gateway.knobs["outage"]))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert fake_gateway.knobs == before
    assert fake_gateway.keys == {}


async def test_sigterm_ends_an_outage_too(fake_gateway: Gateway) -> None:
    """`run`, as the command line uses it, puts the provider right before a SIGTERM ends it."""
    before = dict(fake_gateway.knobs)
    code = (
        "from simulations.scenarios import run\n"
        f"run('provider-outage', {fake_gateway.url!r}, 'rg-admin', duration_s=3.0)"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
    )
    await seen(lambda: bool(fake_gateway.knobs["outage"]))
    child.terminate()
    assert await asyncio.wait_for(child.wait(), 10) != 0
    assert fake_gateway.knobs == before
    assert fake_gateway.keys == {}


async def test_an_interrupted_budget_is_deleted(fake_gateway: Gateway) -> None:
    """A cancel while the money is being spent leaves neither budget nor key."""
    run = asyncio.create_task(
        simulate("budget-runs-out", fake_gateway.url, "rg-admin", duration_s=30.0)
    )
    await seen(lambda: bool(fake_gateway.budgets))
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run
    assert fake_gateway.budgets == {}
    assert fake_gateway.keys == {}


async def test_an_unreachable_gateway_is_said(fake_gateway: Gateway) -> None:
    """No gateway at the address is one sentence that names it."""
    with pytest.raises(SimulationError, match=r"no answer from http://127\.0\.0\.1:9"):
        await simulate("demo", "http://127.0.0.1:9", "rg-admin")


def test_the_demo_is_ten_normal_and_three_urgent_at_once() -> None:
    """Three users ask ten times, three urgent requests of high priority come at the same time."""
    intents = demo.intents(1.0, 7)
    normal = [intent for intent in intents if intent.priority == "normal"]
    urgent = [intent for intent in intents if intent.priority == "high"]
    assert (len(normal), len(urgent)) == (10, 3)
    assert len({intent.user for intent in normal}) == 3
    assert {intent.at_s for intent in intents} == {0.0}
    assert {intent.template for intent in normal} == {"business_analysis_v1"}
    assert {intent.template for intent in urgent} == {"urgent_analysis_v1"}


def test_no_two_requests_of_the_budget_scenario_are_alike() -> None:
    """A cache hit would be free and spoil the count."""
    intents = budget_runs_out.intents("m", 1.0, 10.0, 7)
    assert len(intents) == budget_runs_out.CALLS * budget_runs_out.DEMAND
    assert len({intent.messages for intent in intents}) == len(intents)


def test_an_outage_that_opens_no_breaker_is_a_finding_against_it() -> None:
    """Closed throughout means that the breaker did not do its work."""
    samples = [Sample(float(at), "healthy", {"t": "closed"}) for at in range(10)]
    records = [Record(Intent(0.0, "prompt"), "success", latency_s=0.1)]
    found = provider_outage.findings(records, samples, Window("outage", 3.0, 6.0))
    assert any("never opened" in finding.text and not finding.holds for finding in found)
