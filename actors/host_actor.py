"""Hosts and standbys as Ray sees them: what Ray is asked for is where they listen.

A host runs where its term says, on the copy of the rows that the term names. Where a later
term, or other code, has taken over since, it refuses to live: neither Ray's restarts nor a
replica that comes too late bring an old one back.
"""

import asyncio
import logging
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors import home, nodes
from actors.collector import calm
from actors.door import Address, Door
from actors.home import Home
from actors.host import Host
from actors.lines import LineTransport
from actors.mechanism import mechanism_of
from actors.mirror import Mirror, Place
from actors.resharding import prepare
from actors.standby import Standby
from actors.storage_trouble import patiently
from actors.store import StoreError
from actors.tenure import GOOD_FOR_S, Tenure
from actors.terms import Copy, Standing, Term, standing_of
from actors.transport import TransportError
from actors.undertaker import Undertaker
from actors.watchdog import Watchdog

_SHIP_S = 1.5
_FIND_S = 10.0
_RELEASE_S = 5.0
_OF_USE_S = 30.0

log = logging.getLogger(__name__)


def namespace(name: str) -> str:
    """The Ray namespace of the gateway `name`."""
    return f"raygate-{name}"


def check_home(name: str, place: Home) -> None:
    """Raises PermissionError where the home was given up, or taken over by other code, since."""
    current = home.home(name)
    if current is None or (current.claim, current.code) != (place.claim, place.code):
        raise PermissionError(f"the home of {name} has changed hands since")


def detached(name: str, actor: str, node: str) -> dict[str, Any]:
    """What Ray is told of a host or a standby: it outlives its maker, on this node and no other."""
    return {
        "name": actor,
        "namespace": namespace(name),
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": 1_000,
        "num_cpus": 0,
        "enable_task_events": False,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
    }


class HostActor:
    """A host as Ray sees it.

    name, place: of the gateway, as the creator knew them. factory: of the mechanism. host: its
    name. term: in which it is made. holders: hosts where processes may hold something.
    """

    def __init__(
        self,
        name: str,
        factory: str,
        host: str,
        place: Home,
        term: Term,
        holders: tuple[str, ...],
    ) -> None:
        self._name, self._factory, self._called, self._place = name, factory, host, place
        self._mine = term.primary
        self._began_s = time.monotonic()
        self._terms = home.terms_of(name)
        latest = self._check()
        # Whoever was in charge elsewhere may speak for so long before it looks again.
        self._quiet_s = GOOD_FOR_S if latest.moved else 0.0
        folder = Path(place.folder).expanduser() / name
        prepare(folder, factory, place.names, latest.primary.file)
        path = folder / latest.primary.file
        _release(name, host)
        try:
            self._host = Host(
                factory, str(path), f"{place.claim} {latest.primary.file}",
                Undertaker(name, place, holders), least_epoch=latest.number,
            )  # fmt: skip
        except StoreError:
            self._hand_on(latest)
            raise
        peer = latest.standby.machine if latest.standby is not None else ""
        standing = Standing(latest.number, "primary", peer)
        if standing_of(path) != standing:
            patiently(lambda: standing.write(path))
        self._watchdog = Watchdog(folder, host)
        self._tenure = Tenure(self._in_charge, self._end)
        self._to_standby: LineTransport | None = None
        self._passed, self._placed_s = 0, float("-inf")
        self._mirror: Mirror | None = None
        if mechanism_of(factory).MIRRORED:
            self._mirror = keeper = Mirror(
                host, factory, self._host.store, self._host.lived, path,
                self._terms, latest, self._tenure, self._standby_at, self._end,
            )  # fmt: skip
            self._host.protection = lambda: keeper.protection
        safe = self._mirror.when_safe if self._mirror is not None else self._tenure.when_held
        self._door = Door(self._host, safe)
        self._tasks: list[asyncio.Task[None]] = []
        calm()

    async def address(self) -> Address:
        """Where its door is, and the word that opens it."""
        if not self._tasks:
            self._tasks = [self._spawn(self._tenure.run()), self._spawn(self._watchdog.run())]
            if self._mirror is not None:
                self._tasks.append(self._spawn(self._mirror.run()))
        await asyncio.sleep(max(0.0, self._began_s + self._quiet_s - time.monotonic()))
        return await self._door.open(ray.util.get_node_ip_address())

    async def info(self) -> dict[str, Any]:
        """See `Host.info`; and the code, the term, the node, and what protects the rows."""
        term = self._mirror.term if self._mirror is not None else None
        return {
            **self._host.info(),
            "code": ".".join(map(str, self._place.code)),
            "node": self._mine.node,
            "term": term.number if term is not None else None,
            "protection": self._mirror.protection if self._mirror is not None else "",
        }

    async def retire(self) -> None:
        """Let go of the store, for a host of newer code; nothing is done after this."""
        self._door.close()
        for task in self._tasks:
            task.cancel()
        self._host.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return asyncio.create_task(work, name=f"keep {self._called}")

    def _check(self) -> Term:
        """The term in force. Raises PermissionError where it is not this host's."""
        check_home(self._name, self._place)
        latest = self._terms.latest(self._called)
        if latest is None or latest.primary != self._mine:
            raise PermissionError(f"another {self._called} has changed hands with this one since")
        return latest

    def _in_charge(self) -> bool:
        latest = self._terms.latest(self._called)
        return latest is not None and latest.primary == self._mine

    def _hand_on(self, latest: Term) -> None:
        """This copy can't be opened; a standby has all of it."""
        if latest.standby is not None:
            log.exception("%s: this copy is unusable; its standby goes on", self._called)
            self._terms.follow(self._called, latest, latest.standby, None)

    def _end(self) -> None:
        """Another one is in charge. Ray restarts this process, and what it restarts finds that."""
        log.error("%s of %s ends: another one is in charge", self._called, self._name)
        os._exit(1)

    async def _standby_at(self, term: Term) -> Place | None:
        now_s = time.monotonic()
        # Where the last one was of no use soon, another node's turn has come.
        self._passed = self._passed + 1 if now_s - self._placed_s < _OF_USE_S else 0
        self._placed_s = now_s
        found = await asyncio.to_thread(
            place_for, self._name, self._place, self._called, term, self._passed
        )
        if found is None:
            return None
        copy, handle = found

        async def find() -> Address:
            try:
                async with asyncio.timeout(_FIND_S):
                    address: Address = await handle.address.remote()
                    return address
            except (ray.exceptions.RayError, TimeoutError) as error:
                raise TransportError(f"the standby is not there: {error}") from error

        if self._to_standby is not None:
            self._to_standby.close()
        self._to_standby = LineTransport(find, _SHIP_S, _SHIP_S)
        return Place(copy, self._to_standby)


