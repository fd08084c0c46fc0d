from typing import Any

import pytest

from tests.stack import Stack

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"role": "emperor"}, "role"),
        ({"role": 3}, "role"),
        ({"name": 3}, "name"),
        ({"name": "n" * 300}, "name"),
        ({"team": []}, "team"),
        ({"models": "gpt-4o"}, "models"),
        ({"models": [3]}, "models[0]"),
        ({"may_be_high": "yes"}, "may_be_high"),
        ({"max_wait_s": "long"}, "max_wait_s"),
        ({"max_wait_s": True}, "max_wait_s"),
        ({"max_wait_s": -1}, "max_wait_s"),
        ({"max_wait_s": 1e300}, "max_wait_s"),
        ({"expires_in_s": -1}, "expires_in_s"),
        ({"expires_in_s": 1e300}, "expires_in_s"),
        ({"expires_in_s": 0}, "expires_ns"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_key_that_makes_no_sense(stack: Stack, fields: Any, param: str) -> None:
    """400 that names the field."""
    status, body, _ = await stack.call("POST", "/admin/v1/keys", fields, stack.admin)
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert body["error"]["param"] == param


async def test_a_key_is_shown_once_with_what_it_may(stack: Stack) -> None:
    """Its secret is in the reply to its making, its record in the list; no hash anywhere."""
    fields = {"name": "ci", "team": "t", "role": "viewer", "max_wait_s": 0, "models": ["gpt-4o"]}
    _, made, _ = await stack.call("POST", "/admin/v1/keys", fields, stack.admin)
    assert made["key"].startswith("rg-")
    assert (made["max_wait_ns"], made["role"], made["models"]) == (0, "viewer", ["gpt-4o"])
    _, listed, _ = await stack.call("GET", "/admin/v1/keys", key=stack.admin)
    (mine,) = [each for each in listed["data"] if each["id"] == made["id"]]
    assert "key" not in mine
    assert "hash" not in mine


async def test_a_key_without_patience_never_queues(stack: Stack) -> None:
    """max_wait_s 0 is 0, not the default; a header cannot lift it."""
    await stack.policy(limits=[{"name": "no-patience", "rate": 1, "burst": 1}])
    key = await stack.key(max_wait_s=0)
    assert (await stack.chat("first", key=key))[0] == 200
    assert (await stack.chat("second", key=key, x_raygate_max_wait="5"))[0] == 429


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("DELETE", "keys/nope", None, 404),
        ("GET", "costs/ledger?limit=0", None, 400),
        ("GET", "costs/ledger?limit=%C2%B2", None, 400),
        ("GET", "costs/summary?by=planet", None, 400),
        ("GET", "costs/summary?by=day&days=0", None, 400),
        ("GET", "costs/summary?by=day&days=" + "9" * 5000, None, 400),
        ("POST", "breakers", {}, 400),
        ("POST", "breakers", [], 400),
        ("PUT", "prompts/nope/labels/production", {"version": 1}, 404),
        ("PUT", "prompts/business_analysis_v1/labels/production", {"version": 9}, 404),
        ("PUT", "prompts/business_analysis_v1/labels/production", {"version": "1"}, 400),
        ("PUT", "prompts/business_analysis_v1/labels/production", {"version": True}, 400),
        ("DELETE", "prompts/business_analysis_v1/labels/nope", None, 404),
        ("POST", "prompts/x y", {}, 400),
        ("POST", "experiments/x", {}, 400),
        ("POST", "experiments/x", {"variants": [{"id": "a", "weight": -1}]}, 400),
        ("POST", "experiments/nope/start", {}, 404),
        ("POST", "experiments/nope/stop", {}, 404),
        ("GET", "experiments/nope/results", None, 404),
        ("DELETE", "experiments/nope", None, 404),
        ("GET", "providers/nope/control", None, 404),
        ("GET", "providers/simulated/secrets", None, 404),
        ("PUT", "providers/simulated/control", {"error_rate": 7}, 400),
    ],
)
async def test_admin_calls_that_make_no_sense(
    stack: Stack, method: str, path: str, body: Any, status: int
) -> None:
    """A clear error each, never a 500."""
    found, answer, _ = await stack.call(method, f"/admin/v1/{path}", body, stack.admin)
    assert found == status, answer
    assert answer["error"]["message"]


