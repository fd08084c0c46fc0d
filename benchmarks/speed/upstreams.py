"""Who answers: nginx for plain calls, a program of ours for streams."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.ports import free_ports
from benchmarks.speed.programs import running, wait_for
from benchmarks.upstream import upstream


@contextmanager
def upstreams(folder: Path) -> Iterator[tuple[str, str]]:
    """Both; yields the base URL for plain calls, and the root of the streams'.

    Streams are below /RATE/COUNT/v1 (see `stream_upstream.py`). Raises RuntimeError.
    """
    plain_port, stream_port = free_ports(2)
    log = folder / "streams.log"
    command = [sys.executable, "-m", "benchmarks.speed.stream_upstream", str(stream_port)]
    with upstream(folder, plain_port) as plain, running(command, log) as process:
        streams = f"http://127.0.0.1:{stream_port}"
        wait_for(f"{streams}/stats", process, log)
        yield plain, streams
