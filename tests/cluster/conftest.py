"""One small Ray cluster for all tests of the session; what they start there, they end."""

import contextlib
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors import registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A running Ray, in whose processes this project's modules can be imported."""
    # A folder of its own: a node that joins leaves the cluster's address there, and whoever
    # looks for a running Ray in the usual one must not find this.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray.init(
            "local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            _temp_dir=folder,
            _system_config={"task_retry_delay_ms": 50},
        )
        yield
        ray.shutdown()


@pytest.fixture
def name(cluster: None) -> Iterator[str]:
    """The name of a gateway that is nobody else's; its singletons end with the test."""
    made = f"test-{uuid.uuid4().hex[:8]}"
    yield made
    registry.teardown(made)


def eventually(true: Callable[[], Any], within_s: float = 15.0) -> Any:
    """What `true` returns, once that is true."""
    give_up = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.02)
    return found


def kill_process(pid: int) -> None:
    """Kill -9 of one process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
