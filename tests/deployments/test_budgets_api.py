import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors.charges import Exhausted, Facts
from actors.consultant import Consultant
from actors.host import Host
from actors.registry import SINGLETONS
from actors.transport import InProcess
from tests.replies import Seen
from tests.stack import Stack, policy, running

pytestmark = pytest.mark.anyio

DOLLAR_PRICE = {"input_per_mtok": 0, "output_per_mtok": 1000}
PRICED = {"gpt-4o-mini": {"targets": ["simulated/gpt-4o-mini"], "price": DOLLAR_PRICE}}
TOTAL = {"scope": "team", "subject": "team-a", "period": "total"}
CENTS = {**TOTAL, "amount_usd": 0.05}


@pytest.fixture
async def priced(stack: Stack) -> AsyncIterator[Stack]:
    """A gateway on which twenty tokens cost two cents; budgets set on it go afterwards."""
    await stack.policy(models=PRICED)
    await stack.knobs(fill_max_tokens=True)
    yield stack
    for each in await listed(stack):
        if each["source"] == "admin":
            await stack.call("DELETE", f"/admin/v1/budgets/{each['name']}", key=stack.admin)


async def put(stack: Stack, name: str, body: Any, key: str | None = None) -> tuple[int, Any]:
    """Set a budget: status and body."""
    path = f"/admin/v1/budgets/{name}"
    status, found, _ = await stack.call("PUT", path, body, key or stack.admin)
    return status, found


async def listed(stack: Stack, name: str | None = None) -> list[dict[str, Any]]:
    """All lines of the list, or those of one budget."""
    _, found, _ = await stack.call("GET", "/admin/v1/budgets", key=stack.admin)
    return [each for each in found["data"] if name in (None, each["name"])]


async def test_a_budget_set_at_run_time_is_spent_to_its_end_and_no_further(priced: Stack) -> None:
    """Five cents pay for two calls of two cents, however many are asked for at once."""
    assert (await put(priced, "cents", CENTS))[0] == 200
    seen = await Seen.now(priced)
    replies = await asyncio.gather(*(priced.chat(f"{n}", max_tokens=20) for n in range(12)))
    refused = [body["error"] for status, body, _ in replies if status == 429]
    assert len(refused) == 10
    assert {error["code"] for error in refused} == {"insufficient_quota"}
    assert "Budget cents reached: of team-a's 0.05 USD" in refused[0]["message"]
    await priced.settled()
    assert len(await seen.since(priced)) == 2
    (line,) = await listed(priced, "cents")
    assert line == {
        "name": "cents", "scope": "team", "subject": "team-a", "period": "total",
        "timezone": "UTC", "amount_nanos": 50_000_000, "posted_nanos": 40_000_000,
        "pending_nanos": 0, "lent_nanos": 0, "available_nanos": 10_000_000,
        "resets_in_ns": None, "source": "admin",
    }  # fmt: skip


async def test_it_binds_as_soon_as_put_returns_also_whoever_has_not_heard(priced: Stack) -> None:
    """Another replica that never watched is refused at once."""
    other = Consultant("cost_tracker", priced.lines["cost_tracker"])
    other.start()
    try:
        assert (await put(priced, "cents", CENTS))[0] == 200
        facts = Facts("k", "team-a", "", "gpt-4o-mini", "simulated/gpt-4o-mini", "v", {})
        found = await other.ask("reserve", "late", (), 50_000_001, 0, facts)
        assert isinstance(found, Exhausted)
    finally:
        await other.close()


@pytest.mark.parametrize(
    ("scope", "subject", "bound", "free"),
    [
        ("cluster", None, {}, None),
        ("team", "team-a", {}, {"team": "team-b"}),
        ("team", None, {}, None),
        ("model", "gpt-4o-mini", {}, {"model": "gpt-4o"}),
        ("user", "team-a/ann", {"user": "ann"}, {"user": "bob"}),
        ("user", None, {"user": "ann"}, {}),
    ],
)
async def test_each_scope_binds_its_own(
    priced: Stack, scope: str, subject: str | None, bound: dict[str, str], free: Any
) -> None:
    """A budget of nothing refuses those whom it binds, and lets all others through."""
    await priced.policy(models=PRICED | {"gpt-4o": PRICED["gpt-4o-mini"]})
    body = {"scope": scope, "subject": subject, "period": "day", "amount_usd": 0}
    assert (await put(priced, "nothing", body))[0] == 200
    assert (await priced.chat("bound", max_tokens=20, **bound))[0] == 429
    if free is not None:
        other = dict(free)
        if "team" in other:
            other = {"key": await priced.key(name="other", team=other["team"])}
        status, reply, _ = await priced.chat("free", max_tokens=20, **other)
        assert status == 200, reply


async def test_a_key_has_a_budget_by_its_id(priced: Stack) -> None:
    """The id that the list of keys shows, not the secret."""
    fields = {"name": "poor", "team": "team-a"}
    _, made, _ = await priced.call("POST", "/admin/v1/keys", fields, priced.admin)
    body = {"scope": "key", "subject": made["id"], "period": "week", "amount_usd": 0.01}
    assert (await put(priced, "poor-key", body))[0] == 200
    assert (await priced.chat("mine", max_tokens=20, key=made["key"]))[0] == 429
    assert (await priced.chat("another's", max_tokens=20))[0] == 200


