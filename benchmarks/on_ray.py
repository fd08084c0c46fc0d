"""A gateway of some replicas behind HAProxy on a Ray of its own, for tests and measurements."""

import csv
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.nodes import HEALTH_CHECKS, Nodes
from benchmarks.ports import free_ports
from deployments.cli import local_ray, processes
from deployments.providers.simulated_log import CallRecord, read_calls

ROOT = Path(__file__).parents[1]
FAST_INGRESS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # As in serve_config.yaml.
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
}
PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)
_START_S, _END_S = 120.0, 60.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What is deployed.

    replicas: of the gateway, as long as `scaling` does not say otherwise.
    models: those of a simulated provider that runs beside it; none: there is no such provider.
    providers: other providers, as the gateway's `args` take them.
    scaling: Serve's `autoscaling_config` for the gateway; none: the number is fixed.
    shards: how many hosts singletons have, as the gateway's `args` take it.
    nodes: how many nodes for singletons there are beside the head, each with its own disk.
    name: of the gateway. Its replicas' processes are known by it, so it is nobody else's.
    """

    replicas: int
    models: tuple[str, ...] = ()
    providers: tuple[dict[str, Any], ...] = ()
    scaling: dict[str, Any] | None = None
    shards: dict[str, int] = field(default_factory=dict)
    nodes: int = 0
    name: str = field(default_factory=lambda: f"on-ray-{secrets.token_hex(4)}")


class Gateway:
    """A running gateway, and the process that deployed it (see `stage.py`).

    url: of the ingress. haproxy: its admin socket. admin: the secret of an admin key.
    nodes: those for singletons. ray: the folder of the session.
    storage: its state, and the log of the simulated provider beside it.
    """

    def __init__(
        self,
        stage: "subprocess.Popen[str]",
        setting: Setting,
        url: str,
        haproxy: Path,
        storage: Path,
        nodes: Nodes,
        ray: Path,
    ) -> None:
        self.setting = setting
        self.url = url
        self.haproxy = haproxy
        self.storage = storage
        self.nodes = nodes
        self.ray = ray
        self.admin = ""
        self._stage = stage
        self._one = threading.Lock()

    def do(self, what: str, argument: Any = None) -> Any:
        """Have the stage do something, and wait for it. Blocks. Raises RuntimeError."""
        assert self._stage.stdin is not None
        assert self._stage.stdout is not None
        with self._one:
            print(json.dumps([what, argument]), file=self._stage.stdin, flush=True)
            line = self._stage.stdout.readline()
        if not line:
            ended = self._stage.wait(_END_S)
            raise RuntimeError(f"the stage ended with {ended}; see {self.storage}/stage.log")
        word, value = json.loads(line)
        if word != "ok":
            raise RuntimeError(f"{what}: {value}")
        return value

    def pid(self, singleton: str) -> int | None:
        """The process in which a singleton runs; None while it does not answer."""
        pid: int | None = self.do("describe")[singleton].get("pid")
        return pid

    def replicas(self) -> set[int]:
        """The processes of the gateway's replicas."""
        title = f"ray::ServeReplica:{self.setting.name}:Gateway"
        listed = psutil.process_iter(["pid", "cmdline"])
        return {
            int(one.info["pid"])
            for one in listed
            if "".join(one.info["cmdline"] or ()).startswith(title)
        }

    def served(self) -> dict[str, int]:
        """How many requests each replica of the gateway has been handed, by HAProxy's count."""
        return {row["svname"]: int(row["stot"]) for row in self._servers()}

    def up(self) -> int:
        """How many replicas HAProxy hands requests to."""
        return sum(row["status"].startswith(("UP", "no check")) for row in self._servers())

    def _servers(self) -> list[dict[str, str]]:
        """The replicas in HAProxy's own statistics."""
        # Each node's HAProxy has a folder of its own.
        (admin,) = self.haproxy.parent.glob(f"*/{self.haproxy.name}")
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(admin))
            line.sendall(b"show stat\n")
            with line.makefile() as told:
                rows = [row for row in csv.DictReader(told) if row["svname"]]
        mine = f"SERVE_REPLICA_{self.setting.name}-"
        return [row for row in rows if row["svname"].startswith(mine)]

    def calls(self, *models: str) -> list[CallRecord]:
        """What the provider has been asked for these models, in order."""
        return [one for one in read_calls(self.storage / "calls.jsonl") if one.model in models]


def _wait_for_all(gateway: Gateway) -> None:
    """Serve calls an application running before its ingress knows of every replica."""
    give_up = time.monotonic() + _START_S
    while len(gateway.served()) < gateway.setting.replicas:
        if time.monotonic() > give_up:
            raise TimeoutError(f"HAProxy knows of {len(gateway.served())} replicas only")
        time.sleep(0.2)


@contextmanager
def running(
    storage: Path, policy: Any, setting: Setting, variables: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """Start all of it; afterwards no process is left, and no port is taken.

    variables: for the environment of every process.
    """
    folder = local_ray.make_folder()
    environment = local_ray.environment(folder, {**FAST_INGRESS, **(variables or {})})
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # Not the usual ones: another gateway may be starting on this machine.
    port, *others = free_ports(1 + len(PORTS))
    environment |= dict(zip(PORTS, map(str, others), strict=True))
    if setting.nodes:
        environment |= {**HEALTH_CHECKS, "HOME": str(storage / "head")}
        (storage / "head").mkdir()
    try:
        address, _ = local_ray.start(folder, environment, dashboard=False)
        nodes = Nodes(folder, environment, address, storage)
        for _ in range(setting.nodes):
            nodes.add()
        with (
            (storage / "stage.log").open("wb") as log,
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.stage"),
                    *(address, str(port), str(storage), json.dumps(asdict(setting))),
                ],
                env={**os.environ, **environment},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as stage,
        ):
            try:
                haproxy = Path(environment["RAY_SERVE_HAPROXY_SOCKET_PATH"])
                url = f"http://127.0.0.1:{port}"
                gateway = Gateway(stage, setting, url, haproxy, storage, nodes, folder)
                gateway.admin = gateway.do("bootstrap")
                gateway.do("deploy", policy)
                _wait_for_all(gateway)
                yield gateway
                assert stage.stdin is not None
                stage.stdin.close()
                if stage.wait(_END_S) != 0:
                    raise RuntimeError(f"the stage failed at its end; see {storage}/stage.log")
            finally:
                stage.kill()
    finally:
        local_ray.end(folder)
        left = processes.of_folder(folder)
        taken = [one for one in (port, *others) if not processes.port_is_free("127.0.0.1", one)]
        if left or taken:
            raise RuntimeError(f"left behind: processes {left}, ports {taken}")
