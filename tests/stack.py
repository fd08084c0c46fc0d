"""The whole gateway in one process, over real sockets: singletons in-process, no Ray.

Everything above the consultants is what runs in production; only the transport differs.
"""

import asyncio
import platform
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import uvicorn

from actors import keys, registry
from actors.consultant import Consultant
from actors.host import Host
from actors.key_store import KeyRecord
from actors.life import Life
from actors.outbox import Outbox
from actors.transport import InProcess
from deployments.app import create_app
from deployments.http_protocol import Protocol
from deployments.prompts import load_builtin
from deployments.providers.simulated_app import create_app as create_simulated
from deployments.providers.simulated_client import SimulatedClient
from deployments.providers.simulated_knobs import Knobs
from deployments.providers.simulated_log import CallLog
from deployments.services import Services
from deployments.structure import GatewayArgs, ProviderArgs

PROVIDER_KEY = "sk-sim-for-tests"
MODELS = ("gpt-4o-mini", "gpt-4o")
QUICK: dict[str, Any] = {"ttft_s": 0.0, "tokens_per_s": 1e6, "spread": 0.0}


def policy(**changes: Any) -> dict[str, Any]:
    """A small valid policy, with changes."""
    return {
        "models": {
            "gpt-4o-mini": {"targets": ["simulated/gpt-4o-mini"], "max_output_tokens": 64},
            "gpt-4o": {"targets": ["simulated/gpt-4o", "simulated/gpt-4o-mini"]},
        },
        "retries": {"base_s": 0.01, "cap_s": 0.05},
        **changes,
    }


