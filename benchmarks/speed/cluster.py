"""The gateway and the pass-through behind one HAProxy, on a Ray of their own."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import psutil

from benchmarks.ports import free_ports
from benchmarks.speed.subjects import Ask, Kind, Subject, alike, by_model
from deployments.cli import local_ray, processes

NAME = "benchmark"
ROOT = Path(__file__).parents[2]
_INGRESS = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
_PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)
_END_S = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the stage deploys (see `stage.py`).

    address: of Ray. port: of the ingress. storage: the gateway's folder. upstream, streams: URLs
    of both upstreams. replicas: of each application.
    """

    address: str
    port: int
    storage: str
    upstream: str
    streams: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """url: of the ingress. key: for the gateway. session: the folder of its Ray."""

    url: str
    key: str
    session: Path

    def working(self, *titles: str) -> list[psutil.Process]:
        """Its processes whose titles begin so."""
        found = []
        for one in processes.of_folder(self.session):
            with contextlib.suppress(psutil.Error):
                if "".join(one.cmdline()).startswith(titles):
                    found.append(one)
        return found

    def subjects(self) -> list[Subject]:
        """The ceiling, and the gateway in three ways."""

        # To look for them costs more than a measurement should have beside it.
        @cache
        def of_bare() -> list[psutil.Process]:
            return self.working("ray::ServeReplica:bare:")

        @cache
        def of_gateway() -> list[psutil.Process]:
            return self.working(f"ray::ServeReplica:{NAME}:", "ray::HostActor")

        headers = {"authorization": f"Bearer {self.key}"}
        url = f"{self.url}/v1/chat/completions"
        asks = by_model(url, headers)
        uncached: dict[Kind, Ask] = {"chat": Ask(url, "uncached", headers)}
        bare = alike(f"{self.url}/bare/v1", f"{self.url}/bare")
        return [
            Subject("bare", "bare pass-through on Serve", bare, True, of_bare),
            Subject("gateway", "Raygate, everything on", asks, True, of_gateway),
            Subject("uncached", "Raygate, cache off", uncached, True, of_gateway),
            Subject("hits", "Raygate, cache hits", {"chat": asks["chat"]}, False, of_gateway),
        ]


@contextmanager
def cluster(folder: Path, upstream: str, streams: str, replicas: int) -> Iterator[Cluster]:
    """Start it; afterwards no process of it is left, HAProxy's included, and no port is taken.

    upstream, streams: URLs, as `upstream.py` gives them.
    """
    session = local_ray.make_folder()
    variables = local_ray.environment(session, _INGRESS)
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables["BENCHMARK_KEY"] = "sk-benchmark"
    # Not the usual ones: a gateway may run on this machine.
    port, *others = free_ports(1 + len(_PORTS))
    variables |= dict(zip(_PORTS, map(str, others), strict=True))
    log = folder / "stage.log"
    try:
        address, _ = local_ray.start(session, variables, dashboard=False)
        wanted = Wanted(address, port, str(folder / "state"), upstream, streams, replicas)
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.speed.stage", json.dumps(asdict(wanted))],
                env={**os.environ, **variables},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as stage,
        ):
            assert stage.stdin is not None
            assert stage.stdout is not None
            try:
                line = stage.stdout.readline()
                if not line:
                    raise RuntimeError(f"nothing was deployed:\n{log.read_text()[-3000:]}")
                yield Cluster(f"http://127.0.0.1:{port}", json.loads(line)["key"], session)
                stage.stdin.close()
                stage.wait(_END_S)
            finally:
                if stage.poll() is None:
                    stage.kill()
    finally:
        local_ray.end(session)
