"""A simulated provider in a process of its own: a judge that nothing else can disturb.

Beside the gateway on Serve it would share an ingress with it, which is loaded anew whenever a
replica comes or goes.

    python -m benchmarks.provider PORT LOG_FILE MODEL...      (its key: SIMULATED_KEY)
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from benchmarks.ports import free_ports
from deployments.cli import processes
from deployments.providers.simulated_app import create_app
from deployments.providers.simulated_knobs import Knobs
from deployments.providers.simulated_log import CallLog, CallRecord, join

_KEY = "SIMULATED_KEY"
_START_S = 30.0
_LOG_BYTES = 1 << 40


@dataclass(frozen=True, slots=True)
class Provider:
    """A running one. url: up to and including the version. log: the file of its calls."""

    url: str
    key: str
    log: Path

    async def turn(self, session: aiohttp.ClientSession, knobs: dict[str, Any]) -> None:
        """Put it back as it was at first, and turn these knobs."""
        control = self.url.removesuffix("/v1") + "/control"
        headers = {"authorization": f"Bearer {self.key}"}
        for method, body in (("DELETE", None), ("PUT", knobs)):
            async with session.request(method, control, json=body, headers=headers) as reply:
                reply.raise_for_status()

    def position(self) -> int:
        """How long the log is, in bytes."""
        return self.log.stat().st_size

    def calls(self, since: int) -> list[CallRecord]:
        """The calls since a position at which none was under way, in order."""
        with self.log.open("rb") as file:
            file.seek(since)
            return join(file)


@contextmanager
def provider(log: Path, models: Sequence[str], key: str) -> Iterator[Provider]:
    """Run one that answers to these models; its process has ended afterwards."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.provider", str(port), str(log), *models]
    with (
        log.with_suffix(".out").open("wb") as output,
        subprocess.Popen(
            command,
            env={**os.environ, _KEY: key, "PYTHONPATH": os.pathsep.join(map(str, _paths()))},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            give_up = time.monotonic() + _START_S
            while not processes.listens(f"127.0.0.1:{port}"):
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"the provider did not start; see {output.name}")
                time.sleep(0.05)
            yield Provider(f"http://127.0.0.1:{port}/v1", key, log)
        finally:
            process.kill()


def _paths() -> Iterator[Path | str]:
    yield Path(__file__).parents[1]
    if "PYTHONPATH" in os.environ:
        yield os.environ["PYTHONPATH"]


def main(port: str, log: str, *models: str) -> None:
    """Serve until killed."""
    app = create_app(Knobs(), models, os.environ[_KEY], CallLog(Path(log), _LOG_BYTES, models))
    # Above the time for which the gateway keeps an idle connection: the one who may reuse it
    # must be the one who closes it.
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", timeout_keep_alive=120)


if __name__ == "__main__":
    main(*sys.argv[1:])
