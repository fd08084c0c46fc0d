"""The gateway's end of a simulated provider: a provider like any other, and its operator."""

from typing import Any
from urllib.parse import urlencode

import orjson

from .base import Call, ProviderFailure
from .openai import OpenAIProvider

_PATIENCE_S = 300.0


class SimulatedClient(OpenAIProvider):
    """Sends calls as `OpenAIProvider` does, and reaches the knobs beside the calls.

    The base URL ends in `/v1`; what an operator turns is one step above it.
    """

    async def manage(
        self, method: str, what: str, query: dict[str, str], body: bytes | None
    ) -> tuple[int, Any]:
        """Status and content of `control`, `stats` or `log`.

        A page of the log is {"data": [call, ...], "next": where to go on}.
        Raises ProviderFailure.
        """
        path = f"/{what}?{urlencode(query)}"
        head = self._head_of(method, self.base_url.removesuffix("/v1") + path)
        reply = await self._send(head, Call(path, body or b"", {}, _PATIENCE_S))
        if what == "log" and reply.status == 200:
            lines = [orjson.loads(line) for line in reply.body.splitlines()]
            return 200, {"data": lines, "next": int(reply.headers["x-next-after"])}
        try:
            return reply.status, orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            raise ProviderFailure("reset", f"provider {self.name} sent no JSON") from None
