"""What goes wrong in a cell: processes that are killed in the middle of their work."""

import asyncio
import os
import random
import signal
import time

from benchmarks.on_ray import Gateway
from benchmarks.strict.cells import Cell
from benchmarks.strict.evidence import Kill

REPLICA_EVERY_S = 4.0
SINGLETON_EVERY_S = 3.0
SINGLETONS = ("rate_limiter", "cost_tracker", "response_cache", "circuit_breaker", "key_store")
_LOOK_S = 0.25
_WHOLE_S = 90.0


async def trouble(gateway: Gateway, cell: Cell, seed: int, kills: list[Kill]) -> None:
    """Make a cell's trouble until cancelled; each kill is noted in `kills`."""
    dice = random.Random(f"{seed} {cell.name}")
    if cell.trouble == "replica":
        await _kill_replicas(gateway, dice, kills)
    elif cell.trouble == "singleton":
        await _kill_singletons(gateway, dice, kills)


async def _kill_replicas(gateway: Gateway, dice: random.Random, kills: list[Kill]) -> None:
    while True:
        await asyncio.sleep(REPLICA_EVERY_S * dice.uniform(0.75, 1.25))
        # A cluster without any replica proves nothing; but the only one there is, is killed.
        while len(living := gateway.replicas()) < min(2, gateway.setting.replicas):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        if gateway.setting.replicas == 1:
            await _until_up(gateway)
            await asyncio.sleep(1.0)
        _kill("replica", dice.choice(sorted(living)), kills)


async def _kill_singletons(gateway: Gateway, dice: random.Random, kills: list[Kill]) -> None:
    victims = list(SINGLETONS)
    dice.shuffle(victims)
    while True:
        for victim in victims:
            await asyncio.sleep(SINGLETON_EVERY_S * dice.uniform(0.75, 1.25))
            pid = await asyncio.to_thread(gateway.pid, victim)
            if pid is not None:
                _kill(victim, pid, kills)


def _kill(what: str, pid: int, kills: list[Kill]) -> None:
    kills.append(Kill(time.time_ns(), what, pid))
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        kills.pop()


async def whole(gateway: Gateway) -> None:
    """Wait until every replica and every singleton is there again. Raises TimeoutError."""
    async with asyncio.timeout(_WHOLE_S):
        while len(gateway.replicas()) != gateway.setting.replicas:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        await _until_up(gateway)
        while not await asyncio.to_thread(_all_answer, gateway):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)


async def _until_up(gateway: Gateway) -> None:
    while not _is_up(gateway):  # noqa: ASYNC110 - HAProxy has no event for it
        await asyncio.sleep(_LOOK_S)


def _is_up(gateway: Gateway) -> bool:
    try:
        return gateway.up() >= gateway.setting.replicas
    except OSError:
        # It is being loaded anew.
        return False


def _all_answer(gateway: Gateway) -> bool:
    return all(one["reachable"] for one in gateway.do("describe").values())
