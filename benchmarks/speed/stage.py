"""A program: deploys the gateway and the pass-through on a Ray that runs, and waits.

A process of its own, so that Ray's threads in it are no part of a measurement's driver. Takes
one JSON object (the fields of `Wanted`), prints the key for the load, and ends with its input.

    python -m benchmarks.speed.stage JSON
"""

import asyncio
import json
import sys
from typing import Any

import ray
from ray import serve

from actors import keys, registry
from actors.consultant import Consultant
from actors.key_store import KeyRecord
from actors.ray_transport import RayTransport
from benchmarks.speed import passthrough
from benchmarks.speed.cluster import NAME, Wanted
from benchmarks.speed.subjects import STREAMS
from deployments import gateway
from deployments.structure import GatewayArgs

AMPLE = 10**9
POLICY: dict[str, Any] = {
    "models": {
        "gpt-4o-mini": {"targets": ["upstream/gpt-4o-mini"]},
        "uncached": {"targets": ["upstream/gpt-4o-mini"], "cache": False},
        **{f"stream-{kind}": {"targets": [f"{kind}/gpt-4o-mini"]} for kind in STREAMS},
    },
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


def main(wanted: Wanted) -> None:
    """Deploy both, side by side; take them down when the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    ray.init(address=wanted.address, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": wanted.port})
    try:
        bare = passthrough.build(wanted.upstream, wanted.streams, wanted.replicas)
        serve.run(bare, name="bare", route_prefix="/bare")
        urls = {"upstream": wanted.upstream}
        urls |= {kind: f"{wanted.streams}/{pace}/v1" for kind, pace in STREAMS.items()}
        providers = [
            {
                "name": name,
                "base_url": url,
                "api_key_env": "BENCHMARK_KEY",
                "max_connections": 10_000,
            }
            for name, url in urls.items()
        ]
        structure = GatewayArgs.model_validate(
            {"name": NAME, "storage_path": wanted.storage, "providers": providers}
        )
        everything = gateway.deployment(structure, num_replicas=wanted.replicas, user_config=POLICY)
        serve.run(everything.bind(structure), name=NAME, route_prefix="/")
        print(json.dumps({"key": asyncio.run(make_key())}), file=answers, flush=True)
        sys.stdin.read()
    finally:
        serve.shutdown()
        registry.teardown(NAME)
        ray.shutdown()


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


if __name__ == "__main__":
    main(Wanted(**json.loads(sys.argv[1])))
