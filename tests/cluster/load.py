"""Many clients at once, each with one request after the other."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp

from benchmarks.client import Client

Once = Callable[[int], Awaitable[str]]
"""Makes the n-th request and says in a word how it ended."""


class Crowd:
    """Clients that go on until they are stopped. ends: how their requests ended."""

    def __init__(self, clients: int, once: Once) -> None:
        self.ends: Counter[str] = Counter()
        self._once = once
        self._numbers = itertools.count()
        self._going = True
        self._tasks = [asyncio.create_task(self._client()) for _ in range(clients)]

    async def _client(self) -> None:
        while self._going:
            self.ends[await self._once(next(self._numbers))] += 1

    async def stop(self) -> "Counter[str]":
        """Let every client finish the request that it is at; how all ended."""
        self._going = False
        await asyncio.gather(*self._tasks)
        return self.ends


async def at_once(requests: Iterable[Awaitable[Any]], most: int) -> list[Any]:
    """What all of them came to, with at most so many under way."""
    gate = asyncio.Semaphore(most)

    async def one(request: Awaitable[Any]) -> Any:
        async with gate:
            return await request

    return await asyncio.gather(*(one(request) for request in requests))


async def mixed(client: Client, key: str, model: str, dice: random.Random) -> str:
    """A request of a random kind; one in ten leaves before its end."""
    leaves = dice.random() < 0.1
    stream = dice.random() < 0.5
    text = f"question {dice.randrange(10**9) if dice.random() < 0.8 else dice.randrange(50)}"
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
        "max_tokens": dice.randrange(1, 60),
    }
    patience_s = dice.uniform(0.005, 0.3) if leaves else 60.0
    try:
        async with client.session.post(
            client.url + "/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"},
            timeout=aiohttp.ClientTimeout(total=patience_s),
        ) as reply:
            content = await reply.read()
    except TimeoutError:
        assert leaves, "no answer within a minute"
        return "left"
    broke = stream and reply.status == 200 and not content.endswith(b"data: [DONE]\n\n")
    return "broke off" if broke else str(reply.status)
