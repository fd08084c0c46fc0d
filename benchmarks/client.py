"""An operator's and a client's end of a running gateway, over HTTP alone."""

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp

Answered = tuple[int, Any, dict[str, str]]
"""Status, JSON (or text) and headers of a reply; what a header says twice, with commas."""


@dataclass(frozen=True, slots=True)
class Client:
    """Talks to a gateway. admin: the secret of an admin key."""

    url: str
    admin: str
    session: aiohttp.ClientSession

    async def call(
        self, method: str, path: str, body: Any = None, key: str | None = None, **headers: str
    ) -> Answered:
        """One request, as the admin unless another key is given; headers with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(
            method,
            self.url + path,
            json=body,
            headers={"authorization": f"Bearer {key or self.admin}", **named},
        ) as reply:
            kind = reply.headers.get("content-type", "")
            content = await (reply.json() if "json" in kind else reply.text())
            told = reply.headers
            return reply.status, content, {k.lower(): ", ".join(told.getall(k)) for k in told}

    async def get(self, path: str) -> Any:
        """What an admin is told at `path`."""
        status, content, _ = await self.call("GET", path)
        assert status == 200, content
        return content

    async def chat(self, text: str, model: str, key: str, **more: Any) -> Answered:
        """One chat completion; header names begin with x_raygate."""
        headers = {name: more.pop(name) for name in list(more) if name.startswith("x_")}
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return await self.call("POST", "/v1/chat/completions", body, key, **headers)

    async def key(self, **fields: Any) -> str:
        """The secret of a new key."""
        status, made, _ = await self.call("POST", "/admin/v1/keys", fields)
        assert status == 200, made
        secret: str = made["key"]
        return secret

    async def knobs(self, **changes: Any) -> None:
        """Put the simulated provider back as it was at first, and turn these knobs."""
        path = "/admin/v1/providers/simulated/control"
        for method, body in (("DELETE", None), ("PUT", changes)):
            status, content, _ = await self.call(method, path, body)
            assert status == 200, content

    async def provider_stats(self, model: str) -> dict[str, int]:
        """What the simulated provider has counted of one model."""
        stats = await self.get("/admin/v1/providers/simulated/stats")
        counted: dict[str, int] = stats["models"][model]
        return counted

    async def breaker(self, target: str) -> str:
        """The state of a target's breaker."""
        found = await self.get("/admin/v1/breakers")
        state: str = found["data"].get(target, {}).get("state", "closed")
        return state

    async def trace(self, id: str) -> Any:
        """A trace by its id or its request's, once it has arrived."""
        for _ in range(200):
            status, found, _ = await self.call("GET", f"/admin/v1/traces/{id}")
            if status == 200:
                return found
            await asyncio.sleep(0.1)
        raise AssertionError(f"no trace {id}")

    async def ledger(self, team: str) -> list[dict[str, Any]]:
        """The ledger's rows of one team, in order."""
        rows: list[dict[str, Any]] = []
        after = ""
        while True:
            page = await self.get(f"/admin/v1/costs/ledger?limit=1000&after={after}")
            rows += [row for row in page["data"] if row["team"] == team]
            if page["next"] is None:
                return rows
            after = page["next"]

    async def held(self) -> dict[str, int]:
        """What is held or waited for in the whole cluster; only what is not zero."""
        budgets, limits, cache, breakers = await asyncio.gather(
            *(self.get(f"/admin/v1/{what}") for what in ("budgets", "limits", "cache", "breakers"))
        )
        slots = (one for one in limits["limits"] if one["unit"] == "concurrent")
        counted = {
            "reserved nanos": sum(budget["pending_nanos"] for budget in budgets["data"]),
            "holds": limits["holds"],
            "slices": limits.get("slices", 0),
            "tickets": limits["waiting"],
            "slots": sum(one["burst"] - one["remaining"] for one in slots),
            "leaders": cache["leaders"],
            "cache waiters": cache["waiters"],
            "permits": sum(one["probes"] for one in breakers["data"].values()),
        }
        return {name: count for name, count in counted.items() if count}

    async def settled(self, patience_s: float = 30.0) -> None:
        """Wait until nothing is held any more. AssertionError says what still is."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while held := await self.held():
            assert loop.time() < until, f"still held: {held}"
            await asyncio.sleep(0.1)
