"""Whether all is well with a gateway on several nodes, and which process is what."""

import contextlib

import psutil

from actors.mechanism import mechanism_of
from actors.registry import SINGLETONS
from actors.sharded import singleton_of
from benchmarks.on_ray import Gateway
from deployments.cli import processes

MIRRORED = {name for name, where in SINGLETONS.items() if mechanism_of(where).MIRRORED}


def find(gateway: Gateway, what: str) -> list[psutil.Process]:
    """The processes of this gateway's Ray whose command begins so, oldest first."""
    found = []
    for process in processes.of_folder(gateway.ray):
        with contextlib.suppress(psutil.Error, IndexError):
            if process.name() == what or process.cmdline()[0].startswith(what):
                found.append(process)
    return sorted(found, key=lambda one: one.create_time())


def well(gateway: Gateway) -> str:
    """What is not as it should be; "" where all is."""
    wanted = gateway.setting.replicas
    if (running := len(gateway.replicas())) != wanted:
        return f"{running} replicas"
    try:
        if (up := gateway.up()) != wanted:
            return f"{up} replicas at the ingress"
    except (OSError, ValueError) as error:
        return f"the ingress: {error}"
    for host, told in gateway.do("describe").items():
        if not told["reachable"]:
            return f"{host} is not reachable"
        if (
            gateway.setting.nodes
            and singleton_of(host) in MIRRORED
            and not told["protection"].startswith("standby")
        ):
            return f"{host} has no standby"
    try:
        gateway.do("wanted")
    except RuntimeError as error:
        return f"Serve: {error}"
    return ""
