"""A provider whose concurrency is its capacity: so many calls at a time, the others wait in line.

python -m benchmarks.slots PORT SLOTS SECONDS
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.ports import free_ports
from benchmarks.upstream import COMPLETION
from deployments.cli import processes

_START_S = 30.0
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(COMPLETION.encode()),
    COMPLETION.encode(),
)


@contextmanager
def slots(count: int, works_s: float) -> Iterator[str]:
    """Run it; yields the base URL. works_s: how long a call takes once it has a slot."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.slots", str(port), str(count), str(works_s)]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:
        try:
            give_up = time.monotonic() + _START_S
            while not processes.listens(f"127.0.0.1:{port}"):
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError("the provider did not start")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


class Exchange(asyncio.Protocol):
    """One connection: a whole request comes, waits for a slot, works, is answered."""

    def __init__(self, free: asyncio.Semaphore, works_s: float) -> None:
        self._free = free
        self._works_s = works_s
        self._came = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._came += data
        head, end, body = self._came.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) >= length:
            self._came = body[length:]
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        async with self._free:
            await asyncio.sleep(self._works_s)
        if not self._transport.is_closing():
            self._transport.write(_REPLY)


async def main(port: str, count: str, works_s: str) -> None:
    """Serve until killed."""
    free = asyncio.Semaphore(int(count))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Exchange(free, float(works_s)), "127.0.0.1", int(port), backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
