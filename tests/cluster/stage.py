"""A program: the gateway and its provider on Ray, at the command of whoever started it.

A process of its own, because Serve reads its mode from the environment when it is imported,
and Ray allows a process one cluster. It takes one JSON value per line, `[what, argument]`,
and answers each with one: `["ok", value]` or `["failed", why]`. It ends with its input.

    python -m tests.cluster.stage RAY_ADDRESS PORT STORAGE_FOLDER MODEL...
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from actors import keys, registry
from actors.consultant import Consultant
from actors.ray_transport import RayTransport

NAME = "on-ray"
REPLICAS = 4


def main(address: str, port: str, storage: str, *models: str) -> None:
    """Start, obey, end."""
    # Ray and Serve print as well; what is said to the tests must stay apart from it.
    answers, sys.stdout = sys.stdout, sys.stderr
    ray.init(address=address, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    stage = Stage(int(port), Path(storage), models)
    commands: dict[str, Callable[[Any], Any]] = {
        "bootstrap": stage.bootstrap,
        "deploy": stage.deploy,
        "describe": stage.describe,
    }
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
    """What the tests can have done.

    port: of the ingress. storage: for all durable state. models: that the provider knows.
    """

    def __init__(self, port: int, storage: Path, models: tuple[str, ...]) -> None:
        self._storage = storage
        provider = {
            "name": "simulated",
            "kind": "simulated",
            "base_url": f"http://127.0.0.1:{port}/simulated/v1",
        }
        self._gateway = {"name": NAME, "storage_path": str(storage), "providers": [provider]}
        self._simulated = {
            "name": NAME,
            "models": models,
            "knobs": {"ttft_s": 0.0, "tokens_per_s": 0.0},
            "log_path": str(storage / "calls.jsonl"),
        }

    def bootstrap(self, _: None) -> str:
        """Make the first admin key of the gateway to come."""
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
        """Deploy both applications as `serve deploy` does; again: what has changed of them."""
        gateway = {
            "name": NAME,
            "route_prefix": "/",
            "import_path": "deployments.gateway:build",
            "args": self._gateway,
            "deployments": [{"name": "Gateway", "num_replicas": REPLICAS, "user_config": policy}],
        }
        provider = {
            "name": "simulated",
            "route_prefix": "/simulated",
            "import_path": "deployments.providers.simulated:build",
            "args": self._simulated,
        }
        config = ServeDeploySchema.parse_obj({"applications": [gateway, provider]})
        client = _get_global_client()
        assert client is not None
        client.deploy_apps(config, _blocking=True)

    def describe(self, _: None) -> dict[str, dict[str, Any]]:
        """The singletons, as `registry.describe`."""
        return registry.describe(NAME)


if __name__ == "__main__":
    main(*sys.argv[1:])
