"""Full admissions as callers and as keys grow: how many a second, and what one costs.

Callers are processes on the same Ray cluster as the singletons, as replicas are; stores are
on. An admission takes from three request limits and two budgets, and is settled. Rounds of
all sizes alternate after a warm-up; what is shown are medians.

Asked directly, callers take turns through 1,000 keys. What is asked for seldom is not lent,
whoever asks, so leases are measured with 10 keys in frequent use.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from actors import registry
from actors.consultant import Consultant
from actors.ray_transport import RayTransport
from benchmarks import admission_plots
from benchmarks.admitting import POLICY, SINGLETONS, Caller, Load
from benchmarks.consumption import cpu_s, memory
from benchmarks.machine import machine

_CALLERS = "admissions-callers"
_ASKED_KEYS, _LEASED_KEYS = 1_000, 10


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement.

    per_s: admissions a second. limiter_us, tracker_us, caller_us: processor time of each host,
    and of all callers together, per admission. p50_ms, p99_ms: from asking to being admitted.
    batch: commands in a batch, on average over both hosts.
    """

    per_s: float
    limiter_us: float
    tracker_us: float
    caller_us: float
    p50_ms: float
    p99_ms: float
    batch: float


@dataclass(frozen=True, slots=True)
class Growth:
    """A number of keys: the median round, and how it compares with the fewest keys.

    ratio: of admissions a second, the median of the ratios round by round.
    limiter_bytes, tracker_bytes: of each host for one more key (None: too few to tell).
    """

    round: Round
    ratio: float
    limiter_bytes: float | None
    tracker_bytes: float | None


def main() -> None:
    """Run what is asked for, print its tables, keep figures and pictures where told."""
    parser = argparse.ArgumentParser(description=__doc__, prog="scripts/bench --admissions")
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--concurrency", type=int, default=128, help="of each caller")
    parser.add_argument("--keys", type=int, nargs="*", default=[10, 100, 1_000, 10_000, 100_000])
    parser.add_argument("--growth-callers", type=int, default=2, help="while keys grow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warm-up", type=float, default=1.0, help="before each measurement")
    parser.add_argument("--leases", action="store_true", help="spend slices without asking")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plots", type=Path, help="folder for the pictures, such as docs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raygate-bench-") as folder:
        figures = run(folder, args)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    if args.plots:
        admission_plots.draw(figures, args.plots)


