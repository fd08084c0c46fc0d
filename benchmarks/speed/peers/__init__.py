"""What users would pick instead, run as its makers describe it."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.speed.peers.litellm import litellm, redis, redis_version
from benchmarks.speed.peers.portkey import portkey
from benchmarks.speed.programs import Missing
from benchmarks.speed.subjects import Subject


@contextmanager
def peers(
    folder: Path, upstream: str, streams: str
) -> Iterator[list[tuple[Subject, dict[str, str]]]]:
    """All of them with their versions, at the same upstreams; without Node, Portkey is left out."""
    found: list[tuple[Subject, dict[str, str]]] = []
    with ExitStack() as started:
        redis_port = started.enter_context(redis(folder))
        found.append(started.enter_context(litellm(folder, upstream, streams, None)))
        subject, versions = started.enter_context(litellm(folder, upstream, streams, redis_port))
        found.append((subject, versions | {"redis": redis_version()}))
        try:
            found.append(started.enter_context(portkey(folder, upstream, streams)))
        except Missing as missing:
            print(f"raygate: Portkey is left out. {missing}", file=sys.stderr)
        yield found
