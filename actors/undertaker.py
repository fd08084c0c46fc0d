"""On Ray: finding out whether a silent process is dead, and having it looked after.

Its lock and its files are on its own machine, so that is where one has to look: from this
process if it is the same node, else by a task that is sent there. A process that lives,
frozen perhaps, keeps its lock and with it all that it holds.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.adopter import Outcome, adopt, bury
from actors.consultant import Consultant
from actors.life import Life

if TYPE_CHECKING:
    from actors.home import Home

LOST_NS = 30_000_000_000
"""How long a node must be gone for its processes to be taken for dead."""

# One visit: hosts may be restarting meanwhile, and a worker has to be started first.
_PATIENCE_S = 60.0
_START_S = 30.0
_MAX_GONE = 1_000

log = logging.getLogger(__name__)


class Visit(NamedTuple):
    """Where to look for a process, and as what.

    how: "home", the node that it said it runs on; "perhaps", one of the same machine's name,
        which is that machine if the files are there (its cluster was started anew); "lost":
        there is nothing to look at any more.
    """

    node: str
    how: Literal["home", "perhaps", "lost"]


class Search:
    """Where processes may be found. Remembers since when their nodes are gone."""

    def __init__(self) -> None:
        self._gone_ns: dict[str, int] = {}

    def visits(
        self, life: Life, machines: Mapping[str, str], here: str, now_ns: int
    ) -> list[Visit]:
        """Where to go, until one of them has word of the process.

        machines: the living nodes, by id, and the name of each one's machine. here: the node
        from which a lost one is buried. now_ns: of the monotonic clock.
        """
        if life.node in machines:
            self._gone_ns.pop(life.node, None)
            return [Visit(life.node, "home")]
        found = [Visit(node, "perhaps") for node, name in machines.items() if name == life.host]
        if len(self._gone_ns) >= _MAX_GONE:
            self._gone_ns.clear()
        gone_ns = now_ns - self._gone_ns.setdefault(life.node, now_ns)
        return found + ([Visit(here, "lost")] if gone_ns >= LOST_NS else [])


class Undertaker:
    """Looks after the silent owners of one gateway, each of them once at a time.

    name, place: of the gateway. holders: its singletons where processes hold something.
    To be called on an event loop; returns at once.
    """

    def __init__(self, name: str, place: "Home", holders: Iterable[str]) -> None:
        self._name = name
        self._place = place
        self._holders = tuple(holders)
        self._search = Search()
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def __call__(self, life: Life) -> None:
        """See `actors.life.Undertaker`."""
        if life.owner not in self._under_way:
            task = asyncio.create_task(self._look_after(life), name=f"look after {life.owner}")
            self._under_way[life.owner] = task
            task.add_done_callback(lambda _: self._under_way.pop(life.owner, None))

    async def _look_after(self, life: Life) -> None:
        try:
            outcome = await self._find_out(life)
        except Exception as error:
            log.warning("process %s could not be looked after yet: %s", life.owner, error)
        else:
            log.info("process %s is silent, and found %s", life.owner, outcome)

    async def _find_out(self, life: Life) -> Outcome:
        here, machines = await asyncio.to_thread(_cluster)
        outcome: Outcome = "missing"
        for visit in self._search.visits(life, machines, here, time.monotonic_ns()):
            if visit.how == "lost":
                log.error("process %s is lost with its node %s", life.owner, life.node)
            if visit.node == here:
                # A worker costs a second of CPU; a look at a lock, some microseconds.
                outcome = await self._go(life, visit)
            else:
                outcome = await self._send(life, visit)
            if outcome != "missing":
                break
        return outcome

    async def _go(self, life: Life, visit: Visit) -> Outcome:
        return await _visit(self._name, self._place, self._holders, life, visit.how)

    async def _send(self, life: Life, visit: Visit) -> Outcome:
        told = await asyncio.to_thread(self._submit, life, visit)
        try:
            async with asyncio.timeout(_PATIENCE_S + _START_S):
                outcome: Outcome = await told
                return outcome
        except TimeoutError:
            ray.cancel(told, force=True)
            raise

    def _submit(self, life: Life, visit: Visit) -> Any:
        task: Any = _look_after.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(visit.node, soft=False)
        )
        return task.remote(self._name, self._place, self._holders, life, visit.how)


def _cluster() -> tuple[str, dict[str, str]]:
    """The id of this node, and of each living one the name of its machine."""
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    return ray.get_runtime_context().get_node_id(), nodes


@ray.remote(num_cpus=0, max_retries=0)
def _look_after(
    name: str, place: "Home", holders: tuple[str, ...], life: Life, how: str
) -> Outcome:
    return asyncio.run(_visit(name, place, holders, life, how))


async def _visit(
    name: str, place: "Home", holders: tuple[str, ...], life: Life, how: str
) -> Outcome:
    # It is built on the registry, whose hosts need this module.
    from actors.ray_transport import RayTransport

    @asynccontextmanager
    async def singletons() -> AsyncIterator[dict[str, Consultant]]:
        transports = {holder: RayTransport(name, holder, place) for holder in holders}
        consultants = {holder: Consultant(holder, line) for holder, line in transports.items()}
        for consultant in consultants.values():
            consultant.start()
        try:
            yield consultants
        finally:
            await asyncio.gather(*(consultant.close() for consultant in consultants.values()))
            for line in transports.values():
                line.close()

    async with asyncio.timeout(_PATIENCE_S):
        if how != "lost":
            return await adopt(life, how == "home", singletons)
        async with singletons() as consultants:
            await bury(life.owner, True, consultants)
        return "buried"
