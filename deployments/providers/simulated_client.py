"""The gateway's end of a simulated provider: a provider like any other, and its operator."""

from typing import Any

import orjson

from .base import ProviderFailure
from .openai import OpenAIProvider


class SimulatedClient(OpenAIProvider):
    """Sends calls as `OpenAIProvider` does, and reaches the knobs beside the calls.

    The base URL ends in `/v1`; what an operator turns is one step above it.
    """

    async def manage(
        self, method: str, what: str, query: dict[str, str], body: bytes | None
    ) -> tuple[int, Any]:
        """Status and content of `control`, `stats` or `log`.

        A page of the log is {"data": [call, ...], "next": where to go on}.
        Raises ProviderFailure and aiohttp's errors.
        """
        url = f"{self.base_url.removesuffix('/v1')}/{what}"
        session = self._open_session()
        async with session.request(method, url, params=query, data=body) as reply:
            content = await self._read(reply)
            if what == "log" and reply.status == 200:
                lines = [orjson.loads(line) for line in content.splitlines()]
                return 200, {"data": lines, "next": int(reply.headers["x-next-after"])}
            try:
                return reply.status, orjson.loads(content)
            except orjson.JSONDecodeError:
                raise ProviderFailure("reset", f"provider {self.name} sent no JSON") from None
