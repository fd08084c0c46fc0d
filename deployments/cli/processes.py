"""Processes and ports: whose a process is, who holds a port, and how to end one for good."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

_TERM_S = 3.0
_KILL_S = 5.0


def of_folder(folder: Path) -> list[psutil.Process]:
    """The processes that name something in `folder` on their command line, or hold it open.

    Ray's workers rename themselves, but each keeps its log file open; HAProxy names its
    configuration. This process and its ancestors are left out.
    """
    inside = f"{folder}{os.sep}"
    family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process
        for process in _mine()
        if process.pid not in family and any(inside in word for word in _names(process))
    ]


def naming(words: Iterable[str]) -> list[psutil.Process]:
    """The processes whose command line holds one of `words`."""
    wanted = tuple(words)
    return [
        process
        for process in _mine()
        if process.pid != os.getpid()
        and any(word in argument for argument in _command(process) for word in wanted)
    ]


def end(processes: Iterable[psutil.Process], patience_s: float = _TERM_S) -> None:
    """Ask them to end, and kill what is left after `patience_s`."""
    left = list(processes)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(left, timeout=patience_s)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=_KILL_S)


def end_folder(folder: Path, patience_s: float = _TERM_S) -> int:
    """End every process of a folder, and those that they start meanwhile; returns how many."""
    ended = 0
    for _ in range(5):
        found = of_folder(folder)
        if not found:
            break
        ended += len(found)
        end(found, patience_s)
    return ended


def free_port(preferred: int | None = None) -> int:
    """A port that nobody listens on: the preferred one where it is free on every address."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise OSError("there is no free port")


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there. Raises OSError for an address that isn't ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def listens(address: str) -> bool:
    """Whether anything listens at HOST:PORT (Ray itself would try for ever to reach it)."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=3.0):
            return True
    except (OSError, ValueError):
        return False


def holder(port: int) -> psutil.Process | None:
    """The process that listens on a port, where this user may know it."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return process
    return None


def described(process: psutil.Process) -> str:
    """Pid and command line, for a message."""
    command = " ".join(_command(process)) or "?"
    return f"pid {process.pid} ({command[:200]})"


def lives(pid: int, created: float) -> bool:
    """Whether the process with this pid is still the one that was created then."""
    try:
        process = psutil.Process(pid)
        begun: float = process.create_time()
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
    except psutil.Error:
        return False
    return abs(begun - created) < 1.0


def _mine() -> Iterator[psutil.Process]:
    user = os.getuid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == user and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _command(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return command


def _names(process: psutil.Process) -> Iterator[str]:
    yield from _command(process)
    with contextlib.suppress(psutil.Error, OSError):
        yield from (opened.path for opened in process.open_files())
