"""The gateway with everything on against a bare pass-through, in one run.

Both run on one Ray cluster behind one ingress, with as many replicas, against one upstream,
in alternating rounds after a warm-up. Everything on: key, breaker, two request limits, a
token limit, two budgets, cache miss and fill, trace.
"""

import argparse
import asyncio
import json
import os
import platform
import secrets
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray import serve

from actors import keys, registry
from actors.consultant import Consultant
from actors.key_store import KeyRecord
from actors.ray_transport import RayTransport
from benchmarks import passthrough
from benchmarks.load import Round, measure
from benchmarks.ports import free_ports
from benchmarks.upstream import upstream
from deployments import gateway
from deployments.config import GatewayArgs

NAME = "benchmark"
AMPLE = 10**9
POLICY: dict[str, Any] = {
    "models": {"gpt-4o-mini": {"targets": ["upstream/gpt-4o-mini"]}},
    "limits": [
        {"name": "cluster-requests", "rate": AMPLE, "burst": AMPLE},
        {"name": "key-requests", "scope": "key", "rate": AMPLE, "burst": AMPLE},
        {"name": "key-tokens", "scope": "key", "unit": "tokens", "rate": 10**12, "burst": 10**12},
    ],
    "budgets": [
        {"name": "cluster-daily", "amount_usd": 1e6},
        {"name": "key-monthly", "scope": "key", "period": "month", "amount_usd": 1e6},
    ],
}


def main() -> None:
    """Run the benchmark and print its table (`--json FILE` keeps the figures)."""
    parser = argparse.ArgumentParser(description=__doc__, prog="scripts/bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--warm-up", type=float, default=15.0)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raygate-bench-") as name:
        figures = run(Path(name), args)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


def run(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Start everything, measure, end everything."""
    serve_port, upstream_port, *others = free_ports(4)
    os.environ.update(
        RAY_SERVE_ENABLE_HA_PROXY="1",
        RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
        RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="0",
        RAY_SERVE_HAPROXY_METRICS_PORT=str(others[0]),
        RAY_SERVE_HAPROXY_STATS_PORT=str(others[1]),
        BENCHMARK_KEY="sk-benchmark",
        PYTHONPATH=os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
    )
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        with upstream(folder, upstream_port) as base_url:
            serve.start(http_options={"host": "127.0.0.1", "port": serve_port})
            deploy(folder, base_url, args.replicas)
            key = asyncio.run(make_key())
            return compare(folder, f"http://127.0.0.1:{serve_port}", key, args)
    finally:
        serve.shutdown()
        registry.teardown(NAME)
        ray.shutdown()


def deploy(folder: Path, base_url: str, replicas: int) -> None:
    """Both applications, side by side."""
    bare = passthrough.build(f"{base_url}/chat/completions", replicas)
    serve.run(bare, name="bare", route_prefix="/bare")
    provider = {"name": "upstream", "base_url": base_url, "api_key_env": "BENCHMARK_KEY"}
    structure = GatewayArgs.model_validate(
        {"name": NAME, "storage_path": str(folder), "providers": [provider]}
    )
    everything = gateway.deployment(structure, num_replicas=replicas, user_config=POLICY)
    serve.run(everything.bind(structure), name=NAME, route_prefix="/")


async def make_key() -> str:
    """A key for the load."""
    place = registry.home(NAME)
    assert place is not None
    store = Consultant("key_store", RayTransport(NAME, "key_store", place))
    store.start()
    minted = keys.mint()
    await store.ask("create", KeyRecord(minted.id, "load", "team", "admin", minted.hash))
    await store.close()
    return minted.secret


def compare(folder: Path, url: str, key: str, args: argparse.Namespace) -> dict[str, Any]:
    """Alternating rounds; the medians, and the median of the ratios round by round."""
    targets = {"bare": f"{url}/bare/v1/chat/completions", "gateway": f"{url}/v1/chat/completions"}
    figures: dict[str, Any] = {"machine": machine(), "replicas": args.replicas, "clients": {}}
    for clients in args.clients:
        rounds: dict[str, list[Round]] = {name: [] for name in targets}
        for number in range(-1, args.rounds):
            for name, target in targets.items():
                seconds = args.warm_up if number < 0 else args.seconds
                stamp = secrets.token_hex(4)
                found = measure(target, clients, seconds, key, folder, stamp)
                print(f"{clients:4} clients  {name:8} {found}", file=sys.stderr)
                if number >= 0:
                    rounds[name].append(found)
        figures["clients"][clients] = summary = summarise(rounds)
        print_table(clients, summary)
    return figures


def summarise(rounds: dict[str, list[Round]]) -> dict[str, Any]:
    """Medians of each, and of the ratio gateway / bare."""
    found: dict[str, Any] = {
        name: {
            "per_s": statistics.median(one.per_s for one in ones),
            "p50_ms": statistics.median(one.p50_ms for one in ones),
            "p99_ms": statistics.median(one.p99_ms for one in ones),
            "failed": sum(one.failed for one in ones),
        }
        for name, ones in rounds.items()
    }
    pairs = zip(rounds["gateway"], rounds["bare"], strict=True)
    found["share"] = statistics.median(ours.per_s / bare.per_s for ours, bare in pairs)
    return found


def print_table(clients: int, summary: dict[str, Any]) -> None:
    """What a person reads."""
    print(f"\n{clients} clients            req/s    p50 ms    p99 ms   failed")
    for name in ("bare", "gateway"):
        one = summary[name]
        print(
            f"  {name:16} {one['per_s']:9.0f} {one['p50_ms']:9.2f} {one['p99_ms']:9.2f} "
            f"{one['failed']:8}"
        )
    print(f"  gateway / bare   {summary['share']:9.1%}", flush=True)


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "python": platform.python_version(),
        "ray": version("ray"),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
    }


if __name__ == "__main__":
    main()
