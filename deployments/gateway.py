"""The gateway on Ray Serve: the builder that `serve_config.yaml` names."""

# The typed builder needs its annotation as a class: no postponed annotations in this module.
import asyncio
import json
import logging
import os
import resource
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from actors import registry
from actors.collector import calm
from actors.consultant import TELL_LINGER_S, Consultant
from actors.errors import StorageFull
from actors.outbox import Outbox
from actors.ray_transport import RayTransport
from actors.sharded import as_one
from deployments import http_protocol
from deployments.api.http import Message, Receive, Scope, Send
from deployments.app import App, create_app
from deployments.autoscaling import Work
from deployments.prompts import load_builtin
from deployments.providers.base import Provider
from deployments.providers.openai import OpenAIProvider
from deployments.providers.secret import cluster_secret
from deployments.providers.simulated_client import SimulatedClient
from deployments.services import CLOSING_S, Services
from deployments.slow_clients import Bounds
from deployments.structure import GatewayArgs, ProviderArgs
from deployments.tokens import encoding_for

# A batch of the ledger ends with an fsync, and what it is told is on the outbox meanwhile.
_LEDGER_LINGER_S = 0.1
# Of Serve behind HAProxy, by default (RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S).
_LEAVING_S = 30.0

log = logging.getLogger(__name__)


@serve.ingress()
class Gateway:
    """One replica. Its health never depends on a singleton's."""

    def __init__(self, args: GatewayArgs) -> None:
        self._args = args
        place = registry.claim_home(args.name, args.storage_path, args.shards.model_dump())
        outbox = Outbox(Path(args.storage_path) / args.name / "outbox")
        life = registry.life_of(outbox)

        def consultant(host: str) -> Consultant:
            linger_s = _LEDGER_LINGER_S if host == "cost_tracker" else TELL_LINGER_S
            return Consultant(host, RayTransport(args.name, host, place), life, linger_s)

        consultants = {
            singleton: as_one(singleton, [consultant(host) for host in place.names(singleton)])
            for singleton in registry.SINGLETONS
        }
        providers = {each.name: provider_of(each, args.name) for each in args.providers}
        self.services = Services(args, consultants, providers, outbox)
        self._work = Work(lambda: self.services.waiting)
        self._started = False
        http_protocol.install(_bounds(args))
        for vocabulary in ("gpt-4o", "gpt-4"):
            encoding_for(vocabulary)

    async def __serve_build_asgi_app__(self) -> App:
        """The app, on the loop that will serve it."""
        self._start()
        return self._work.counted(named_by_serve(create_app(self.services)))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve asks each replica for every few seconds; see `autoscaling.by_work`."""
        return self._work.stats()

    async def reconfigure(self, user_config: Any) -> None:
        """A policy came. Never raises: that would take this replica down."""
        self._start()
        services, name = self.services, self._args.name
        await services.apply_policy(user_config)
        try:
            if services.policy_problem is None:
                kept = json.dumps(user_config)
                await asyncio.to_thread(registry.keep_policy, name, kept)
            elif services.policy is None:
                # A replica that starts under a bad policy goes by the last good one.
                problem = services.policy_problem
                good = await asyncio.to_thread(registry.kept_policy, name)
                if good is not None:
                    await services.apply_policy(json.loads(good))
                    services.policy_problem = problem
        except Exception:
            log.exception("the last good policy could not be kept, or found")

    def _start(self) -> None:
        if not self._started:
            self._started = True
            calm()
            self.services.start()
            self.services.spawn(self._register_builtin(), "built-in prompts")

    async def _register_builtin(self) -> None:
        for spec in load_builtin():
            id = spec.pop("id")
            while True:
                try:
                    await self.services.prompts.ask("register", id, spec)
                    break
                except StorageFull as full:
                    await asyncio.sleep(full.retry_after_s or 1.0)

    async def __del__(self) -> None:
        if self._started:
            await self.services.close()


def _bounds(args: GatewayArgs) -> Bounds:
    """Those of a replica's connections: half of the files that it may open are for others."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = args.max_client_connections
    if files != resource.RLIM_INFINITY:
        most = min(most, files // 2)
    return Bounds(connections=most, send_s=args.send_timeout_s)


def named_by_serve(app: App) -> App:
    """The app without its `x-request-id`: Serve's middleware adds the same one to every reply."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        async def unnamed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                message["headers"] = [one for one in headers if one[0] != b"x-request-id"]
            await send(message)

        await app(scope, receive, unnamed)

    return served


def provider_of(args: ProviderArgs, gateway: str) -> Provider:
    """The provider that a configuration names. Raises ValueError where its key is missing."""
    if args.kind == "simulated":
        kind: type[OpenAIProvider] = SimulatedClient
        key = cluster_secret(gateway)
    else:
        assert args.api_key_env is not None
        kind, key = OpenAIProvider, os.environ.get(args.api_key_env, "")
        if not key:
            raise ValueError(
                f"provider {args.name}: the environment variable {args.api_key_env} is not set"
            )
    return kind(args.name, args.base_url, key, max_connections=args.max_connections)


def build(args: GatewayArgs) -> Application:
    """Build the application; `deployments.gateway:build` in a Serve configuration."""
    return deployment(args).bind(args)


def deployment(args: GatewayArgs, **options: Any) -> serve.Deployment:
    """The deployment behind `build`; options: what differs, as `serve.deployment` takes it."""
    usual: dict[str, Any] = {
        "num_replicas": 2,
        # Past `max_requests` we refuse ourselves; this is for health and what is being refused.
        "max_ongoing_requests": args.max_requests + 1_000,
        "ray_actor_options": {"num_cpus": 0},
        "health_check_period_s": 5,
        # A request is on its trace already; a line for each cost a replica 3 % of its time.
        "logging_config": {"enable_access_log": False},
        # First it stays reachable until no ingress names it any more, then its streams end.
        "graceful_shutdown_timeout_s": _LEAVING_S + args.drain_s + CLOSING_S,
    }
    if "autoscaling_config" in options:
        del usual["num_replicas"]
    made: serve.Deployment = serve.deployment(**{**usual, **options})(Gateway)
    return made
