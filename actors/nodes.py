"""The nodes of the cluster, as far as hosts and their stores care.

Nodes that were started with the resource `raygate` are for them, before all others; then the
head node. All functions here block: call them off the event loop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

RESOURCE = "raygate"

_HEAD = "node:__internal_head__"


class Node(NamedTuple):
    """A living node. machine: its name."""

    id: str
    machine: str


def preferred() -> list[Node]:
    """All living nodes: those for us first, then the head, then the others."""

    def rank(node: dict[str, Any]) -> tuple[bool, bool, str]:
        resources = node["Resources"]
        return (RESOURCE not in resources, _HEAD not in resources, node["NodeID"])

    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=rank)
    return [Node(node["NodeID"], node["NodeManagerHostname"]) for node in alive]


def here() -> str:
    """The id of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def everywhere(
    work: Callable[..., Any], at: list[Node], timeout_s: float, *args: Any
) -> dict[str, Any]:
    """What `work(*args)` returns on each of these nodes, by id; without those that fail."""
    mine = here()
    told = {node.id: work(*args) for node in at if node.id == mine}
    task: Any = ray.remote(num_cpus=0, max_retries=0)(work)
    asked = {
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(*args): node.id
        for node in at
        if node.id != mine
    }
    if asked:
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
        for ref in late:
            ray.cancel(ref, force=True)
        for ref in done:
            try:
                told[asked[ref]] = ray.get(ref)
            except ray.exceptions.RayError:
                continue
    return told
