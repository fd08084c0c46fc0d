import asyncio

import pytest

from tests.replies import Seen
from tests.stack import Stack

pytestmark = pytest.mark.anyio

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "who am I?"}]}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer rg-" + "x" * 43},
        {"authorization": "Bearer "},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"x-api-key": "nonsense"},
        {"x-api-key": "\x80\xff"},
    ],
)
async def test_no_valid_key_no_answer(stack: Stack, headers: dict[str, str]) -> None:
    """401 in OpenAI's shape, and the provider hears nothing."""
    seen = await Seen.now(stack)
    url = stack.url + "/v1/chat/completions"
    async with stack.session.post(url, json=CHAT, headers=headers) as reply:
        error = (await reply.json())["error"]
        assert reply.status == 401
        assert reply.headers["x-should-retry"] == "false"
    assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")
    assert "xxxx" not in error["message"]
    assert not await seen.since(stack)


async def test_x_api_key_serves_as_well(stack: Stack) -> None:
    """The other header that clients send keys in."""
    url = stack.url + "/v1/chat/completions"
    async with stack.session.post(url, json=CHAT, headers={"x-api-key": stack.user}) as reply:
        assert reply.status == 200


async def test_a_viewer_may_look_but_not_ask(stack: Stack) -> None:
    """403 on the data plane, 200 on health and metrics."""
    viewer = await stack.key(role="viewer")
    status, body, _ = await stack.chat("as a viewer", key=viewer)
    assert (status, body["error"]["code"]) == (403, "not_allowed")
    assert (await stack.execute(key=viewer))[0] == 403
    assert (await stack.call("GET", "/metrics", key=viewer))[0] == 200
    _, health, _ = await stack.call("GET", "/health", key=viewer)
    assert "singletons" in health
    assert "costs" not in health


@pytest.mark.parametrize("role", ["user", "viewer"])
async def test_only_admins_administer(stack: Stack, role: str) -> None:
    """403, also where there is nothing: a path tells nobody what exists."""
    key = await stack.key(role=role)
    for path in ("keys", "config", "no-such-thing"):
        status, body, _ = await stack.call("GET", f"/admin/v1/{path}", key=key)
        assert (status, body["error"]["code"]) == (403, "not_allowed")


async def test_a_new_key_works_at_once_and_a_revoked_one_never_again(stack: Stack) -> None:
    """The reply to a revocation comes when no view holds the key any more."""
    key = await stack.key(team="t")
    assert (await stack.chat("new key", key=key))[0] == 200
    _, listed, _ = await stack.call("GET", "/admin/v1/keys", key=stack.admin)
    (mine,) = [each for each in listed["data"] if each["team"] == "t"]
    assert "hash" not in mine
    assert key not in str(listed)
    status, _, _ = await stack.call("DELETE", f"/admin/v1/keys/{mine['id']}", key=stack.admin)
    assert status == 200
    status, body, _ = await stack.chat("revoked key", key=key)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


async def test_keys_are_listed_by_the_page(stack: Stack) -> None:
    """Each key once, oldest first, however small the pages are."""
    for number in range(5):
        await stack.key(name=f"page {number}")
    whole = (await stack.call("GET", "/admin/v1/keys?limit=1000", key=stack.admin))[1]
    assert whole["cursor"] is None
    found, cursor = [], ""
    while cursor is not None:
        path = f"/admin/v1/keys?limit=2&cursor={cursor}"
        _, page, _ = await stack.call("GET", path, key=stack.admin)
        assert len(page["data"]) <= 2
        found += page["data"]
        cursor = page["cursor"]
    assert found == whole["data"]
    status, body, _ = await stack.call("GET", "/admin/v1/keys?cursor=x-y", key=stack.admin)
    assert (status, body["error"]["param"]) == (400, "cursor")


async def test_a_key_expires(stack: Stack) -> None:
    """expires_in_s is the life of a key."""
    key = await stack.key(expires_in_s=1.0)
    assert (await stack.chat("not expired", key=key))[0] == 200
    await asyncio.sleep(1.05)
    assert (await stack.chat("expired", key=key))[0] == 401


async def test_a_key_uses_only_its_models(stack: Stack) -> None:
    """403 names the models that it may use."""
    key = await stack.key(models=["gpt-4o"])
    status, body, _ = await stack.chat("not mine", key=key)
    assert (status, body["error"]["code"], body["error"]["param"]) == (403, "not_allowed", "model")
    assert "gpt-4o" in body["error"]["message"]
    assert (await stack.chat("mine", key=key, model="gpt-4o"))[0] == 200
    status, body, _ = await stack.execute(key=key)
    assert (status, body["error"]["code"]) == (403, "not_allowed")


@pytest.mark.parametrize("how", ["header", "body"])
async def test_high_priority_needs_the_right_to_it(stack: Stack, how: str) -> None:
    """403 without it, 200 with it, by header and by an execute body alike."""
    high = await stack.key(may_be_high=True)
    for key, expected in ((stack.user, 403), (high, 200)):
        if how == "header":
            status, body, _ = await stack.chat("me first", key=key, x_raygate_priority="high")
        else:
            status, body, _ = await stack.execute("me first", key=key, priority="high")
        assert status == expected
        if expected == 403:
            assert body["error"]["param"] == "priority"


async def test_a_silent_key_store_is_a_503_within_the_requests_time(stack: Stack) -> None:
    """A key that no view holds can't be looked up: that ends by the request's own time."""
    line = stack.lines["key_store"]
    line.silence()
    try:
        status, body, headers = await stack.chat("?", key="rg-" + "y" * 43, x_raygate_timeout="0.3")
    finally:
        line.restore()
    assert (status, body["error"]["code"]) == (503, "singleton_unavailable")
    assert int(headers["retry-after"]) >= 1