class StandbyActor:
    """The standby of one gateway on one node."""

    def __init__(self, name: str, place: Home) -> None:
        check_home(name, place)
        folder = Path(place.folder).expanduser() / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._standby = Standby(folder)
        self._door = Door(self._standby)
        self._watchdog = Watchdog(folder, standby_name(nodes.here()))
        self._watching: asyncio.Task[None] | None = None
        calm()

    async def address(self) -> Address:
        """Where its door is, and the word that opens it."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watchdog.run(), name="watch hosts")
        return await self._door.open(ray.util.get_node_ip_address())

    async def info(self) -> dict[str, Any]:
        """Its process."""
        return {"pid": os.getpid()}

    async def release(self, host: str) -> None:
        """See `Standby.release`."""
        self._standby.release(host)


def standby_name(node: str) -> str:
    """The name of the standby actor on a node."""
    return f"standby-{node[:16]}"


def place_for(
    name: str, place: Home, host: str, term: Term, passed: int
) -> tuple[Copy, Any] | None:
    """The standby of this term, or a place for one: the copy, and the actor that holds it.

    passed: how many of the nodes were tried before, and are passed over.
    """
    alive = nodes.preferred()
    if term.standby is not None:
        if not any(node.id == term.standby.node for node in alive):
            return None
        copy = term.standby
    else:
        others = [node for node in alive if node.id != term.primary.node]
        # Another machine is better than another node of the same one.
        others.sort(key=lambda node: node.machine == term.primary.machine)
        if not others:
            return None
        file = f"{host}.{term.number}.sqlite"
        if file == term.primary.file:
            # Begun anew in this term; and two nodes may be one machine, with one folder.
            file = f"{host}.0{term.number}.sqlite"
        node = others[passed % len(others)]
        copy = Copy(node.id, node.machine, file)
    actor = ray.remote(StandbyActor).options(**detached(name, standby_name(copy.node), copy.node))
    return copy, actor.remote(name, place)


def _release(name: str, host: str) -> None:
    """Have the standby on this node, if there is one, let go of a host's files."""
    try:
        standby: Any = ray.get_actor(standby_name(nodes.here()), namespace=namespace(name))
        ray.get(standby.release.remote(host), timeout=_RELEASE_S)
    except ValueError:
        return
    except (ray.exceptions.RayError, TimeoutError) as error:
        # Dead, or dying: then the lock is free, or will be.
        log.warning("the standby on this node does not answer: %s", error)
