"""The clients of a cell: each asks, waits for the end, and asks again."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import orjson

from benchmarks.strict import evidence, terms
from benchmarks.strict.cells import Cell
from benchmarks.strict.evidence import Asked
from benchmarks.strict.terms import Tenant

TIMEOUT_S = 30.0
"""What each request allows for all of it; longer than a dead replica's holds take to come back."""
_SILENCE_S = TIMEOUT_S + 15.0
_LEAVING = 0.1
_PROMPTS = 0.3
_PROMPT = "business_analysis_v1"
_CONNECT_AGAIN_S = 0.1
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
_AFTER_REFUSAL_S = 0.2


class Load:
    """The demand of one cell.

    keys: the secret of each tenant's key. seed: of everything left to chance.
    asked: the requests that have ended.
    """

    def __init__(
        self, url: str, session: aiohttp.ClientSession, cell: Cell, keys: dict[str, str], seed: int
    ) -> None:
        self.asked: list[Asked] = []
        self.under_way = 0
        self._base = url
        self._session = session
        self._cell = cell
        self._keys = keys
        self._seed = seed
        self._going = True
        self._began = time.monotonic()
        self._numbers = itertools.count()

    async def run(self) -> None:
        """Ask until `stop`, and let every request that is under way then come to its end."""
        self._began = time.monotonic()
        clients = [
            asyncio.create_task(self._client(tenant, number), name=f"{tenant.name} {number}")
            for tenant in terms.TENANTS
            for number in range(terms.crew(tenant, self._cell))
        ]
        try:
            await asyncio.gather(*clients)
        finally:
            for client in clients:
                client.cancel()

    def stop(self) -> None:
        """Let nobody ask any more."""
        self._going = False

    async def _client(self, tenant: Tenant, number: int) -> None:
        dice = random.Random(f"{self._seed} {self._cell.name} {tenant.name} {number}")
        wait_s = tenant.waits_s[number % len(tenant.waits_s)] if tenant.waits_s else None
        users = self._users(tenant, dice)
        user = next(users)
        for nth in itertools.count():
            await self._rest(tenant)
            if not self._going:
                return
            headers = {} if wait_s is None else {"x-raygate-max-wait": f"{wait_s:g}"}
            if tenant.high and nth % 2:
                headers["x-raygate-priority"] = "high"
            end = await self._ask(tenant, user, wait_s, headers, dice)
            if tenant.spends and end != terms.NO_MONEY:
                await asyncio.sleep(dice.uniform(0, tenant.pause_s))
                continue
            user = next(users)
            if end != evidence.ANSWERED and not tenant.spends:
                await asyncio.sleep(_AFTER_REFUSAL_S * dice.uniform(0.5, 1.5))
            await asyncio.sleep(dice.uniform(0, tenant.pause_s))

    def _users(self, tenant: Tenant, dice: random.Random) -> Iterator[str]:
        """Who asks next; of those who spend, the last one goes on for ever."""
        for number in itertools.count():
            if not tenant.users:
                yield ""
            elif tenant.spends:
                yield terms.user(tenant, self._cell, min(number, tenant.users - 1))
            else:
                yield terms.user(tenant, self._cell, dice.randrange(tenant.users))

    async def _rest(self, tenant: Tenant) -> None:
        """Keep to the tenant's rhythm."""
        on_s, off_s = tenant.rhythm_s
        at_s = (time.monotonic() - self._began) % (on_s + off_s)
        if at_s > on_s:
            await asyncio.sleep(on_s + off_s - at_s)

    def _question(self, tenant: Tenant) -> str:
        number = next(self._numbers)
        if tenant.same_s:
            number = int((time.monotonic() - self._began) / tenant.same_s)
        return f"{number} {tenant.name} {self._cell.tag}"

    async def _ask(
        self,
        tenant: Tenant,
        user: str,
        wait_s: float | None,
        headers: dict[str, str],
        dice: random.Random,
    ) -> str:
        body: dict[str, Any] = {
            "model": tenant.name,
            "messages": [{"role": "user", "content": self._question(tenant)}],
            "max_tokens": tenant.max_tokens,
            "stream": dice.random() < tenant.streams,
        }
        if user:
            body["user"] = user
        headers |= {
            "authorization": f"Bearer {self._keys[tenant.name]}",
            "x-raygate-timeout": f"{TIMEOUT_S:g}",
        }
        leaves = self._cell.trouble in ("leaving", "chaos") and dice.random() < _LEAVING
        patience_s = dice.uniform(0.005, 0.7) if leaves else _SILENCE_S
        url = f"{self._base}/v1/chat/completions"
        if self._cell.trouble == "chaos" and tenant.name == "ample" and dice.random() < _PROMPTS:
            url = f"{self._base}/v1/prompts/{_PROMPT}/execute"
            body = {"inputs": {"data": self._question(tenant)}, "user_id": "analyst"}
        sent_ns, words, took_s = time.time_ns(), "", None
        self.under_way += 1
        try:
            end, words, took_s = await self._post(url, orjson.dumps(body), headers, patience_s)
        except TimeoutError:
            end = evidence.LEFT if leaves else evidence.SILENT
        except (aiohttp.ClientError, OSError) as error:
            end, words = evidence.CLOSED, repr(error)[:200]
        finally:
            self.under_way -= 1
        ended_ns = time.time_ns()
        if took_s is None and end[:3].isdigit() and end != evidence.ANSWERED:
            took_s = (ended_ns - sent_ns) / 1e9
        self.asked.append(Asked(tenant.name, user, sent_ns, ended_ns, end, took_s, wait_s, words))
        return end

    async def _post(
        self, url: str, body: bytes, headers: dict[str, str], patience_s: float
    ) -> tuple[str, str, float | None]:
        """How a request ended, the gateway's words for it, and what the gateway itself took.

        While nothing listens nothing is sent, and it is tried again. Raises TimeoutError.
        """
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    async with self._session.post(
                        url, data=body, headers=headers, timeout=_NO_TIMEOUT
                    ) as reply:
                        content = await reply.read()
                        return *_told(reply, content), _without_provider(reply)
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(_CONNECT_AGAIN_S)


def _without_provider(reply: aiohttp.ClientResponse) -> float | None:
    """What the gateway itself took, where it says so, seconds."""
    told = reply.headers.get("x-raygate-overhead-ms")
    return None if told is None else float(told) / 1e3


def _told(reply: aiohttp.ClientResponse, content: bytes) -> tuple[str, str]:
    """How a request ended, and the gateway's words for it."""
    if reply.status == 200:
        if b'"status":"fallback"' in content[:100]:
            return "fallback", str(content[:200])
        if reply.content_type != "text/event-stream" or content.endswith(b"data: [DONE]\n\n"):
            return evidence.ANSWERED, ""
        if (last := content.rstrip().rpartition(b"data: ")[2]).startswith(b'{"error"'):
            error = orjson.loads(last)["error"]
            return f"stream {error['code']}", str(error["message"])
        return evidence.CLOSED, "a stream without an end"
    try:
        error = orjson.loads(content)["error"]
        return f"{reply.status} {error['code']}", str(error["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return evidence.INGRESS, f"{reply.status} {content[:100]!r}"
