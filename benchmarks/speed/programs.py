"""Programs that a measurement needs: found, started, waited for, and ended by their pid."""

import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from deployments.cli import processes

_WAIT_S = 300.0


class Missing(RuntimeError):
    """A program that is not installed."""


def need(name: str, package: str) -> str:
    """The path of a program. Raises Missing, with what to do about it."""
    found = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if found is None:
        raise Missing(f"This needs {name}: apt-get install {package}")
    return found


@contextmanager
def running(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[psutil.Process]:
    """A program, its output in `log`; afterwards it and all that it started is ended."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    process = psutil.Process(started.pid)
    family: list[psutil.Process] = []
    try:
        yield process
    finally:
        try:
            family = [*process.children(recursive=True), process]
        except psutil.NoSuchProcess:
            pass
        processes.end(family)
        started.wait()


def wait_for(url: str, process: psutil.Process, log: Path, within_s: float = _WAIT_S) -> None:
    """Until an HTTP server answers there, with whatever status. Raises RuntimeError."""
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up and process.is_running():
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    last = log.read_text(errors="replace").strip().splitlines()[-15:]
    raise RuntimeError(f"{Path(log).stem} did not start:\n" + "\n".join(last))


def version(*command: str) -> str:
    """The first version number in what a program says of itself, "?" where there is none."""
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[.\w-]*", said.stdout + said.stderr)
    return found[0] if found else "?"


def cpu_s(found: Sequence[psutil.Process]) -> float:
    """Seconds of CPU that these processes have taken so far."""
    total = 0.0
    for process in found:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
