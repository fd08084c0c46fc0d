"""What the streaming load is asked for, and what it says."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import psutil

from benchmarks.speed.programs import cpu_s


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be measured.

    what: "flow": streams follow one another as fast as they end. "hold": all streams are opened;
        once all have begun they are watched for stalls, then the upstream is asked to end them.
    url, headers, model: of the requests. streams: at once. seconds: of watching.
    lead_s: in a "flow", with the same load, before it is watched.
    stall_s: a longer pause is a stall. finish_url: where a "hold" asks for its streams' end.
    """

    what: str
    url: str
    headers: dict[str, str]
    model: str
    streams: int
    seconds: float
    lead_s: float = 2.0
    stall_s: float = 0.2
    finish_url: str = ""


@dataclass(slots=True)
class Seen:
    """What was found.

    frames: that came while it was watched, in watched_s seconds.
    first_ms: times from request to first text, of streams that began while it was watched.
    streams: that came to their end. failed: that broke off or could not begin.
    opened: that were open at once. stalled: those with too long a pause; worst_ms: the longest
        pause of those that were too long, or open at the end.
    cpu: the share of one core that the load itself took while it watched.
    """

    frames: int = 0
    watched_s: float = 0.0
    first_ms: list[float] = field(default_factory=list)
    streams: int = 0
    failed: int = 0
    opened: int = 0
    stalled: int = 0
    worst_ms: float = 0.0
    cpu: float = 0.0


def run(wish: Wish, working: Sequence[psutil.Process] = ()) -> tuple[Seen, float]:
    """Have the load do it; with the seconds of CPU that these processes took meanwhile.

    Raises RuntimeError where it fails.
    """
    command = [sys.executable, "-m", "benchmarks.speed.stream_load", json.dumps(asdict(wish))]
    spent: list[float] = []
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        for line in load.stdout:
            if line.startswith("watch"):
                spent.append(cpu_s(working))
            last = line
    if load.returncode:
        raise RuntimeError(f"the streaming load ended with {load.returncode}")
    return Seen(**json.loads(last)), spent[-1] - spent[0] if spent else 0.0
