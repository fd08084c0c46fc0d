"""A program: the gateway, and the simulated provider where it is asked for, on Ray.

A process of its own, because Serve reads its mode from the environment when it is imported,
and Ray allows a process one cluster. It takes one JSON value per line, `[what, argument]`,
and answers each with one: `["ok", value]` or `["failed", why]`. It ends with its input.

    python -m benchmarks.stage RAY_ADDRESS PORT STORAGE_FOLDER SETTING

SETTING is JSON, the fields of `benchmarks.on_ray.Setting`.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from actors import keys, registry
from actors.consultant import Consultant
from actors.ray_transport import RayTransport
from benchmarks.on_ray import Setting

_BACK_S = 60.0
_DEPLOY_S = 300.0


def main(address: str, port: str, storage: str, setting: str) -> None:
    """Start, obey, end."""
    # Ray and Serve print as well; what is said to the caller must stay apart from it.
    answers, sys.stdout = sys.stdout, sys.stderr
    ray.init(address=address, log_to_driver=False)
    # On one machine only one node can have the port.
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(port)})
    stage = Stage(int(port), Path(storage), Setting(**json.loads(setting)))
    commands: dict[str, Callable[[Any], Any]] = {
        "bootstrap": stage.bootstrap,
        "deploy": stage.deploy,
        "begin": stage.begin,
        "deployed": stage.deployed,
        "scale": stage.scale,
        "describe": stage.describe,
        "back": stage.back,
        "release": stage.release,
        "roll_back": stage.roll_back,
        "wanted": stage.wanted,
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
        registry.teardown(stage.setting.name)
        ray.shutdown()


class Stage:
    """What a caller can have done.

    port: of the ingress. storage: for all durable state.
    """

    def __init__(self, port: int, storage: Path, setting: Setting) -> None:
        self.setting = setting
        # Each node has its own home.
        self._state = "~/raygate" if setting.nodes else str(storage)
        self._release: dict[str, Any] = {}
        self._deploying: list[str] = []
        self._deployed_s = 0.0
        providers = list(setting.providers)
        if setting.models:
            url = f"http://127.0.0.1:{port}/simulated/v1"
            # On this machine it is short of processors, as all are; that is not what is tested.
            simulated = {"name": "simulated", "kind": "simulated", "base_url": url}
            providers.append({**simulated, "find_capacity": False})
        self._gateway = {
            "name": setting.name,
            "storage_path": self._state,
            "providers": providers,
            "shards": setting.shards,
        }
        self._simulated = {
            "name": setting.name,
            "models": setting.models,
            "knobs": {"ttft_s": 0.0, "tokens_per_s": 0.0},
            "log_path": str(storage / "calls.jsonl"),
        }

    def bootstrap(self, _: None) -> str:
        """Make the first admin key of the gateway to come."""
        return asyncio.run(self._bootstrap())

    async def _bootstrap(self) -> str:
        name = self.setting.name
        place = registry.claim_home(name, self._state, self.setting.shards)
        store = Consultant("key_store", RayTransport(name, "key_store", place))
        store.start()
        minted = keys.mint()
        await store.ask("bootstrap", minted.id, minted.hash)
        await store.close()
        return minted.secret

    def deploy(self, policy: Any) -> None:
        """Deploy what there is as `serve deploy` does; again: what has changed of it."""
        self.begin(policy)
        # By itself Serve waits for a minute only: a rolling redeploy takes longer.
        give_up = time.monotonic() + _DEPLOY_S
        while not self.deployed(None):
            if time.monotonic() > give_up:
                raise TimeoutError(f"not deployed after {_DEPLOY_S:g} s")
            time.sleep(0.2)

    def deployed(self, _: None) -> bool:
        """Whether what was last deployed runs. Raises RuntimeError where it can't."""
        client = _get_global_client()
        assert client is not None
        every = client.get_serve_details()["applications"]
        for name in self._deploying:
            found = every.get(name)
            if found is None or found["last_deployed_time_s"] < self._deployed_s:
                return False
            if found["status"] == "DEPLOY_FAILED":
                raise RuntimeError(found["message"])
            if found["status"] != "RUNNING":
                return False
        return True

    def begin(self, policy: Any) -> None:
        """Begin to deploy, and wait for nothing."""
        self._policy = policy
        scaling = self.setting.scaling
        replicas: dict[str, Any] = {"num_replicas": self.setting.replicas}
        if scaling is not None:
            replicas = {"num_replicas": "auto", "autoscaling_config": scaling}
        applications = [
            {
                "name": self.setting.name,
                "route_prefix": "/",
                "import_path": "deployments.gateway:build",
                "args": self._gateway,
                **self._release,
                "deployments": [{"name": "Gateway", "user_config": policy, **replicas}],
            }
        ]
        if self.setting.models:
            applications.append(
                {
                    "name": "simulated",
                    "route_prefix": "/simulated",
                    "import_path": "deployments.providers.simulated:build",
                    "args": self._simulated,
                }
            )
        config = ServeDeploySchema.parse_obj({"applications": applications})
        client = _get_global_client()
        assert client is not None
        self._deploying = [one["name"] for one in applications]
        self._deployed_s = time.time()
        client.deploy_apps(config)

    def scale(self, replicas: int) -> None:
        """Deploy it with another number of replicas."""
        self.setting = replace(self.setting, replicas=replicas)
        self.deploy(self._policy)

    def wanted(self, _: None) -> int:
        """How many replicas of the gateway Serve means to have."""
        client = _get_global_client()
        assert client is not None
        found = client.get_serve_details()["applications"][self.setting.name]
        wanted: int = found["deployments"]["Gateway"]["target_num_replicas"]
        return wanted

    def release(self, folder: str | None) -> None:
        """From the next deploy on the gateway runs the code in this folder; None: ours."""
        path = f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}"
        self._release = {"runtime_env": {"env_vars": {"PYTHONPATH": path}}} if folder else {}

    def roll_back(self, _: None) -> bool:
        """Let our code, older than what runs, make the hosts again; see the registry's."""
        return registry.roll_back(self.setting.name)

    def back(self, before: dict[str, int]) -> dict[str, float]:
        """When each of these hosts was to be had again, in another process; Unix time.

        Those that are not within a minute are left out.
        """
        give_up = time.monotonic() + _BACK_S
        back: dict[str, float] = {}
        while len(back) < len(before) and time.monotonic() < give_up:
            for host in before.keys() - back.keys():
                if self._answers(host, before[host]):
                    back[host] = time.time()
            time.sleep(0.02)
        return back

    def _answers(self, host: str, old: int) -> bool:
        handle: Any = registry.find(self.setting.name, host)
        if handle is None:
            return False
        try:
            told = ray.get(handle.info.remote(), timeout=0.5)
            if told["pid"] == old:
                return False
            # Where it moved from a node that is gone it keeps its door closed for a while.
            ray.get(handle.address.remote(), timeout=10.0)
        except (ray.exceptions.RayError, TimeoutError):
            return False
        return True

    def describe(self, _: None) -> dict[str, dict[str, Any]]:
        """The singletons, as `registry.describe`."""
        return registry.describe(self.setting.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
