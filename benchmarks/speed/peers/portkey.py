"""Portkey's gateway, as it comes: it relays, without limits, cache or budgets."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.ports import free_ports
from benchmarks.speed.peers.environment import node_modules
from benchmarks.speed.programs import need, running, wait_for
from benchmarks.speed.programs import version as version_of
from benchmarks.speed.subjects import STREAMS, Ask, Kind, Subject


@contextmanager
def portkey(folder: Path, upstream: str, streams: str) -> Iterator[tuple[Subject, dict[str, str]]]:
    """The gateway and its versions. Raises Missing without Node."""
    node = need("node", "nodejs")
    package = node_modules() / "@portkey-ai" / "gateway"
    (port,) = free_ports(1)
    log = folder / "portkey.log"
    command = [node, str(package / "build" / "start-server.js"), f"--port={port}", "--headless"]
    env = os.environ | {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
    url = f"http://127.0.0.1:{port}"
    with running(command, log, env, cwd=folder) as process:
        wait_for(url, process, log)
        hosts: dict[Kind, str] = {"chat": upstream}
        hosts |= {kind: f"{streams}/{pace}/v1" for kind, pace in STREAMS.items()}
        asks = {
            kind: Ask(
                f"{url}/v1/chat/completions",
                "gpt-4o-mini",
                {
                    "authorization": "Bearer sk-benchmark",
                    "x-portkey-provider": "openai",
                    "x-portkey-custom-host": host,
                },
            )
            for kind, host in hosts.items()
        }
        version = json.loads((package / "package.json").read_text())["version"]
        subject = Subject("portkey", "Portkey, bare", asks, True, lambda: [process])
        yield subject, {"portkey": version, "node": version_of(node, "--version")}
