"""A Ray cluster of several nodes, made anew for each test; what a test starts, it ends."""

import contextlib
import os
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from actors import registry

ROOT = Path(__file__).resolve().parents[2]

HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 700,
    "health_check_failure_threshold": 2,
}
"""With these a node's loss is noticed within three seconds; docs/operations.md names them."""


class Nodes:
    """A head node and some others. raygate: those that are for singletons, by id."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.raygate: dict[str, Any] = {}
        for _ in range(2):
            self.add()

    def add(self) -> str:
        """Another node for singletons; its id."""
        node = self._cluster.add_node(num_cpus=2, resources={"raygate": 1})
        self.raygate[node.node_id] = node
        return str(node.node_id)

    def processes(self, id: str) -> list[int]:
        """The raylet of a node, and all that it has started."""
        found = raylet(self.raygate[id])
        return [found, *children(found)]

    def kill(self, id: str) -> None:
        """Kill -9 of a node: its raylet and all that runs there."""
        pids = self.processes(id)
        node = self.raygate.pop(id)
        for pid in pids:
            kill_process(pid)
        self._cluster.remove_node(node, allow_graceful=False)


def raylet(node: Any) -> int:
    """The process of a node's raylet."""
    [found] = node.all_processes["raylet"]
    return int(found.process.pid)


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for each in found for word in each.read_text().split()]


def kill_process(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to one process, if it lives."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Three nodes, and this process connected to them."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        head = {
            "num_cpus": 2,
            "include_dashboard": False,
            "temp_dir": folder,
            "_system_config": HEALTH_CHECKS,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            ray.init(
                cluster.address,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            )
            yield Nodes(cluster)
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def name(nodes: Nodes) -> Iterator[str]:
    """The name of a gateway; its singletons end with the test."""
    made = f"test-{uuid.uuid4().hex[:8]}"
    yield made
    registry.teardown(made)
