"""The ceiling: a plain Starlette route that relays bytes, behind the same ingress."""

import aiohttp
from ray import serve
from ray.serve import Application
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


@serve.ingress()
class PassThrough:
    """Sends each body on to the upstream, and the answer's bytes back."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    def __serve_build_asgi_app__(self) -> Starlette:
        """One route, no pipeline."""

        async def relay(request: Request) -> Response:
            if self._session is None:
                self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1_000))
            body = await request.body()
            headers = {"content-type": "application/json"}
            async with self._session.post(self._upstream, data=body, headers=headers) as reply:
                content = await reply.read()
                return Response(content, reply.status, media_type="application/json")

        return Starlette(routes=[Route("/v1/chat/completions", relay, methods=["POST"])])


def build(upstream: str, replicas: int) -> Application:
    """The application with as many replicas as the gateway has."""
    deploy = serve.deployment(
        num_replicas=replicas, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0}
    )
    return deploy(PassThrough).bind(upstream)
