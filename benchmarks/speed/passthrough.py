"""The ceiling: plain Starlette routes that relay bytes, behind the same ingress."""

from collections.abc import AsyncIterator

import aiohttp
from ray import serve
from ray.serve import Application
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_HEADERS = {"content-type": "application/json"}


@serve.ingress()
class PassThrough:
    """Sends each body on to an upstream, and the answer's bytes back.

    upstream: base URL of plain calls. streams: root of those below /RATE/COUNT.
    """

    def __init__(self, upstream: str, streams: str) -> None:
        self._upstream = upstream
        self._streams = streams
        self._session: aiohttp.ClientSession | None = None

    def __serve_build_asgi_app__(self) -> Starlette:
        """Two routes, no pipeline."""

        async def relay(request: Request) -> Response:
            body = await request.body()
            url = f"{self._upstream}/chat/completions"
            async with self._open().post(url, data=body, headers=_HEADERS) as reply:
                content = await reply.read()
                return Response(content, reply.status, media_type="application/json")

        async def relay_stream(request: Request) -> Response:
            body = await request.body()
            pace = "{rate}/{count}".format(**request.path_params)
            url = f"{self._streams}/{pace}/v1/chat/completions"
            reply = await self._open().post(url, data=body, headers=_HEADERS)
            return StreamingResponse(_pieces(reply), reply.status, media_type="text/event-stream")

        return Starlette(
            routes=[
                Route("/v1/chat/completions", relay, methods=["POST"]),
                Route("/{rate}/{count}/v1/chat/completions", relay_stream, methods=["POST"]),
            ]
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
            )
        return self._session


async def _pieces(reply: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with reply:
        while piece := await reply.content.readany():
            yield piece


def build(upstream: str, streams: str, replicas: int) -> Application:
    """The application with as many replicas as the gateway has."""
    deploy = serve.deployment(
        num_replicas=replicas, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0}
    )
    return deploy(PassThrough).bind(upstream, streams)
