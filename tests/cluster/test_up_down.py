"""`raygate up` and `down` as a user runs them: real processes, real ports, a home of their own."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.cli import processes

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
START_S = 400


class Machine:
    """A home folder and a port, and what is run there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = processes.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = home / ".raygate" / "raygate"
        ours = ("RAYGATE_", "RAY_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        self.environment = {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)}
        self.key = ""
        self.sessions: set[Path] = set()

    def raygate(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def up(self) -> dict[str, Any]:
        """Start it, and remember the key from the first start."""
        printed = self.raygate("up", "--detach", "--json", "--port", str(self.port)).stdout
        told: dict[str, Any] = json.loads(printed)
        self.key = told["admin_key"] or self.key
        self.sessions.add(self.session)
        return told

    @property
    def session(self) -> Path:
        """The folder of the Ray that runs."""
        return Path(json.loads((self.folder / "up.json").read_text())["session"])

    def status(self) -> dict[str, Any]:
        """What `raygate status --json` says to an admin."""
        self.environment["RAYGATE_ADMIN_KEY"] = self.key
        try:
            return dict(json.loads(self.raygate("status", "--json").stdout))
        finally:
            del self.environment["RAYGATE_ADMIN_KEY"]

    def ask(self) -> dict[str, Any]:
        """One chat request, by curl."""
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": str(time.time())}]}
        command = ["curl", "-sS", f"{self.url}/v1/chat/completions", "-d", json.dumps(body)]
        command += ["-H", f"Authorization: Bearer {self.key}"]
        command += ["-H", "Content-Type: application/json"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        return dict(json.loads(answer.stdout))

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """What the admin API answers."""
        request = urllib.request.Request(
            f"{self.url}/admin/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.key}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def ledger(self) -> dict[str, dict[str, Any]]:
        """The last row of each charge."""
        rows = self.admin("GET", "costs/ledger?limit=1000")["data"]
        return {row["charge_id"]: row for row in rows}

    def pending_nanos(self) -> int:
        """What is reserved or lent of the budgets."""
        return sum(one["pending_nanos"] for one in self.admin("GET", "budgets")["data"])

    def nothing_is_left(self) -> bool:
        """No process of any session so far, no port, no folder."""
        running = [each for one in self.sessions for each in processes.of_folder(one)]
        folders = [one for one in self.sessions if one.exists()]
        return not running and not folders and processes.port_is_free("127.0.0.1", self.port)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine; whatever happens, nothing of it stays."""
    made = Machine(tmp_path)
    try:
        yield made
    finally:
        if (made.folder / "up.json").exists():
            made.sessions.add(made.session)
        for session in made.sessions:
            processes.end_folder(session, patience_s=0.0)
            subprocess.run(["rm", "-rf", str(session)], check=True)


def test_up_down_three_times_leaves_nothing_and_loses_nothing(machine: Machine) -> None:
    """Down leaves no process and no port; the key and today's spend are there after it."""
    for round in range(3):
        told = machine.up()
        assert (told["admin_key"] is None) == (round > 0)
        assert told["url"] == machine.url
        assert "usage" in machine.ask()
        machine.raygate("down")
        assert machine.nothing_is_left()
        assert not (machine.folder / "up.json").exists()

    machine.up()
    spent = machine.status()["costs"]["today_cost"]
    assert spent > 0
    machine.ask()
    assert machine.status()["costs"]["today_cost"] > spent

    refused = machine.raygate("up", code=1)
    assert f"up already, at {machine.url}" in refused.stderr
    machine.raygate("down", "--purge", "--yes")
    assert machine.nothing_is_left()
    assert not machine.folder.exists()


def test_all_killed_at_once_and_started_again_has_all_that_was_acknowledged(
    machine: Machine,
) -> None:
    """I8: charges, keys, prompts, experiments. Calls under way then are charged as estimated."""
    machine.up()
    for _ in range(3):
        machine.ask()
    key = machine.admin("POST", "keys", {"team": "analysts"})
    prompt = machine.admin("POST", "prompts/greet", {"type": "greeting", "template": "Hello."})
    variants = [{"id": "a", "weight": 1}, {"id": "b", "weight": 3}]
    machine.admin("POST", "experiments/tone", {"variants": variants})
    machine.admin("POST", "experiments/tone/start", {})
    eventually(lambda: machine.pending_nanos() == 0)
    charged = machine.ledger()
    assert len(charged) == 3

    machine.admin("PUT", "providers/simulated/control", {"ttft_s": 60})
    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(machine.ask) for _ in range(4)]
        stats = "providers/simulated/stats"
        eventually(lambda: machine.admin("GET", stats)["in_flight"] == len(asking))
        for process in processes.of_folder(machine.session):
            process.kill()
        for each in asking:
            assert isinstance(each.exception(), subprocess.CalledProcessError)

    machine.up()
    prompts = machine.admin("GET", "prompts")["data"]
    assert prompts["greet"]["newest"] == prompt["version"]
    listed = machine.admin("GET", "experiments")["data"]
    assert [(one["id"], one["status"]) for one in listed] == [("tone", "running")]
    assert key["id"] in {one["id"] for one in machine.admin("GET", "keys")["data"]}
    eventually(lambda: machine.pending_nanos() == 0)
    after = machine.ledger()
    assert {id: after[id] for id in charged} == charged
    settled = [row["state"] for id, row in after.items() if id not in charged]
    assert settled == ["estimated"] * len(asking)
    assert machine.status()["status"] == "healthy"
    machine.raygate("down")
    assert machine.nothing_is_left()


def eventually(true: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait until it is. AssertionError where it is not."""
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.2)


def test_ctrl_c_takes_down_what_was_started_and_its_curl_line_works(machine: Machine) -> None:
    """In the foreground: the printed line works when pasted; SIGINT ends everything."""
    with subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", "up", "--port", str(machine.port)],
        cwd=ROOT,
        env=machine.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as foreground:
        assert foreground.stdout is not None
        pasted = ""
        for printed in foreground.stdout:
            if printed.startswith("curl "):
                pasted = printed
            if "Ctrl-C" in printed:
                break
        machine.sessions.add(machine.session)
        answer = subprocess.run(shlex.split(pasted), capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout)["object"] == "chat.completion"
        foreground.send_signal(signal.SIGINT)
        assert foreground.wait(120) == 0
    assert machine.nothing_is_left()


def test_what_holds_a_taken_port_is_named_before_anything_starts(machine: Machine) -> None:
    """The message has the pid and the command line, and no Ray was started."""
    before = psutil.Process().children(recursive=True)
    with socket.socket() as held:
        held.bind(("127.0.0.1", machine.port))
        held.listen()
        refused = machine.raygate("up", "--port", str(machine.port), code=1)
    assert f"Port {machine.port} is held by pid {os.getpid()} (" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (machine.folder / "up.json").exists()
    started = set(psutil.Process().children(recursive=True)) - set(before)
    assert not [each for each in started if "ray" in each.name()]
