import asyncio
import json
from typing import Any

import pytest

from deployments.app import create_app
from tests.stack import Stack

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/prompts/business_analysis_v1/execute", 404),
        ("POST", "/v1/prompts/a/b/execute", 404),
        ("GET", "/v1/chat/completions", 404),
        ("DELETE", "/health", 404),
        ("GET", "/admin/v1/nothing", 404),
        ("PATCH", "/admin/v1/keys", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("POST", "/" + "x" * 5000, 404),
    ],
)
async def test_where_there_is_nothing(stack: Stack, method: str, path: str, status: int) -> None:
    """An error object, and for a known path the verbs that it takes."""
    found, body, headers = await stack.call(method, path, key=stack.admin)
    assert (found, set(body["error"])) == (status, {"message", "type", "param", "code"})
    assert len(body["error"]["message"]) < 500
    if path == "/v1/chat/completions":
        assert headers["allow"] == "POST"
        assert body["error"]["code"] == "method_not_allowed"
    if method == "PATCH":
        assert "GET, POST" in body["error"]["message"]


async def test_live_and_ready_need_no_key(stack: Stack) -> None:
    """A load balancer asks without one."""
    for path, word in (("live", "alive"), ("ready", "ready")):
        async with stack.session.get(f"{stack.url}/health/{path}") as reply:
            assert (reply.status, await reply.json()) == (200, {"status": word})


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/models", "/health", "/admin/v1/keys"]
)
async def test_a_bug_of_ours_is_an_error_object_without_a_trace(
    stack: Stack, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 internal_error; what broke is in the log, and only there."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the secret is rg-123")

    monkeypatch.setattr(stack.services.keys, "fresh", broken)
    method = "POST" if path.startswith("/v1/chat") else "GET"
    status, body, _ = await stack.call(method, path, {}, stack.admin)
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert "rg-123" not in json.dumps(body)
    assert "the secret is rg-123" in caplog.text


async def test_a_bug_within_a_prompts_steps_falls_back(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """unexpected_error with the template's text; a chat gets the 500."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("oops")

    monkeypatch.setattr("deployments.pipeline.call_targets", broken)
    status, body, _ = await stack.execute("bug")
    assert (status, body["reason"]) == (200, "unexpected_error")
    status, body, _ = await stack.chat("bug")
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert "oops" not in json.dumps(body)
    _, breakers, _ = await stack.call("GET", "/admin/v1/breakers", key=stack.admin)
    assert all(one["failure_count"] == 0 for one in breakers["data"].values())


async def test_lifespan_is_acknowledged(stack: Stack) -> None:
    """Servers that speak it may; the services are started by whoever made them."""
    said: list[Any] = []
    asked = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))

    async def receive() -> Any:
        return next(asked)

    async def send(message: Any) -> None:
        said.append(message["type"])

    await create_app(stack.services)({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_it_serves_under_a_prefix(stack: Stack) -> None:
    """Serve passes the route prefix as root_path, within the path or apart from it."""
    app = create_app(stack.services)
    for path in ("/gw/health/live", "/health/live"):
        said: list[Any] = []

        async def send(message: Any, said: list[Any] = said) -> None:
            said.append(message)

        async def receive() -> Any:
            await asyncio.sleep(3600)

        scope = {"type": "http", "method": "GET", "path": path, "root_path": "/gw", "headers": []}
        await app(scope, receive, send)
        assert said[0]["status"] == 200


async def test_a_client_that_leaves_while_it_sends_its_body(stack: Stack) -> None:
    """Nothing is answered, nothing is logged as broken, nothing is charged."""
    host, port = stack.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.user}\r\n"
    )
    writer.write(head.encode() + b"Content-Length: 1000\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()
    await stack.settled()
    assert (await stack.chat("others go on"))[0] == 200
