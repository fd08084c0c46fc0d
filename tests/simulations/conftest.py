"""A gateway of a hundred lines on a real port, with the books and knobs that scenarios use."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web

CALL_NANOS = 30_000
ADMIN = "rg-admin"


class FakeGateway:
    """Answers, charges and refuses as the real one does, one request after the other.

    url: where it listens
    delay_s: what a call of its provider takes
    skip_charges: how many of the next calls are left out of the ledger, as a bug would
    broken_pages: how many of the next pages of the provider's log can't be read
    """

    def __init__(self) -> None:
        self.url = ""
        self.delay_s = 0.005
        self.skip_charges = self.broken_pages = 0
        self.knobs: dict[str, Any] = {"outage": False, "fill_max_tokens": False, "spread": 0.0}
        self.keys: dict[str, str] = {}
        self.budgets: dict[str, tuple[str, int]] = {}
        self.ledger: list[dict[str, Any]] = []
        self.log = b""
        self.failures = 0

    def app(self) -> web.Application:
        """Its routes."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/prompts/{id}/execute", self._execute)
        app.router.add_post("/admin/v1/keys", self._create_key)
        app.router.add_delete("/admin/v1/keys/{id}", self._revoke_key)
        app.router.add_get("/admin/v1/budgets", self._list_budgets)
        app.router.add_put("/admin/v1/budgets/{name}", self._set_budget)
        app.router.add_delete("/admin/v1/budgets/{name}", self._delete_budget)
        app.router.add_get("/admin/v1/costs/ledger", self._ledger_page)
        provider = "/admin/v1/providers/simulated"
        app.router.add_get(f"{provider}/control", self._show_knobs)
        app.router.add_put(f"{provider}/control", self._turn_knobs)
        app.router.add_get(f"{provider}/log", self._log_page)
        return app

    def spent(self, key_id: str) -> int:
        return sum(row["amount_nanos"] for row in self.ledger if row["key"] == key_id)

    async def _call(self, request: web.Request) -> tuple[int, dict[str, str]]:
        """One provider call: status and headers."""
        key_id = request.headers["authorization"].removeprefix("Bearer rg-")
        for team, amount in self.budgets.values():
            if self.keys.get(key_id) == team and self.spent(key_id) + CALL_NANOS > amount:
                return 429, {}
        charge_id = f"c{self.log.count(b'started')}"
        call = {"id": charge_id, "charge_id": charge_id, "admitted_ns": 0, "probe": False}
        more = {"model": "m", "stream": False, "in_flight": 1, "probes_in_flight": 0}
        self._note({"event": "started", **call, **more, "started_ns": 1})
        down = self.knobs["outage"]
        tokens = (0, 0) if down else (10, 5)
        if not down:
            if self.skip_charges:
                self.skip_charges -= 1
            else:
                self._charge(key_id, charge_id)
            await asyncio.sleep(self.delay_s)
        self.failures = self.failures + 1 if down else 0
        status = 500 if down else 200
        ended = {"outcome": "error" if down else "ok", "status": status, "ended_ns": 2}
        usage = {"input_tokens": tokens[0], "output_tokens": tokens[1]}
        self._note({"event": "ended", "id": charge_id, **ended, **usage})
        return status, {"x-raygate-cost-usd": "0.00003", "x-raygate-cache": "MISS"}

    def _charge(self, key_id: str, charge_id: str) -> None:
        row = {"charge_id": charge_id, "key": key_id, "input": 10, "output": 5}
        self.ledger.append({**row, "amount_nanos": CALL_NANOS, "state": "actual"})

    def _note(self, row: dict[str, Any]) -> None:
        self.log += orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        status, headers = await self._call(request)
        if status == 429:
            return _error(429, "insufficient_quota")
        if status != 200:
            return _error(502, "provider_error")
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        if not (await request.json()).get("stream"):
            return web.json_response({"choices": [], "usage": usage}, headers=headers)
        reply = web.StreamResponse(headers=headers)
        await reply.prepare(request)
        for chunk in (
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"delta": {"content": "hello"}}]},
            {"choices": [], "usage": usage},
        ):
            await reply.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
        await reply.write(b"data: [DONE]\n\n")
        return reply

    async def _execute(self, request: web.Request) -> web.StreamResponse:
        status, headers = await self._call(request)
        result: dict[str, Any] = {"status": "success", "reason": None, "cost": 0.00003}
        result |= {"trace_id": "t1", "token_usage": {"input": 10, "output": 5}}
        if status != 200:
            result |= {"status": "fallback", "reason": "provider_error", "cost": 0}
        if not (await request.json()).get("stream"):
            return web.json_response(result, headers=headers)
        reply = web.StreamResponse(headers=headers)
        await reply.prepare(request)
        await reply.write(b'event: delta\ndata: {"text": "hello"}\n\n')
        await reply.write(b"event: result\ndata: " + orjson.dumps(result) + b"\n\n")
        return reply

    async def _health(self, _: web.Request) -> web.Response:
        state = "open" if self.failures >= 3 else "closed"
        return web.json_response(
            {
                "status": "healthy" if state == "closed" else "degraded",
                "circuit_breaker": {"targets": {"simulated/m": {"state": state}}},
                "rate_limiter": {"utilization": 0.25},
                "cache": {"utilization": 0.0, "hit_rate": 0.5},
                "costs": {"today_cost": 0.1, "budget_used_percentage": 2.0},
            }
        )

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "other"}, {"id": "gpt-4o-mini"}]})

    async def _create_key(self, request: web.Request) -> web.Response:
        key_id = f"k{len(self.ledger)}-{len(self.keys)}"
        self.keys[key_id] = (await request.json())["team"]
        return web.json_response({"id": key_id, "key": f"rg-{key_id}"})

    async def _revoke_key(self, request: web.Request) -> web.Response:
        del self.keys[request.match_info["id"]]
        return web.json_response({})

    async def _list_budgets(self, _: web.Request) -> web.Response:
        rows = []
        for name, (team, amount) in self.budgets.items():
            posted = sum(self.spent(key_id) for key_id, of in self.keys.items() if of == team)
            row = {"name": name, "amount_nanos": amount, "posted_nanos": posted}
            rows.append({**row, "pending_nanos": 0})
        return web.json_response({"data": rows})

    async def _set_budget(self, request: web.Request) -> web.Response:
        body = await request.json()
        amount = round(body["amount_usd"] * 1e9)
        self.budgets[request.match_info["name"]] = (body["subject"], amount)
        return web.json_response({})

    async def _delete_budget(self, request: web.Request) -> web.Response:
        del self.budgets[request.match_info["name"]]
        return web.json_response({})

    async def _ledger_page(self, request: web.Request) -> web.Response:
        after, limit = int(request.query["after"]), int(request.query["limit"])
        return web.json_response({"data": self.ledger[after : after + limit]})

    async def _show_knobs(self, _: web.Request) -> web.Response:
        return web.json_response(self.knobs)

    async def _turn_knobs(self, request: web.Request) -> web.Response:
        self.knobs = await request.json()
        return web.json_response(self.knobs)

    async def _log_page(self, request: web.Request) -> web.Response:
        if self.broken_pages:
            self.broken_pages -= 1
            return _error(502, "provider_error")
        after, limit = int(request.query["after"]), int(request.query["limit"])
        lines = self.log[after:].splitlines(keepends=True)[:limit]
        rows = [orjson.loads(line) for line in lines]
        return web.json_response({"data": rows, "next": after + sum(map(len, lines))})


def _error(status: int, code: str) -> web.Response:
    return web.json_response(
        {"error": {"message": "no", "type": code, "code": code}}, status=status
    )


@pytest.fixture
async def fake_gateway(anyio_backend: str) -> AsyncIterator[FakeGateway]:
    """A fake gateway that listens on a free port."""
    gateway = FakeGateway()
    runner = web.AppRunner(gateway.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield gateway
    await runner.cleanup()
