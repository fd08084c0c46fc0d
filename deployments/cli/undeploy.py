"""`python -m deployments.cli.undeploy`: the part of `down` that needs the cluster.

A program of its own, because a call to a Ray that is dying or frozen may never return: whoever
runs it gives it a time, and goes on without it. Reads one JSON object, prints one.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass

from deployments.cli import local_ray
from deployments.cli.state import Running
from deployments.cli.terminal import Problem

_SPARE_S = 30.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken down. shut_serve_down: Serve too, since nothing else was left on it."""

    applications: tuple[str, ...]
    singletons: tuple[str, ...]
    shut_serve_down: bool


def undeploy(running: Running, patience_s: float) -> Taken:
    """Take down what `running` names, in a process of its own.

    patience_s: for requests that are under way. Raises Problem when it fails or takes too long.
    """
    question = json.dumps({"running": asdict(running), "patience_s": patience_s})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli.undeploy"],
            input=question,
            capture_output=True,
            text=True,
            timeout=patience_s + _SPARE_S,
            check=False,
            # Ctrl-C in the terminal is for the one who waits; that one decides.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise Problem("The cluster did not answer in time.") from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["no reason given"]
        raise Problem(f"Taking down failed: {words[-1]}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    names = tuple(answer["applications"]), tuple(answer["singletons"])
    return Taken(*names, bool(answer["shut_serve_down"]))


def main() -> None:
    """Answer the question on stdin."""
    question = json.load(sys.stdin)
    lists = {key: tuple(question["running"][key]) for key in ("applications", "nodes")}
    running = Running(**{**question["running"], **lists})
    if running.session is not None:
        os.environ.update(local_ray.access(running.session))
    from deployments.cli import serving

    serving.connect(running.address)
    taken = serving.undeploy(
        running.name, running.applications, running.started_serve, question["patience_s"]
    )
    serving.disconnect()
    sys.stdout.write(json.dumps(taken) + "\n")


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(str(problem))
