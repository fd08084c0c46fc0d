import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environment import clients_python
from tests.stack import Stack

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).with_name("openai_client.py")


async def client(stack: Stack, what: str, *cases: tuple[str, dict[str, Any]]) -> Any:
    """What the program prints, in the clients' environment."""
    python = await asyncio.to_thread(clients_python)
    process = await asyncio.create_subprocess_exec(
        str(python),
        str(PROGRAM),
        f"{stack.url}/v1",
        stack.user,
        what,
        json.dumps(cases),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_a_user_changes_base_url_and_key_only(stack: Stack) -> None:
    """Chat and streams agree, usage included; tools, models and headers come through."""
    plain, streamed, tools, models, raw = await client(stack, "chat,stream,tools,models,raw")
    assert plain == streamed
    assert plain["tokens"] == 12
    assert plain["text"]
    assert tools == {"name": "weather", "streamed": "weather"}
    assert set(models) == {"gpt-4o", "gpt-4o-mini"}
    assert raw == {"cache": "MISS", "request_id": True}


async def test_errors_are_the_clients_own_classes(stack: Stack) -> None:
    """Each status its class; the client tries again only what may work soon."""
    viewer = await stack.key(role="viewer")
    broke = await stack.key(team="broke")
    hurried = await stack.key(team="hurried", max_wait_s=0)
    await stack.policy(
        limits=[
            {"name": "few", "scope": "team", "subjects": ["hurried"], "rate": 1, "burst": 1}
            | {"per": "hour"}
        ],
        budgets=[
            {"name": "none", "scope": "team", "subjects": ["broke"], "amount_usd": 0},
            {"name": "rest", "amount_usd": 100},
        ],
        models={
            "gpt-4o-mini": {"targets": ["simulated/gpt-4o-mini"]},
            "failing": {"targets": ["simulated/missing"], "price": {"free": True}},
        },
    )
    await stack.chat("the only one", key=hurried)
    (found,) = await client(
        stack,
        "errors",
        ("", {"messages": []}),
        ("rg-wrong", {}),
        (viewer, {}),
        ("", {"model": "gpt-99"}),
        (broke, {}),
        (hurried, {}),
        ("", {"model": "failing"}),
    )
    assert [(one["class"], one["code"]) for one in found] == [
        ("BadRequestError", "invalid_request"),
        ("AuthenticationError", "invalid_api_key"),
        ("PermissionDeniedError", "not_allowed"),
        ("NotFoundError", "model_not_found"),
        ("RateLimitError", "insufficient_quota"),
        ("RateLimitError", "rate_limit_exceeded"),
        ("InternalServerError", "provider_error"),
    ]
    assert [one["tried"] for one in found] == [1, 1, 1, 1, 1, 1, 2]


async def test_a_broken_stream_is_an_error_to_the_client(stack: Stack) -> None:
    """The error event raises APIError in the middle of the iteration."""
    await stack.knobs(reset_rate=1.0, reset_at="middle", seed=3)
    ((found,),) = await client(stack, "errors", ("", {"stream": True}))
    assert found == {"class": "APIError", "code": "provider_error", "tried": 1}
