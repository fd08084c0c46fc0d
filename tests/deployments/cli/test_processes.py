"""Whose a process is, who holds a port, and that ending ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.cli import processes


def child(argument: str) -> subprocess.Popen[bytes]:
    """A program that waits, with this on its command line."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", argument])


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One that names the folder, one that holds a file in it open, one that does neither."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours-too").mkdir()
    log = tmp_path / "ours" / "log"
    with log.open("w") as output:
        holding = subprocess.Popen(["sleep", "60"], stdout=output)
    started = [
        child(f"{tmp_path}/ours/haproxy.cfg"),
        holding,
        child(f"{tmp_path}/ours-too/haproxy.cfg"),
    ]
    try:
        yield started
    finally:
        for each in started:
            each.kill()
            each.wait()


def test_a_folder_ends_its_own_processes_and_no_others(
    tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    """By command line and by open file; a folder whose name begins alike is another's."""
    naming, holding, other = children
    # Asked to end, a stopped process does nothing.
    naming.send_signal(signal.SIGSTOP)
    found = {process.pid for process in processes.of_folder(tmp_path / "ours")}
    assert found == {naming.pid, holding.pid}
    assert processes.end_folder(tmp_path / "ours", patience_s=0.2) == 2
    assert not psutil.pid_exists(naming.pid)
    assert not psutil.pid_exists(holding.pid)
    assert other.poll() is None


def test_the_holder_of_a_port_is_told_by_pid_and_command_line() -> None:
    """Free before, held while a process listens, free after."""
    port = processes.free_port()
    assert processes.port_is_free("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        assert not processes.port_is_free("127.0.0.1", port)
        assert processes.free_port(port) != port
        assert processes.listens(f"127.0.0.1:{port}")
        holder = processes.holder(port)
        assert holder is not None
        told = processes.described(holder)
        assert told.startswith(f"pid {os.getpid()} (")
        assert Path(sys.executable).name in told
    assert processes.port_is_free("127.0.0.1", port)
    assert not processes.listens(f"127.0.0.1:{port}")
    assert processes.holder(port) is None


@pytest.mark.parametrize("address", ["", "nonsense", "host:port", "127.0.0.1:0"])
def test_nothing_listens_at_what_is_no_address(address: str) -> None:
    """A garbled state file is no reason to break."""
    assert not processes.listens(address)


def test_a_pid_that_was_given_to_another_process_is_not_ours() -> None:
    """A process lives only if it began when we wrote it down."""
    me = psutil.Process()
    assert processes.lives(me.pid, me.create_time())
    assert not processes.lives(me.pid, me.create_time() - 100)
    ended = subprocess.Popen(["true"])
    time.sleep(0.2)
    assert not processes.lives(ended.pid, psutil.Process(ended.pid).create_time())  # a zombie
    ended.wait()
    assert not processes.lives(ended.pid, time.time())
