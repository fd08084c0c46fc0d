"""Names, places and lives of the singletons on a Ray cluster.

A singleton is a named detached actor in the namespace `raygate-<name>`, pinned hard to
the node that holds its store; two of them can be several such actors, each with a part of the
keys (`actors/sharded.py`). Which node that is was claimed once, by put-if-absent in
the cluster's key-value store; this is the one module that touches Ray's private API for
it. All functions here block: call them off the event loop.
"""

import json
import logging
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.collector import calm
from actors.door import Address, Door
from actors.host import Host
from actors.life import Life
from actors.outbox import Outbox
from actors.resharding import prepare
from actors.sharded import shard_names, singleton_of
from actors.undertaker import Undertaker

SINGLETONS = {
    "circuit_breaker": "actors.circuit_breaker:CircuitBreaker",
    "rate_limiter": "actors.rate_limiter:RateLimiter",
    "response_cache": "actors.response_cache:ResponseCache",
    "cost_tracker": "actors.cost_tracker:CostTracker",
    "key_store": "actors.key_store:KeyStore",
    "prompt_registry": "actors.prompt_registry:PromptRegistry",
    "experiment_manager": "actors.experiment_manager:ExperimentManager",
    "trace_collector": "actors.trace_collector:TraceCollector",
}

HOLDERS = ("circuit_breaker", "rate_limiter", "response_cache", "cost_tracker")
"""Singletons where a process may hold something: its consultants there need its life."""

_KV_SPACE = b"raygate"
_HEAD = "node:__internal_head__"

log = logging.getLogger(__name__)


def code_version() -> tuple[int, ...]:
    """The version of this code; hosts of an older one make way."""
    try:
        words = version("raygate").split(".")
    except PackageNotFoundError:
        return (0,)
    return tuple(int(word) for word in words if word.isdigit())


@dataclass(frozen=True, slots=True)
class Home:
    """Where the singletons of one gateway live.

    node: id of the node that holds the stores; folder: of the stores, on that node.
    claim: a word that is new with each claim (a new cluster, a takeover); code: the
    version that may create hosts. shards: how many hosts a singleton has, where it is not one.
    """

    node: str
    folder: str
    claim: str
    code: tuple[int, ...]
    shards: dict[str, int] = field(default_factory=dict)

    def names(self, singleton: str) -> list[str]:
        """The names of a singleton's hosts, in the order of their numbers."""
        return shard_names(singleton, self.shards.get(singleton, 1))

    def written(self) -> bytes:
        """As the cluster keeps it; code that knows no shards must be able to read it."""
        known = asdict(self)
        if not self.shards:
            del known["shards"]
        return json.dumps(known).encode()


class HostActor:
    """A host as Ray sees it: what Ray is asked for is where it listens, and how it is.

    name, factory: of the gateway, and of the mechanism. place: the home as its creator knew
    it. Where that home has been given up or taken over since, the host refuses to live:
    neither Ray's restarts nor a replica that comes too late bring an old one back.
    """

    def __init__(self, name: str, factory: str, file: str, place: Home) -> None:
        current = home(name)
        if current is None or current.claim != place.claim or current.code > place.code:
            raise PermissionError(f"the home of {name} has changed hands since")
        folder = Path(place.folder).expanduser() / name
        prepare(folder, factory, place.names)
        holders = [host for singleton in HOLDERS for host in place.names(singleton)]
        undertaker = Undertaker(name, place, holders)
        self._host = Host(factory, str(folder / file), place.claim, undertaker)
        self._door = Door(self._host)
        calm()

    async def address(self) -> Address:
        """Where its door is, and the word that opens it."""
        return await self._door.open(ray.util.get_node_ip_address())

    async def info(self) -> dict[str, Any]:
        """See `Host.info`."""
        return self._host.info()


def namespace(name: str) -> str:
    """The Ray namespace of the gateway `name`."""
    return f"raygate-{name}"


def home(name: str) -> Home | None:
    """What was claimed for this gateway on this cluster, if anything was."""
    found = internal_kv._internal_kv_get(_key(name), namespace=_KV_SPACE)
    if not found:
        return None
    fields = json.loads(found)
    return Home(**{**fields, "code": tuple(fields["code"])})


def host_names(place: Home | None) -> list[str]:
    """The names of all hosts of a home; without one, of those that every home has."""
    names = place.names if place is not None else lambda singleton: [singleton]
    return [host for singleton in SINGLETONS for host in names(singleton)]