async def test_it_can_be_raised_and_taken_away(priced: Stack) -> None:
    """What was used counts on; deleted it binds nobody, and is not there to be deleted."""
    await put(priced, "raised", {**TOTAL, "amount_usd": 0.02})
    assert (await priced.chat("one", max_tokens=20))[0] == 200
    assert (await priced.chat("two", max_tokens=20))[0] == 429
    status, shown = await put(priced, "raised", {**TOTAL, "amount_usd": 0.04})
    assert (status, shown["amount_nanos"], shown["source"]) == (200, 40_000_000, "admin")
    assert (await priced.chat("three", max_tokens=20))[0] == 200
    assert (await priced.chat("four", max_tokens=20))[0] == 429
    path = "/admin/v1/budgets/raised"
    status, gone, _ = await priced.call("DELETE", path, key=priced.admin)
    assert (status, gone) == (200, {"name": "raised", "removed": True})
    assert await listed(priced, "raised") == []
    assert (await priced.chat("five", max_tokens=20))[0] == 200
    assert (await priced.call("DELETE", path, key=priced.admin))[0] == 404


async def test_names_of_the_policy_are_taken(priced: Stack) -> None:
    """409 to set or delete one of them, the daily one of every policy included."""
    await priced.policy(models=PRICED, budgets=[{"name": "mine", "amount_usd": 1}])
    for name in ("mine", "daily"):
        status, body = await put(priced, name, CENTS)
        assert (status, body["error"]["code"]) == (409, "conflict")
    path = "/admin/v1/budgets/mine"
    assert (await priced.call("DELETE", path, key=priced.admin))[0] == 409
    assert {each["source"] for each in await listed(priced)} == {"policy"}


async def test_a_redeployed_policy_keeps_it(priced: Stack) -> None:
    """Another policy says nothing of it, so it goes on."""
    await put(priced, "kept", {**TOTAL, "amount_usd": 0.02})
    assert (await priced.chat("before", max_tokens=20))[0] == 200
    await priced.policy(models=PRICED, budgets=[{"name": "large", "amount_usd": 100}])
    assert (await priced.chat("after", max_tokens=20))[0] == 429


async def test_it_survives_a_restart(tmp_path: Path) -> None:
    """A cost tracker that starts anew on the same folder has it, with what was used of it."""
    async with running(tmp_path, policy(models=PRICED), fill_max_tokens=True) as stack:
        team = {"scope": "team", "period": "total", "amount_usd": 0.02}
        assert (await put(stack, "cents", team))[0] == 200
        key = await stack.key(name="k", team="team-k")
        assert (await stack.chat("before", max_tokens=20, key=key))[0] == 200
        await stack.settled()
        before = await listed(stack, "cents")
        assert before[0]["available_nanos"] == 0
    again = Host(SINGLETONS["cost_tracker"], str(tmp_path / "cost_tracker.sqlite"), "next")
    costs = Consultant("cost_tracker", InProcess(again))
    costs.start()
    found = await costs.ask("budgets")
    await costs.close()
    again.close()
    assert [each for each in found if each["name"] == "cents"] == before


@pytest.mark.parametrize(
    ("name", "body", "param"),
    [
        ("cap", {}, "amount_usd"),
        ("cap", {**TOTAL}, "amount_usd"),
        ("cap", {**TOTAL, "amount_usd": None}, "amount_usd"),
        ("cap", {**TOTAL, "amount_usd": -0.01}, "amount_usd"),
        ("cap", {**TOTAL, "amount_usd": 1e10}, "amount_usd"),
        ("cap", {**TOTAL, "amount_usd": "5"}, "amount_usd"),
        ("cap", {**TOTAL, "amount_usd": True}, "amount_usd"),
        ("cap", {**CENTS, "scope": "galaxy"}, "scope"),
        ("cap", {"period": "day", "amount_usd": 1}, "scope"),
        ("cap", {"scope": "team", "amount_usd": 1}, "period"),
        ("cap", {**CENTS, "period": "hour"}, "period"),
        ("cap", {**CENTS, "timezone": "Moon/Sea"}, "timezone"),
        ("cap", {**CENTS, "timezone": 1}, "timezone"),
        ("cap", {**CENTS, "subject": ""}, "subject"),
        ("cap", {**CENTS, "subject": ["team-a"]}, "subject"),
        ("cap", {**CENTS, "scope": "cluster"}, "subject"),
        ("cap", {**CENTS, "amount_nanos": 5}, "amount_nanos"),
        ("cap", {**CENTS, "color": "red"}, "color"),
        ("a|b", CENTS, "name"),
        ("n" * 101, CENTS, "name"),
    ],
)
async def test_bad_terms_are_refused_with_their_field(
    priced: Stack, name: str, body: dict[str, Any], param: str
) -> None:
    """400 that names what is wrong, and nothing is set."""
    status, found = await put(priced, name, body)
    assert (status, found["error"]["code"], found["error"]["param"]) == (
        400, "invalid_request", param,
    )  # fmt: skip
    assert await listed(priced, name) == []


async def test_only_admins_may(priced: Stack) -> None:
    """A user's key neither sees, sets nor deletes one."""
    for method in ("GET", "PUT", "DELETE"):
        path = "/admin/v1/budgets" + ("" if method == "GET" else "/cents")
        status, body, _ = await priced.call(method, path, CENTS if method == "PUT" else None)
        assert (status, body["error"]["code"]) == (403, "not_allowed")
    assert await listed(priced, "cents") == []