class Line(InProcess):
    """A way to a host that can fall silent: then nothing is heard, and nothing fails."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._open = asyncio.Event()
        self._open.set()

    def silence(self) -> None:
        """Let nothing through until `restore`."""
        self._open.clear()

    def restore(self) -> None:
        """Let everything through again."""
        self._open.set()

    async def consult(self, payload: bytes) -> bytes:
        """See `Transport`."""
        await self._open.wait()
        return await super().consult(payload)

    async def watch(self, payload: bytes) -> bytes:
        """See `Transport`."""
        await self._open.wait()
        found = await super().watch(payload)
        await self._open.wait()
        return found


@dataclass
class Stack:
    """A running gateway and its simulated provider.

    admin, user: secrets of two keys. lines: the ways to the singletons, by name.
    """

    url: str
    provider_url: str
    services: Services
    admin: str
    user: str
    session: aiohttp.ClientSession
    lines: dict[str, Line]

    def headers(self, key: str | None = None, **more: str) -> dict[str, str]:
        """Authorization, and more with `_` for `-`."""
        extra = {name.replace("_", "-"): value for name, value in more.items()}
        return {"authorization": f"Bearer {key or self.user}", **extra}

    async def call(
        self, method: str, path: str, body: Any = None, key: str | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON (or text) and headers of one request."""
        async with self.session.request(
            method, self.url + path, json=body, headers=self.headers(key, **headers)
        ) as reply:
            kind = reply.headers.get("content-type", "")
            content = await (reply.json() if "json" in kind else reply.text())
            return reply.status, content, {k.lower(): v for k, v in reply.headers.items()}

    async def chat(self, text: str = "hello", **more: Any) -> tuple[int, Any, dict[str, str]]:
        """One chat completion; header names begin with x_raygate."""
        headers = {name: more.pop(name) for name in list(more) if name.startswith("x_")}
        key = more.pop("key", None)
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **more}
        return await self.call("POST", "/v1/chat/completions", body, key, **headers)

    async def policy(self, **changes: Any) -> None:
        """Put the small policy, with changes, in force."""
        await self.services.apply_policy(policy(**changes))
        assert self.services.policy_problem is None, self.services.policy_problem

    async def key(self, **fields: Any) -> str:
        """The secret of a new key."""
        status, made, _ = await self.call("POST", "/admin/v1/keys", fields, self.admin)
        assert status == 200, made
        secret: str = made["key"]
        return secret

    async def execute(
        self, text: str = "sales fell", template: str = "business_analysis_v1", **more: Any
    ) -> tuple[int, Any, dict[str, str]]:
        """Execute a prompt; header names begin with x_raygate."""
        headers = {name: more.pop(name) for name in list(more) if name.startswith("x_")}
        key = more.pop("key", None)
        body = {"inputs": {"data": text}, **more}
        return await self.call("POST", f"/v1/prompts/{template}/execute", body, key, **headers)

    async def trace(self, id: str) -> Any:
        """A trace by its id or its request's, once it has arrived."""
        for _ in range(100):
            status, found, _ = await self.call("GET", f"/admin/v1/traces/{id}", key=self.admin)
            if status == 200:
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"no trace {id}")

    async def knobs(self, **changes: Any) -> None:
        """Turn the simulated provider's knobs."""
        status, content, _ = await self.call(
            "PUT", "/admin/v1/providers/simulated/control", changes, self.admin
        )
        assert status == 200, content

    async def provider_calls(self) -> list[dict[str, Any]]:
        """Every finished call that the provider saw."""
        path = "/admin/v1/providers/simulated/log?after=0&limit=10000"
        _, page, _ = await self.call("GET", path, key=self.admin)
        return [line for line in page["data"] if line["event"] == "ended"]

    async def ledger(self) -> list[dict[str, Any]]:
        """Every row of the ledger, once what was told has arrived."""
        await self.settled()
        rows: list[dict[str, Any]] = []
        after = ""
        while True:
            path = f"/admin/v1/costs/ledger?limit=1000&after={after}"
            _, page, _ = await self.call("GET", path, key=self.admin)
            rows += page["data"]
            if page["next"] is None:
                return rows
            after = page["next"]

    async def settled(self) -> None:
        """Wait until nothing is held any more, nor under way to a singleton."""
        slices, wallet = self.services.slices, self.services.wallet
        for lent in (*slices._slices.values(), *wallet._accounts.values()):
            # As if it had been recalled: it goes back now, and nothing more comes for a second.
            lent.demand.rest(time.monotonic())
        for _ in range(500):
            costs = await self.services.costs.ask("status")
            limits = await self.services.limiter.ask("status")
            cache = await self.services.cache.ask("status")
            held = (costs["pending"], costs["slices"], limits["holds"], limits["slices"])
            held += (costs["waiting"], limits["waiting"])
            if not any(held) and not cache["leaders"] and not cache["waiters"]:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"still held: {costs}, {limits}, {cache}")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def serving(
    app: Any, port: int, protocol: type[asyncio.Protocol] | Literal["auto"] = "auto"
) -> AsyncIterator[None]:
    """An ASGI app on a port of the loopback."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http=protocol,
        log_level="warning",
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def running(
    folder: Path,
    raw_policy: Any = None,
    storage: Path | None = None,
    structure: dict[str, Any] | None = None,
    max_connections: int = 1_000,
    protocol: type[Protocol] = Protocol,
    **knobs: Any,
) -> AsyncIterator[Stack]:
    """A gateway with its provider, state under `folder`, or the gateway's in `storage`.

    structure: more of the gateway's `args`. max_connections: of its provider.
    """
    storage = storage or folder
    port, provider_port = free_port(), free_port()
    calls = CallLog(folder / "calls.jsonl", 100_000_000, MODELS)
    simulated = create_simulated(Knobs(**{**QUICK, **knobs}), MODELS, PROVIDER_KEY, calls)
    provider_url = f"http://127.0.0.1:{provider_port}/v1"
    args = GatewayArgs(
        providers=(
            ProviderArgs(
                name="simulated",
                kind="simulated",
                base_url=provider_url,
                max_connections=max_connections,
            ),
        ),
        storage_path=str(storage),
        **(structure or {}),
    )
    hosts = {
        name: Host(factory, str(storage / f"{name}.sqlite"), "test")
        for name, factory in registry.SINGLETONS.items()
    }
    lines = {name: Line(host) for name, host in hosts.items()}
    outbox = Outbox(storage / "outbox")
    life = Life(outbox.owner, "here", platform.node(), str(outbox.path))
    consultants = {name: Consultant(name, line, life) for name, line in lines.items()}
    provider = SimulatedClient(
        "simulated", provider_url, PROVIDER_KEY, max_connections=max_connections
    )
    services = Services(args, consultants, {"simulated": provider}, outbox)
    services.start()
    await services.apply_policy(raw_policy or policy())
    assert services.policy_problem is None, services.policy_problem
    for spec in load_builtin():
        await services.prompts.ask("register", spec.pop("id"), spec)
    admin, user = keys.mint(), keys.mint()
    await services.keys.ask("bootstrap", admin.id, admin.hash)
    await services.keys.ask("create", KeyRecord(user.id, "test", "team-a", "user", user.hash))
    async with (
        serving(simulated, provider_port),
        serving(create_app(services), port, protocol),
        aiohttp.ClientSession() as session,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            yield Stack(url, provider_url, services, admin.secret, user.secret, session, lines)
        finally:
            await session.close()
            await services.close()
    for host in hosts.values():
        host.close()
