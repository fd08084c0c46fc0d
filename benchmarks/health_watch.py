"""A program that asks for health ten times a second until its input ends, then says how it went.

A process of its own: what a load's event loop takes is not the gateway's.

    python -m benchmarks.health_watch URL PATH...        (without a key)
"""

import http.client
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PATHS = ("/health", "/health/live", "/health/ready")
_EVERY_S = 0.1


@dataclass(slots=True)
class Told:
    """Seconds that each answer took, and how many were none, or not 200."""

    took_s: list[float] = field(default_factory=list)
    failed: int = 0


@contextmanager
def watching(url: str) -> Iterator[Told]:
    """Ask for as long as this lasts; afterwards `Told` is filled in."""
    told = Told()
    command = [sys.executable, "-m", "benchmarks.health_watch", url, *PATHS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield told
        answer, _ = process.communicate()
        told.took_s, told.failed = json.loads(answer)


def main(url: str, paths: Sequence[str]) -> None:
    """Ask until the input ends."""
    at = urlsplit(url)
    took_s: list[float] = []
    failed = turn = 0
    while not select.select([sys.stdin], [], [], _EVERY_S)[0]:
        path = paths[turn % len(paths)]
        turn += 1
        began = time.perf_counter()
        line = http.client.HTTPConnection(at.hostname or "", at.port, timeout=5)
        try:
            line.request("GET", path)
            reply = line.getresponse()
            reply.read()
            failed += reply.status != 200
        except OSError:
            failed += 1
        finally:
            line.close()
        took_s.append(time.perf_counter() - began)
    print(json.dumps([took_s, failed]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
