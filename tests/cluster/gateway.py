"""A gateway of four replicas behind HAProxy on a Ray of its own, for a whole module of tests."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.ports import free_ports
from deployments.cli import local_ray, processes
from deployments.providers.simulated_log import CallRecord, read_calls
from tests.cluster.stage import NAME, REPLICAS

ROOT = Path(__file__).parents[2]
FAST_INGRESS = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)
_START_S = _END_S = 60.0


class Gateway:
    """A running gateway, and the process that deployed it (see `stage.py`).

    url: of the ingress. haproxy: its admin socket. admin: the secret of an admin key.
    storage: its state, and the provider's log.
    """

    def __init__(
        self, stage: "subprocess.Popen[str]", url: str, haproxy: Path, storage: Path
    ) -> None:
        self.url = url
        self.haproxy = haproxy
        self.storage = storage
        self.admin = ""
        self._stage = stage

    def do(self, what: str, argument: Any = None) -> Any:
        """Have the stage do something, and wait for it. Blocks."""
        assert self._stage.stdin is not None
        assert self._stage.stdout is not None
        print(json.dumps([what, argument]), file=self._stage.stdin, flush=True)
        line = self._stage.stdout.readline()
        assert line, f"the stage ended with {self._stage.wait(_END_S)}; see {self.storage}"
        word, value = json.loads(line)
        assert word == "ok", value
        return value

    def pid(self, singleton: str) -> int | None:
        """The process in which a singleton runs; None while it does not answer."""
        pid: int | None = self.do("describe")[singleton].get("pid")
        return pid

    def replicas(self) -> set[int]:
        """The processes of the gateway's replicas."""
        title = f"ray::ServeReplica:{NAME}:Gateway"
        listed = psutil.process_iter(["pid", "cmdline"])
        return {
            int(one.info["pid"])
            for one in listed
            if "".join(one.info["cmdline"] or ()).startswith(title)
        }

    def served(self) -> dict[str, int]:
        """How many requests each replica of the gateway has been handed, by HAProxy's count."""
        # Each node's HAProxy has a folder of its own.
        (admin,) = self.haproxy.parent.glob(f"*/{self.haproxy.name}")
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(admin))
            line.sendall(b"show stat\n")
            with line.makefile() as told:
                rows = [row for row in csv.DictReader(told) if row["svname"]]
        replicas = [row for row in rows if row["svname"].startswith(f"SERVE_REPLICA_{NAME}-")]
        return {row["svname"]: int(row["stot"]) for row in replicas}

    def calls(self, *models: str) -> list[CallRecord]:
        """What the provider has been asked for these models, in order."""
        return [one for one in read_calls(self.storage / "calls.jsonl") if one.model in models]


def _wait_for_all(gateway: Gateway) -> None:
    """Serve calls an application running before its ingress knows of every replica."""
    give_up = time.monotonic() + _START_S
    while len(gateway.served()) < REPLICAS:
        assert time.monotonic() < give_up, gateway.served()
        time.sleep(0.2)


@contextmanager
def running(storage: Path, policy: Any, models: list[str]) -> Iterator[Gateway]:
    """Start all of it; afterwards no process is left, and no port is taken.

    models: those that the simulated provider answers to.
    """
    folder = local_ray.make_folder()
    variables = local_ray.environment(folder, FAST_INGRESS)
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # Not the usual ones: another gateway may be starting on this machine.
    port, *others = free_ports(1 + len(PORTS))
    variables |= dict(zip(PORTS, map(str, others), strict=True))
    try:
        address, _ = local_ray.start(folder, variables, dashboard=False)
        with (
            (storage / "stage.log").open("wb") as log,
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.cluster.stage"),
                    *(address, str(port), str(storage), *models),
                ],
                env={**os.environ, **variables},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as stage,
        ):
            try:
                haproxy = Path(variables["RAY_SERVE_HAPROXY_SOCKET_PATH"])
                gateway = Gateway(stage, f"http://127.0.0.1:{port}", haproxy, storage)
                gateway.admin = gateway.do("bootstrap")
                gateway.do("deploy", policy)
                _wait_for_all(gateway)
                yield gateway
                assert stage.stdin is not None
                stage.stdin.close()
                assert stage.wait(_END_S) == 0
            finally:
                stage.kill()
    finally:
        local_ray.end(folder)
        assert not processes.of_folder(folder)
        assert all(processes.port_is_free("127.0.0.1", one) for one in (port, *others))
