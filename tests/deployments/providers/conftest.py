"""Real sockets for provider tests: an ASGI application under uvicorn, or a scripted server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def run_app(anyio_backend: str) -> AsyncIterator[Callable[[Any], Awaitable[str]]]:
    """Serves an ASGI application; gives its base URL."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def run(app: Any) -> str:
        config = uvicorn.Config(app, port=0, log_level="critical", loop="none", lifespan="on")
        server = uvicorn.Server(config)
        config.load()
        task = asyncio.create_task(server.serve())
        running.append((server, task))
        for _ in range(1000):
            if server.started:
                break
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    yield run
    for server, task in running:
        server.should_exit = True
        server.force_exit = True
        await task


@pytest.fixture
async def run_script(anyio_backend: str) -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    """Serves each connection with a function that reads and writes it as it likes."""
    servers: list[asyncio.Server] = []

    async def run(handler: Handler) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(reader, writer)
            except (asyncio.CancelledError, ConnectionError):
                # It outlived its test, or was hung up on in the middle of its words; streams of
                # 3.11 would report that as an error.
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield run
    for server in servers:
        server.close()