def run(folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """Start Ray, measure, end it."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    figures: dict[str, Any] = {"machine": machine(), "leases": args.leases}
    figures["concurrency"] = args.concurrency
    try:
        most = max([*args.callers, args.growth_callers if args.keys else 1])
        crowd = [Caller.remote() for _ in range(most)]
        if args.callers:
            figures["callers"] = grow_callers(folder, crowd, args)
        if args.keys:
            figures["keys"] = grow_keys(folder, crowd[: args.growth_callers], args)
    finally:
        ray.shutdown()
    return figures


def grow_callers(folder: str, crowd: Sequence[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Alternating rounds of all numbers of callers; their medians, by number."""
    gateway = Gateway(_CALLERS, folder)
    rounds: dict[int, list[Round]] = {number: [] for number in args.callers}
    keys = _LEASED_KEYS if args.leases else _ASKED_KEYS
    gateway.fill(crowd[:2], args, keys, admissions=1_000)
    for turn in range(args.rounds):
        for number in args.callers:
            found = gateway.measure(crowd[:number], args, keys)
            print(f"round {turn + 1}  {number:3} callers  {found}", file=sys.stderr)
            rounds[number].append(found)
    gateway.end()
    medians = {number: median(ones) for number, ones in rounds.items()}
    head = "callers  admissions/s  limiter µs  tracker µs  caller µs   p50 ms   p99 ms  batch"
    print(f"\n{args.concurrency} admissions under way at each caller, {keys} keys\n{head}")
    for number, one in medians.items():
        print(f"{number:7}  {_line(one)}")
    return {str(number): asdict(one) for number, one in medians.items()}


def grow_keys(folder: str, crowd: Sequence[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Alternating rounds of all numbers of keys, each with hosts of its own."""
    gateways = {keys: Gateway(f"admissions-keys-{keys}", folder) for keys in args.keys}
    rounds: dict[int, list[Round]] = {keys: [] for keys in args.keys}
    held: dict[int, tuple[int, ...]] = {}
    for keys, gateway in gateways.items():
        # As many admissions everywhere: what is kept of each would else be taken for keys.
        gateway.fill(crowd, args, keys, admissions=max(args.keys))
        held[keys] = tuple(memory(pid).unique for pid in gateway.pids)
    for turn in range(args.rounds):
        for keys, gateway in gateways.items():
            found = gateway.measure(crowd, args, keys)
            print(f"round {turn + 1}  {keys:7} keys  {found}", file=sys.stderr)
            rounds[keys].append(found)
    for gateway in gateways.values():
        gateway.end()
    fewest = min(args.keys)
    found_all = {
        keys: Growth(
            median(ones),
            statistics.median(
                one.per_s / first.per_s for one, first in zip(ones, rounds[fewest], strict=True)
            ),
            *(
                (after - before) / (keys - fewest) if keys >= 10_000 else None
                for after, before in zip(held[keys], held[fewest], strict=True)
            ),
        )
        for keys, ones in rounds.items()
    }
    head = "   keys  admissions/s  limiter µs  tracker µs  caller µs   p50 ms   p99 ms  batch"
    print(f"\n{len(crowd)} callers\n{head}  to {fewest} keys  bytes per key: limiter, tracker")
    for keys, one in found_all.items():
        sizes = (one.limiter_bytes, one.tracker_bytes)
        shown = "  ".join("-" if size is None else f"{size:,.0f}" for size in sizes)
        print(f"{keys:7}  {_line(one.round)}  {one.ratio:10.1%}  {shown}")
    return {str(keys): asdict(one) for keys, one in found_all.items()}


class Gateway:
    """The two singletons of one name. pids: the processes of their hosts."""

    def __init__(self, name: str, folder: str) -> None:
        self.name = name
        registry.claim_home(name, folder)
        asyncio.run(self._configure())
        told = registry.describe(name)
        self.pids: tuple[int, ...] = tuple(told[each]["pid"] for each in SINGLETONS)

    async def _configure(self) -> None:
        place = registry.home(self.name)
        assert place is not None
        for each, policy in POLICY.items():
            consultant = Consultant(each, RayTransport(self.name, each, place))
            consultant.start()
            await consultant.ask("configure", "1", policy)
            await consultant.close()

    def fill(
        self, crowd: Sequence[Any], args: argparse.Namespace, keys: int, admissions: int
    ) -> None:
        """That many admissions, spread over all keys."""
        share = -(-admissions // len(crowd))
        ray.get(
            [
                one.do.remote(load, share)
                for one, load in zip(crowd, self._loads(crowd, args, keys), strict=True)
            ]
        )

    def measure(self, crowd: Sequence[Any], args: argparse.Namespace, keys: int) -> Round:
        """One round with these callers."""
        loads = self._loads(crowd, args, keys)
        ray.get([one.start.remote(load) for one, load in zip(crowd, loads, strict=True)])
        time.sleep(args.warm_up)
        marks = ray.get([one.mark.remote() for one in crowd])
        before, began = self._host_counts(), time.monotonic()
        time.sleep(args.seconds)
        after, lasted = self._host_counts(), time.monotonic() - began
        later = ray.get([one.mark.remote() for one in crowd])
        ray.get([one.stop.remote() for one in crowd])
        pairs = list(zip(marks, later, strict=True))
        per_s = sum((b.done - a.done) / (b.at_ns - a.at_ns) * 1e9 for a, b in pairs)
        callers = sum((b.cpu_ns - a.cpu_ns) / (b.at_ns - a.at_ns) for a, b in pairs)
        hosts = [(b[0] - a[0]) / lasted for a, b in zip(before, after, strict=True)]
        commands = sum(b[1] - a[1] for a, b in zip(before, after, strict=True))
        batches = sum(b[2] - a[2] for a, b in zip(before, after, strict=True))
        waits = sorted(each for mark in later for each in mark.latencies_ns)
        return Round(
            per_s=per_s,
            limiter_us=hosts[0] / per_s * 1e6,
            tracker_us=hosts[1] / per_s * 1e6,
            caller_us=callers / per_s * 1e6,
            p50_ms=waits[len(waits) // 2] / 1e6,
            p99_ms=waits[len(waits) * 99 // 100] / 1e6,
            batch=commands / max(batches, 1),
        )

    def _loads(self, crowd: Sequence[Any], args: argparse.Namespace, keys: int) -> list[Load]:
        return [
            Load(self.name, keys, keys * number // len(crowd), args.concurrency, args.leases)
            for number in range(len(crowd))
        ]

    def _host_counts(self) -> list[tuple[float, int, int]]:
        """Of each host: seconds of processor time, commands, batches."""
        # A host that is as busy as it can be is asked late.
        told = registry.describe(self.name, timeout_s=60.0)
        return [
            (cpu_s(pid), told[each]["commands"], told[each]["batches"])
            for pid, each in zip(self.pids, SINGLETONS, strict=True)
        ]

    def end(self) -> None:
        """End the hosts."""
        registry.teardown(self.name)


def median(rounds: Iterable[Round]) -> Round:
    """Each figure's median."""
    columns = zip(*(asdict(one).values() for one in rounds), strict=True)
    return Round(*map(statistics.median, columns))


def _line(one: Round) -> str:
    times = f"{one.limiter_us:10.1f}  {one.tracker_us:10.1f}  {one.caller_us:9.1f}"
    return f"{one.per_s:12,.0f}  {times}  {one.p50_ms:7.1f}  {one.p99_ms:7.1f}  {one.batch:5.0f}"


if __name__ == "__main__":
    main()
