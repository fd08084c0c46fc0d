"""Names, places and lives of the singletons on a Ray cluster.

A singleton is a named detached actor in the namespace `raygate-<name>`, pinned hard to the
node that its term names (`actors/terms.py`); two of them can be several such actors, each with
a part of the keys (`actors/sharded.py`). All functions here block: call them off the event loop.
"""

import logging
import socket
import time
from collections.abc import Mapping
from typing import Any, cast

import ray
from ray.actor import ActorHandle

from actors import home as homes
from actors import nodes, placing
from actors.home import Home, code_version, home, keep_policy, kept_policy
from actors.host_actor import HostActor, detached, namespace, standby_name
from actors.life import Life
from actors.outbox import Outbox
from actors.sharded import singleton_of

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

_RETIRE_S = 3.0

log = logging.getLogger(__name__)


def host_names(place: Home | None) -> list[str]:
    """The names of all hosts of a home; without one, of those that every home has."""
    names = place.names if place is not None else lambda singleton: [singleton]
    return [host for singleton in SINGLETONS for host in names(singleton)]


def claim_home(name: str, storage_path: str, shards: Mapping[str, int] | None = None) -> Home:
    """The home of this gateway; see `home.claim`. Hosts of older code make way."""
    found = homes.claim(name, storage_path, shards)
    if found.code < code_version():
        found = _take_over(name, found)
        _begin(name, found)
    return found


def roll_back(name: str) -> bool:
    """Let this code, older than what runs, make the hosts again; whether there was need to.

    Once replicas of this code run: those of newer code make no hosts any more.
    """
    found = home(name)
    if found is None or found.code <= code_version():
        return False
    _take_over(name, found)
    return True


def life_of(outbox: Outbox) -> Life:
    """What this process says of itself where it holds something."""
    return Life(outbox.owner, nodes.here(), socket.gethostname(), str(outbox.path))


def ensure(name: str, singleton: str, place: Home) -> ActorHandle[HostActor]:
    """The handle of a singleton, or of one of its shards; it is created where it does not run.

    Raises LookupError where the home was given up since `place` was claimed, ValueError
    where other code has taken over and its host does not run (yet), Lost where nobody knows
    from which copy of its rows it may go on.
    """
    current = home(name)
    if current is None or current.claim != place.claim:
        raise LookupError(f"the singletons of {name} were ended; start its replicas anew")
    if current.code != code_version():
        return ray.get_actor(singleton, namespace=namespace(name))
    factory = SINGLETONS[singleton_of(singleton)]
    term, before = placing.term_of(name, singleton, factory, current)
    if before:
        # What is left of it is on a node that is gone.
        _kill(name, singleton)
    actor = ray.remote(HostActor).options(**detached(name, singleton, term.primary.node))
    holders = tuple(host for each in HOLDERS for host in current.names(each))
    handle: Any = actor.remote(name, factory, singleton, current, term, holders)
    return cast("ActorHandle[HostActor]", handle)


def waiting(name: str) -> list[placing.Waiting]:
    """The hosts that wait for somebody to say from which copy of their rows they go on."""
    place = home(name)
    if place is None:
        raise LookupError(f"no gateway named {name} runs on this cluster")
    factories = {host: SINGLETONS[singleton_of(host)] for host in host_names(place)}
    return placing.waiting(name, place, factories)


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
    hosts = host_names(home(name))
    homes.give_up(name)
    # However many shards there are, or were when an earlier teardown was cut short.
    every = ray.util.list_named_actors(all_namespaces=True)
    mine = [actor["name"] for actor in every if actor["namespace"] == namespace(name)]
    ended = [one for one in mine if _kill(name, one)]
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up and any(find(name, one) for one in ended):
        time.sleep(0.05)
    for host in {*hosts, *ended}:
        homes.terms_of(name).give_up(host)
    return [one for one in ended if singleton_of(one) in SINGLETONS]


def _take_over(name: str, found: Home) -> Home:
    """Only this version makes hosts and standbys, from here on; those that run make way."""
    taken = homes.take_over(name, found, code_version())
    for node in nodes.preferred():
        # What it has copied stays, and a host of this code goes on with it.
        _kill(name, standby_name(node.id))
    _retire(name, host_names(found))
    return taken


def _begin(name: str, place: Home) -> None:
    """Have the hosts started without waiting for it: requests wait for them already."""
    for host in host_names(place):
        try:
            ensure(name, host, place)
        except Exception as error:
            # Whoever asks it next tries again.
            log.warning("%s could not be started yet: %s", host, error)


def _retire(name: str, hosts: list[str]) -> None:
    """Have these hosts finish and end; who does not answer is killed, which loses nothing."""
    found: dict[str, Any] = {host: find(name, host) for host in hosts}
    asked = []
    for host, handle in found.items():
        # A host of code from before there was `retire` knows no such method.
        if handle is not None and hasattr(handle, "retire"):
            asked.append(handle.retire.remote())
        elif handle is not None:
            _kill(name, host)
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=_RETIRE_S)
    for host in hosts:
        _kill(name, host)


def _kill(name: str, actor: str) -> bool:
    handle = find(name, actor)
    if handle is None:
        return False
    ray.kill(handle, no_restart=True)
    return True


__all__ = [
    "HOLDERS",
    "SINGLETONS",
    "Home",
    "HostActor",
    "claim_home",
    "code_version",
    "describe",
    "ensure",
    "find",
    "home",
    "host_names",
    "keep_policy",
    "kept_policy",
    "life_of",
    "namespace",
    "roll_back",
    "teardown",
    "waiting",
]
