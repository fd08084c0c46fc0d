"""A program: the gateway and its provider on Ray, at the command of whoever started it.

A process of its own, because Serve reads its mode from the environment when it is imported,
and Ray allows a process one cluster. It takes one JSON value per line, `[what, argument]`,
and answers each with one: `["ok", value]` or `["failed", why]`. It ends with its input.

    python -m tests.cluster.stage RAY_ADDRESS PORT STORAGE_FOLDER
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray import serve

from actors import keys, registry
from actors.consultant import Consultant
from actors.ray_transport import RayTransport
from deployments import gateway
from deployments.config import GatewayArgs
from deployments.providers import simulated
from deployments.providers.simulated import SimulatedArgs
from deployments.providers.simulated_knobs import Knobs

NAME = "on-ray"
REPLICAS = 4


def main(address: str, port: str, storage: str) -> None:
    """Start, obey, end."""
    # Ray and Serve print as well; what is said to the tests must stay apart from it.
    answers, sys.stdout = sys.stdout, sys.stderr
    ray.init(address=address, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    stage = Stage(int(port), Path(storage))
    commands = {"build": stage.build, "deploy": stage.deploy, "describe": stage.describe}
    try:
        for line in sys.stdin:
            what, argument = json.loads(line)
            try:
                answer = ["ok", commands[what](argument)]
            except Exception as error:
                answer = ["failed", f"{type(error).__name__}: {error}"]
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        serve.shutdown()
        registry.teardown(NAME)
        ray.shutdown()


class Stage:
    """What the tests can have done. port: of the ingress. storage: for all durable state."""

    def __init__(self, port: int, storage: Path) -> None:
        self._storage = storage
        provider = {
            "name": "simulated",
            "kind": "simulated",
            "base_url": f"http://127.0.0.1:{port}/simulated/v1",
        }
        self._args = GatewayArgs.model_validate(
            {"name": NAME, "storage_path": str(storage), "providers": [provider]}
        )

    def build(self, models: list[str]) -> str:
        """Deploy the provider, and make the first admin key of the gateway to come."""
        quick = Knobs(ttft_s=0.0, tokens_per_s=0.0)
        log = self._storage / "calls.jsonl"
        provider = SimulatedArgs(name=NAME, models=tuple(models), knobs=quick, log_path=log)
        serve.run(simulated.build(provider), name="simulated", route_prefix="/simulated")
        return asyncio.run(self._bootstrap())

    async def _bootstrap(self) -> str:
        place = registry.claim_home(NAME, str(self._storage))
        store = Consultant("key_store", RayTransport(NAME, "key_store", place))
        store.start()
        minted = keys.mint()
        await store.ask("bootstrap", minted.id, minted.hash)
        await store.close()
        return minted.secret

    def deploy(self, policy: Any) -> None:
        """Deploy the gateway; again, with another policy: in place."""
        everything = gateway.deployment(self._args, num_replicas=REPLICAS, user_config=policy)
        serve.run(everything.bind(self._args), name=NAME, route_prefix="/")

    def describe(self, _: None) -> dict[str, dict[str, Any]]:
        """The singletons, as `registry.describe`."""
        return registry.describe(NAME)


if __name__ == "__main__":
    main(*sys.argv[1:])
