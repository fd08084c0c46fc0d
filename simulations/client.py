"""The gateway as a simulation sees it: HTTP only, data plane and admin calls."""

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
import orjson

PAGE = 1000


class SimulationError(Exception):
    """A simulation could not be carried out; the message says why and what to do."""


class GatewayError(SimulationError):
    """The gateway answered an admin call with an error.

    status: HTTP status; 0 when it could not be reached.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ApiKey(NamedTuple):
    """A key and its secret, which is shown once."""

    id: str
    secret: str
    team: str


class Gateway:
    """A client of one gateway with one key; an async context manager.

    base_url: such as http://127.0.0.1:8000, with no path
    api_key: the secret, rg-…
    connections: most connections open at a time
    """

    def __init__(self, base_url: str, api_key: str, connections: int = 100) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}"}
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            read_bufsize=2**20,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open session."""
        assert self._session is not None, "use the gateway within `async with`"
        return self._session

    def with_key(self, key: ApiKey, connections: int) -> "Gateway":
        """The same gateway for another key."""
        return Gateway(self.base_url, key.secret, connections)

    async def call(self, method: str, path: str, body: object = None) -> bytes:
        """One call's body; raises GatewayError on any error, with the gateway's own words."""
        data = None if body is None else orjson.dumps(body)
        headers = {} if data is None else {"content-type": "application/json"}
        try:
            async with self.session.request(
                method,
                self.base_url + path,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=30),
            ) as reply:
                payload = await reply.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise GatewayError(f"{method} {path}: no answer from {self.base_url}: {error!r}") from (
                error
            )
        if reply.status >= 400:
            _, message = error_of(payload)
            raise GatewayError(f"{method} {path}: {reply.status}: {message}", reply.status)
        return payload

    async def json(self, method: str, path: str, body: object = None) -> Any:
        """One call's body, decoded."""
        return orjson.loads(await self.call(method, path, body))

    async def health(self) -> dict[str, Any]:
        """GET /health: all of it, as this key may see it."""
        return dict(await self.json("GET", "/health"))

    async def model(self) -> str:
        """A model for chat requests: gpt-4o-mini where this key may use it, else the first."""
        names = [row["id"] for row in (await self.json("GET", "/v1/models"))["data"]]
        if not names:
            raise SimulationError("this key may use no model: see GET /v1/models")
        return "gpt-4o-mini" if "gpt-4o-mini" in names else str(names[0])

    async def create_key(self, name: str, team: str, may_be_high: bool) -> ApiKey:
        """A user's key in a team of that name."""
        body = {"name": name, "team": team, "role": "user", "may_be_high": may_be_high}
        reply = await self.json("POST", "/admin/v1/keys", body)
        return ApiKey(reply["id"], reply["key"], team)

    async def revoke_key(self, key: ApiKey) -> None:
        """The key is good for nothing from now on."""
        await self.call("DELETE", f"/admin/v1/keys/{key.id}")

    async def knobs(self) -> dict[str, Any]:
        """The simulated provider's knobs."""
        return dict(await self.json("GET", "/admin/v1/providers/simulated/control"))

    async def set_knobs(self, knobs: Mapping[str, Any]) -> None:
        """Turns the simulated provider's knobs."""
        await self.call("PUT", "/admin/v1/providers/simulated/control", dict(knobs))

    async def set_budget(self, name: str, scope: str, subject: str, nanos: int) -> None:
        """A budget for the whole of time, in nano-dollars, for one subject of a scope."""
        body = {"scope": scope, "subject": subject, "period": "total", "amount_usd": nanos / 1e9}
        await self.call("PUT", f"/admin/v1/budgets/{name}", body)

    async def delete_budget(self, name: str) -> None:
        """The budget binds nobody from now on."""
        await self.call("DELETE", f"/admin/v1/budgets/{name}")

    async def budgets(self) -> list[dict[str, Any]]:
        """Every budget with its posted, pending and available nano-dollars."""
        return list((await self.json("GET", "/admin/v1/budgets"))["data"])

    async def ledger(self, after: int) -> AsyncIterator[dict[str, Any]]:
        """The ledger's rows past a sequence number; these have no gaps."""
        while True:
            rows = await self._ledger_page(after, PAGE)
            for row in rows:
                yield row
            if len(rows) < PAGE:
                return
            after += len(rows)

    async def ledger_length(self) -> int:
        """The last sequence number, found without reading the ledger."""
        low, high = 0, 1
        while await self._ledger_page(high - 1, 1):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if await self._ledger_page(middle - 1, 1):
                low = middle
            else:
                high = middle
        return low

    async def provider_log(self, after: int) -> AsyncIterator[dict[str, Any]]:
        """The events of the simulated provider's log past a position in bytes."""
        async for page in self._log_pages(after):
            for event in page["data"]:
                yield event

    async def log_length(self) -> int:
        """The end of the simulated provider's log, in bytes; found by reading all of it."""
        end = 0
        async for page in self._log_pages(0):
            end = page["next"]
        return end

    async def _ledger_page(self, after: int, limit: int) -> list[dict[str, Any]]:
        # The ledger's keys are sequence numbers of twenty digits, so that they sort as text.
        reply = await self.json("GET", f"/admin/v1/costs/ledger?after={after:020d}&limit={limit}")
        return list(reply["data"])

    async def _log_pages(self, after: int) -> AsyncIterator[dict[str, Any]]:
        path = "/admin/v1/providers/simulated/log"
        while True:
            page = await self.json("GET", f"{path}?after={after}&limit={PAGE}")
            if not page["data"]:
                return
            yield page
            # The log may have begun a new file, so only the provider knows where a page ends.
            after = page["next"]


def error_of(payload: bytes) -> tuple[str, str]:
    """The code and message of an error body; the bare text where it is not one of ours."""
    try:
        error = orjson.loads(payload)["error"]
        return str(error.get("code") or error["type"]), str(error["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "", payload[:200].decode(errors="replace")
