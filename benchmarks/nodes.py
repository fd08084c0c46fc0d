"""Further nodes of a Ray of our own, each with a disk of its own; all on this machine.

As a program it starts one. (`ray start` would do so only for a cluster that is open to the
network.)

    python -m benchmarks.nodes RAY_ADDRESS
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil
import ray._private.node
import ray._private.parameter

from actors.nodes import RESOURCE
from deployments.cli import processes

HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_timeout_ms": "700",
    "RAY_health_check_failure_threshold": "2",
}
"""With these a node's loss is noticed within three seconds; docs/operations.md names them."""
ROOT = Path(__file__).parents[1]
_START_S = 120.0
_ATTEMPTS = 3
_OBJECT_STORE_BYTES = 96 << 20


class Node(NamedTuple):
    """One of them. id: Ray's. raylet: its process. home: what `~` is there."""

    id: str
    raylet: psutil.Process
    home: Path


class Nodes:
    """The nodes that are for singletons.

    folder: of the session. environment: of its head. storage: the nodes' homes lie in it.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], address: str, storage: Path
    ) -> None:
        self.living: dict[str, Node] = {}
        self._folder = folder
        self._environment = environment
        self._address = address
        self._storage = storage
        self._count = 0

    def add(self) -> str:
        """Start another one; its id. Blocks. Raises RuntimeError."""
        for _ in range(_ATTEMPTS):
            # On a busy machine Ray's own patience of half a minute may be too short.
            node = self._start()
            if node is not None:
                self.living[node.id] = node
                return node.id
        raise RuntimeError(f"a node did not start; see {self._storage}/node-{self._count}.log")

    def _start(self) -> Node | None:
        self._count += 1
        home = self._storage / f"node-{self._count}"
        home.mkdir()
        before = {process.pid for process in self._raylets()}
        with home.with_suffix(".log").open("wb") as output:
            code = subprocess.run(
                [sys.executable, "-m", "benchmarks.nodes", self._address],
                env={**os.environ, **self._environment, "HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=ROOT,
                timeout=_START_S,
            ).returncode
        new = [process for process in self._raylets() if process.pid not in before]
        if code == 0 and len(new) == 1:
            return Node(_id(new[0]), new[0], home)
        for process in new:
            _kill(_with_children(process))
        return None

    def processes(self, id: str) -> list[psutil.Process]:
        """A node's raylet, and all that runs there."""
        return _with_children(self.living[id].raylet)

    def kill(self, id: str) -> None:
        """Kill -9 of a node, all at once; its disk is gone too."""
        _kill(self.processes(id))
        shutil.rmtree(self.living.pop(id).home, ignore_errors=True)

    def _raylets(self) -> Iterator[psutil.Process]:
        for process in processes.of_folder(self._folder):
            with contextlib.suppress(psutil.Error):
                if process.name() == "raylet":
                    yield process


def _with_children(raylet: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [raylet, *raylet.children(recursive=True)]
    return [raylet]


def _kill(every: list[psutil.Process]) -> None:
    for process in every:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(every, timeout=5.0)


def _id(raylet: psutil.Process) -> str:
    """By its command line."""
    return next(
        word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--node_id=")
    )


def main(address: str) -> None:
    """Start a node, which lives on when this process has ended."""
    parameters = ray._private.parameter.RayParams(
        gcs_address=address,
        node_ip_address="127.0.0.1",
        num_cpus=2,
        resources={RESOURCE: 1},
        object_store_memory=_OBJECT_STORE_BYTES,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        dashboard_agent_listen_port=processes.free_port(),
        include_log_monitor=False,
    )
    ray._private.node.Node(parameters, head=False, shutdown_at_exit=False, spawn_reaper=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