def claim_home(name: str, storage_path: str, shards: Mapping[str, int] | None = None) -> Home:
    """The home of this gateway: the head node, unless it was claimed before.

    storage_path: folder for durable state on that node; `~` is that node's user's.
    shards: how many hosts singletons shall have; where the home was claimed before, it has as
    many as it was claimed with.
    """
    code = code_version()
    wanted = {singleton: count for singleton, count in (shards or {}).items() if count > 1}
    mine = Home(_head_node(), storage_path, secrets.token_hex(8), code, wanted)
    internal_kv._internal_kv_put(_key(name), mine.written(), overwrite=False, namespace=_KV_SPACE)
    found = home(name)
    assert found is not None
    if found.code < code:
        # Newer code takes over: the old hosts end, and only this version makes new ones.
        found = replace(found, code=code)
        internal_kv._internal_kv_put(
            _key(name), found.written(), overwrite=True, namespace=_KV_SPACE
        )
        for host in host_names(found):
            _kill(name, host)
    if found.shards != wanted:
        log.warning("%s runs with %s shards; another number takes a new start", name, found.shards)
    return found


def life_of(outbox: Outbox) -> Life:
    """What this process says of itself where it holds something."""
    node = ray.get_runtime_context().get_node_id()
    return Life(outbox.owner, node, socket.gethostname(), str(outbox.path))


def ensure(name: str, singleton: str, place: Home) -> ActorHandle[HostActor]:
    """The handle of a singleton, or of one of its shards; it is created where it does not run.

    Raises LookupError where the home was given up since `place` was claimed, ValueError
    where newer code has taken over and its host does not run (yet).
    """
    current = home(name)
    if current is None or current.claim != place.claim:
        raise LookupError(f"the singletons of {name} were ended; start its replicas anew")
    if current.code > code_version():
        return ray.get_actor(singleton, namespace=namespace(name))
    actor = ray.remote(HostActor).options(
        name=singleton,
        namespace=namespace(name),
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=1_000,
        num_cpus=0,
        enable_task_events=False,
        scheduling_strategy=NodeAffinitySchedulingStrategy(current.node, soft=False),
    )
    factory = SINGLETONS[singleton_of(singleton)]
    handle: Any = actor.remote(name, factory, f"{singleton}.sqlite", current)
    return cast("ActorHandle[HostActor]", handle)


def find(name: str, singleton: str) -> ActorHandle[HostActor] | None:
    """The singleton's handle, or None where it does not run."""
    try:
        handle: ActorHandle[HostActor] = ray.get_actor(singleton, namespace=namespace(name))
    except ValueError:
        return None
    return handle


def describe(name: str, timeout_s: float = 2.0) -> dict[str, dict[str, Any]]:
    """Epoch, restarts, process and node of each host; `reachable` False without answer."""
    place = home(name)
    found = {host: find(name, host) for host in host_names(place)}
    asked: dict[str, Any] = {
        key: handle.info.remote() for key, handle in found.items() if handle is not None
    }
    refs = list(asked.values())
    ready = ray.wait(refs, num_returns=len(refs), timeout=timeout_s)[0] if refs else []
    told: dict[str, dict[str, Any]] = {}
    for host in found:
        told[host] = {"reachable": False, "node": place.node if place else None}
        if asked.get(host) in ready:
            try:
                told[host] |= {**ray.get(asked[host]), "reachable": True}
            except ray.exceptions.RayError as error:
                told[host]["error"] = str(error).splitlines()[0]
    return told


def teardown(name: str, patience_s: float = 10.0) -> list[str]:
    """End the singletons of this gateway and give up its home; durable state stays.

    Returns the names of those that ran.
    """
    # First the home: from here on nobody creates a host anew.
    internal_kv._internal_kv_del(_key(name), namespace=_KV_SPACE)
    internal_kv._internal_kv_del(f"policy/{name}".encode(), namespace=_KV_SPACE)
    # However many shards there are, or were when an earlier teardown was cut short.
    every = ray.util.list_named_actors(all_namespaces=True)
    mine = [actor["name"] for actor in every if actor["namespace"] == namespace(name)]
    ended = [host for host in mine if singleton_of(host) in SINGLETONS and _kill(name, host)]
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up and any(find(name, host) for host in ended):
        time.sleep(0.05)
    return ended


def keep_policy(name: str, policy: str) -> None:
    """Remember a policy that was good, for replicas that start under one that is not."""
    internal_kv._internal_kv_put(
        f"policy/{name}".encode(), policy.encode(), overwrite=True, namespace=_KV_SPACE
    )


def kept_policy(name: str) -> str | None:
    """The last good policy on this cluster, if there was one."""
    found: bytes | None = internal_kv._internal_kv_get(
        f"policy/{name}".encode(), namespace=_KV_SPACE
    )
    return found.decode() if found else None


def _kill(name: str, singleton: str) -> bool:
    handle = find(name, singleton)
    if handle is None:
        return False
    ray.kill(handle, no_restart=True)
    return True


def _key(name: str) -> bytes:
    return f"home/{name}".encode()


def _head_node() -> str:
    """Id of the head node (it holds the stores unless somebody claims otherwise)."""
    for node in ray.nodes():
        if node["Alive"] and _HEAD in node["Resources"]:
            return str(node["NodeID"])
    return str(ray.get_runtime_context().get_node_id())