async def test_spend_by_key_team_model_and_day(stack: Stack) -> None:
    """The sums of each agree with the summary's day."""
    await stack.chat("spent by me")
    await stack.chat("spent by another", key=await stack.key(team="spenders"), model="gpt-4o")
    await stack.settled()
    for by in ("key", "team", "model", "day"):
        path = f"/admin/v1/costs/summary?by={by}&days=2"
        status, summary, _ = await stack.call("GET", path, key=stack.admin)
        assert status == 200
        assert sum(row["nanos"] for row in summary["by"]) == summary["today_nanos"] > 0
        if by == "team":
            assert {"team-a", "spenders"} <= {row["value"] for row in summary["by"]}


async def test_the_ledger_comes_in_pages(stack: Stack) -> None:
    """Each row once, oldest first, in an unbroken sequence."""
    for number in range(5):
        await stack.chat(f"a row {number}")
    await stack.settled()
    rows: list[Any] = []
    after = ""
    while True:
        path = f"/admin/v1/costs/ledger?limit=2&after={after}"
        _, page, _ = await stack.call("GET", path, key=stack.admin)
        rows += page["data"]
        if page["next"] is None:
            break
        after = page["next"]
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 5


async def test_the_config_shows_no_secret(stack: Stack) -> None:
    """The policy in force and the structure, keys by their variables' names only."""
    _, shown, _ = await stack.call("GET", "/admin/v1/config", key=stack.admin)
    assert shown["policy"]["models"]["gpt-4o"]["targets"] == [
        "simulated/gpt-4o",
        "simulated/gpt-4o-mini",
    ]
    assert shown["args"]["providers"][0]["name"] == "simulated"
    assert "sk-sim" not in str(shown)


async def test_prompts_and_experiments_are_listed(stack: Stack) -> None:
    """The built-in templates are there from the start."""
    _, prompts, _ = await stack.call("GET", "/admin/v1/prompts", key=stack.admin)
    names = {"business_analysis_v1", "customer_support_v1", "urgent_analysis_v1"}
    assert names <= set(prompts["data"])
    spec = {"variants": [{"id": "a", "weight": 1}, {"id": "b", "weight": 3, "model": "gpt-4o"}]}
    await stack.call("POST", "/admin/v1/experiments/listed", spec, stack.admin)
    _, listed, _ = await stack.call("GET", "/admin/v1/experiments", key=stack.admin)
    (mine,) = [each for each in listed["data"] if each["id"] == "listed"]
    assert (mine["status"], mine["variants"][1]["model"]) == ("draft", "gpt-4o")
    status, body, _ = await stack.call(
        "POST",
        "/admin/v1/experiments/listed",
        {"variants": [{"id": "z", "weight": 1}]},
        stack.admin,
    )
    assert (status, body["error"]["code"]) == (409, "conflict")


async def test_a_silent_singleton_ends_an_admin_call(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 after a while, not a request that hangs for ever."""
    monkeypatch.setattr("deployments.app._ADMIN_S", 0.2)
    stack.lines["prompt_registry"].silence()
    try:
        status, body, headers = await stack.call("GET", "/admin/v1/prompts", key=stack.admin)
    finally:
        stack.lines["prompt_registry"].restore()
    assert (status, body["error"]["code"]) == (503, "singleton_unavailable")
    assert headers["retry-after"]


async def test_the_simulated_provider_is_run_from_here(stack: Stack) -> None:
    """Its knobs are read, turned and put back through the gateway, with one key."""
    path = "/admin/v1/providers/simulated/control"
    assert (await stack.call("GET", path, key=stack.admin))[1]["error_rate"] == 0
    assert (await stack.call("PUT", path, {"error_rate": 0.5}, stack.admin))[1]["error_rate"] == 0.5
    assert (await stack.call("DELETE", path, key=stack.admin))[1]["error_rate"] == 0
    _, stats, _ = await stack.call("GET", "/admin/v1/providers/simulated/stats", key=stack.admin)
    assert stats["calls"] >= 0
