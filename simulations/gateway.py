"""A gateway to simulate against: the one that is named, or one started for the occasion."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from simulations.client import SimulationError

START_TIMEOUT_S = 240


class Access(NamedTuple):
    """Where a gateway is, and an admin's key to it."""

    url: str
    admin_key: str


@contextlib.contextmanager
def running_or_started(environment: Mapping[str, str] = os.environ) -> Iterator[Access]:
    """The gateway at RAYGATE_URL (with RAYGATE_ADMIN_KEY), which is left running.

    Without RAYGATE_URL one is started on a free port, with state of its own, and taken down at
    the end; nothing of it stays.
    Raises SimulationError when it does not start, or when no admin key is known.
    """
    url = environment.get("RAYGATE_URL")
    if url:
        yield Access(url, _required_key(environment))
        return
    # A home of its own: the user's gateway, its ledger and its keys are left alone, and each
    # start is a first one, which prints its key.
    with tempfile.TemporaryDirectory(prefix="raygate-", ignore_cleanup_errors=True) as home:
        own = {**environment, "HOME": home}
        printed = _raygate(own, "up", "--detach", "--json", "--port", str(_free_port()))
        try:
            # Earlier lines may be Ray's; the last one is the answer.
            started = json.loads(printed.strip().splitlines()[-1])
            yield Access(started["url"], started.get("admin_key") or _required_key(environment))
        finally:
            _raygate(own, "down")


def _required_key(environment: Mapping[str, str]) -> str:
    key = environment.get("RAYGATE_ADMIN_KEY")
    if not key:
        raise SimulationError(
            "an admin key is printed at a gateway's first start only; set RAYGATE_ADMIN_KEY to it"
        )
    return key


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _raygate(environment: Mapping[str, str], *arguments: str) -> str:
    # A notebook's kernel often runs without its environment's folder of programs on the path.
    beside = Path(sys.executable).with_name("raygate")
    program = str(beside) if beside.exists() else shutil.which("raygate")
    if program is None:
        raise SimulationError("there is no `raygate` command here: install the project first")
    done = subprocess.run(  # noqa: S603 - our own program, and no shell
        [program, *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise SimulationError(f"`raygate {arguments[0]}` failed:\n{done.stdout}{done.stderr}")
    return done.stdout
