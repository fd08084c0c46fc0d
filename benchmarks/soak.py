"""Whether memory grows: hundreds of thousands of mixed requests against a running gateway.

Cache misses and hits, streams, errors of all kinds, refusals and waits at a limit, clients
that leave; many keys, users and models. The memory of every replica and singleton is sampled;
ends with status 1 where one of them has grown by more than 5 % since the warm-up.
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp

from benchmarks import soak_load
from benchmarks.client import Client
from benchmarks.consumption import memory
from benchmarks.machine import machine
from benchmarks.on_ray import Gateway, Setting, running
from benchmarks.ports import free_ports
from benchmarks.upstream import upstream

MOST_GROWTH = 0.05
_SAMPLE_S = 2.0
_STRETCH_S = 20.0
_LEAVERS = 6
_KEYS = 200


class Sample(NamedTuple):
    """Bytes of one process, `at_s` seconds into the run, after at least so many requests."""

    at_s: float
    requests: int
    unique: int
    resident: int


class Growth(NamedTuple):
    """Bytes at the end of the warm-up and of the run (medians), and the larger of the growths."""

    before: int
    after: int
    share: float


def main() -> None:
    """Run the soak, print the growth of every process."""
    parser = argparse.ArgumentParser(description=__doc__, prog="scripts/bench --soak")
    parser.add_argument("--requests", type=int, default=860_000, help="warm-up included")
    # By then the ledger has the 200,000 ended charges that it remembers, and the table of them
    # has grown for the last time, at the 350,000th.
    parser.add_argument("--warm-up", type=int, default=560_000, help="requests")
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for all samples")
    parser.add_argument("--plots", type=Path, help="folder for the picture, such as docs")
    args = parser.parse_args()
    # Otherwise what was started would stay.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="raygate-soak-") as name:
        folder = Path(name)
        with gateway_on(folder, args.replicas) as gateway:
            ends, samples = asyncio.run(Soak(folder, gateway, args).run())
    grown = {name: growth(ones, args.warm_up) for name, ones in samples.items()}
    report(ends, grown)
    if args.json:
        found = {"machine": machine(), "ends": ends, "samples": samples, "growth": grown}
        args.json.write_text(json.dumps(found))
    if args.plots:
        draw(samples, args.warm_up, args.plots)
    sys.exit(any(one.share > MOST_GROWTH for one in grown.values()))


@contextmanager
def gateway_on(folder: Path, replicas: int) -> Iterator[Gateway]:
    """A gateway whose providers answer as the load means them to."""
    (port,) = free_ports(1)
    with upstream(folder, port, soak_load.locations()) as base_url:
        root = base_url.removesuffix("/v1")
        paths = {"steady": base_url} | {kind: f"{root}/{kind}/v1" for kind in soak_load.KINDS}
        providers = tuple(
            {"name": kind, "base_url": path, "api_key_env": "SOAK_KEY"}
            for kind, path in paths.items()
        )
        setting = Setting(replicas, providers=providers)
        with running(folder, soak_load.policy(), setting, {"SOAK_KEY": "sk-soak"}) as gateway:
            yield gateway


async def make_keys(gateway: Gateway) -> list[str]:
    """The secrets of new keys, in teams."""
    async with aiohttp.ClientSession() as session:
        client = Client(gateway.url, gateway.admin, session)
        return [
            await client.key(name=f"soak {number}", team=f"team-{number % soak_load.TEAMS}")
            for number in range(_KEYS)
        ]


class Soak:
    """One run. Requests are counted as the stretches of the load end."""

    def __init__(self, folder: Path, gateway: Gateway, args: argparse.Namespace) -> None:
        self._folder = folder
        self._gateway = gateway
        self._args = args
        self._ends: Counter[str] = Counter()
        self._samples: defaultdict[str, list[Sample]] = defaultdict(list)
        self._began = time.monotonic()

    async def run(self) -> tuple[Counter[str], dict[str, list[Sample]]]:
        """Drive and sample until there were enough requests. Raises where a process has ended."""
        url = f"{self._gateway.url}/v1/chat/completions"
        secrets = await make_keys(self._gateway)
        leavers = [
            asyncio.create_task(soak_load.leave_early(url, secrets, self._ends))
            for _ in range(_LEAVERS)
        ]
        sampling = asyncio.create_task(self._sample(processes(self._gateway)))
        stretch = 0
        while self._ends.total() < self._args.requests and not sampling.done():
            stretch += 1
            self._ends += await soak_load.drive(
                url, self._args.clients, _STRETCH_S, secrets, self._folder, stretch
            )
            print(f"{self._ends.total():8,} requests  {dict(self._ends)}", file=sys.stderr)
        for task in (*leavers, sampling):
            task.cancel()
        for found in await asyncio.gather(*leavers, sampling, return_exceptions=True):
            if not isinstance(found, asyncio.CancelledError):
                raise RuntimeError("the soak broke off") from found
        return self._ends, dict(self._samples)

    async def _sample(self, pids: dict[str, int]) -> None:
        while True:
            for name, pid in pids.items():
                found = await asyncio.to_thread(memory, pid)
                at_s = time.monotonic() - self._began
                self._samples[name].append(Sample(at_s, self._ends.total(), *found))
            await asyncio.sleep(_SAMPLE_S)


def processes(gateway: Gateway) -> dict[str, int]:
    """Every process whose memory counts, by a name for it."""
    told = gateway.do("describe")
    found = {name: int(one["pid"]) for name, one in told.items()}
    replicas = enumerate(sorted(gateway.replicas()), 1)
    return found | {f"replica {number}": pid for number, pid in replicas}


def growth(samples: list[Sample], warm_up: int) -> Growth:
    """From the first to the last tenth of what was sampled after the warm-up."""
    counted = [one for one in samples if one.requests >= warm_up]
    tenth = max(1, len(counted) // 10)
    shares = []
    for field in ("unique", "resident"):
        values = [getattr(one, field) for one in counted]
        before, after = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
        shares.append(after / before - 1)
    return Growth(int(before), int(after), max(shares))


def report(ends: Counter[str], grown: dict[str, Growth]) -> None:
    """What a person reads."""
    print(f"\n{ends.total():,} requests: {dict(ends.most_common())}")
    print("resident memory       after warm-up    at the end    growth")
    for name, one in grown.items():
        late = "  too much" if one.share > MOST_GROWTH else ""
        print(
            f"  {name:20} {one.before / 2**20:9.1f} MiB {one.after / 2**20:9.1f} MiB "
            f"{one.share:8.1%}{late}",
            flush=True,
        )


def draw(samples: dict[str, list[Sample]], warm_up: int, folder: Path) -> None:
    """Memory over time, a line for each process. Needs matplotlib (notebook extra)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, ones in samples.items():
        axes.plot([one.at_s for one in ones], [one.resident / 2**20 for one in ones], label=name)
    first = next(iter(samples.values()))
    warm_s = min(one.at_s for one in first if one.requests >= warm_up)
    axes.axvspan(0, warm_s, color="black", alpha=0.06, linewidth=0)
    axes.set_ylim(0)
    axes.set_xlim(0, first[-1].at_s)
    axes.set_xlabel(f"seconds; {first[-1].requests:,} requests in all, the warm-up is shaded")
    axes.set_ylabel("resident memory, MiB")
    axes.set_title("Memory under a mixed load", loc="left", fontsize=11, fontweight="bold")
    axes.grid(axis="y", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(folder / "soak.png", dpi=110)


if __name__ == "__main__":
    main()
