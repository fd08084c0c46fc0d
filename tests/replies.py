"""Reading what a gateway sends: streams, errors, and what its provider saw."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp
import orjson

from deployments.providers.base import StreamAnswer
from deployments.providers.simulated_log import CallRecord, join
from tests.stack import Stack

Event = tuple[str, Any]


async def chunks_of(stream: StreamAnswer) -> AsyncIterator[bytes]:
    """A provider's stream as it arrives, to its end."""
    while chunk := await stream.read():
        yield chunk


def events(text: str) -> list[Event]:
    """The events of a stream: (name, data), the name "" where there is none."""
    found: list[Event] = []
    for block in text.split("\n\n"):
        name, data = "", None
        for line in block.splitlines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
        if data is not None:
            found.append((name, data if data == "[DONE]" else orjson.loads(data)))
    return found


def words(found: Iterable[Event]) -> str:
    """The text that the chunks of a chat stream bring."""
    return "".join(
        choice["delta"].get("content") or ""
        for _, data in found
        if isinstance(data, dict)
        for choice in data.get("choices", ())
    )


def text_of(completion: Any) -> str:
    """The text of a chat completion."""
    text: str = completion["choices"][0]["message"]["content"]
    return text


async def calls(stack: Stack) -> list[CallRecord]:
    """The provider's calls so far, ended or not, in order."""
    lines: list[Any] = []
    after = 0
    while True:
        path = f"/admin/v1/providers/simulated/log?after={after}&limit=10000"
        _, page, _ = await stack.call("GET", path, key=stack.admin)
        if not page["data"]:
            return join(orjson.dumps(line) for line in lines)
        lines += page["data"]
        after = page["next"]


class Seen:
    """How many calls the provider saw since this was made."""

    def __init__(self, before: int) -> None:
        self._before = before

    @classmethod
    async def now(cls, stack: Stack) -> "Seen":
        """Count from now on."""
        return cls(len(await calls(stack)))

    async def since(self, stack: Stack) -> list[CallRecord]:
        """The calls since then."""
        return (await calls(stack))[self._before :]


async def ledger_of(stack: Stack, call: CallRecord) -> list[Any]:
    """The rows of one call."""
    return [row for row in await stack.ledger() if row["charge_id"] == call.charge_id]


async def leave_stream(stack: Stack, body: Any, key: str | None = None) -> str:
    """Begin a stream, read its first bytes and hang up; the request's id."""
    async with aiohttp.ClientSession() as session:
        reply = await session.post(
            stack.url + "/v1/chat/completions", json=body, headers=stack.headers(key)
        )
        assert reply.status == 200
        await reply.content.readany()
        reply.close()
        return reply.headers["x-request-id"]


async def eventually(check: Any, patience_s: float = 5.0) -> Any:
    """What an async check returns, once that is true."""
    loop = asyncio.get_running_loop()
    until = loop.time() + patience_s
    while not (found := await check()):
        assert loop.time() < until, f"still {found!r}"
        await asyncio.sleep(0.02)
    return found
