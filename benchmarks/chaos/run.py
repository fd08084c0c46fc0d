"""A run of chaos: faults drawn from a seed under load, and what the judge says afterwards."""

import asyncio
import json
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.faults import Faults, Struck
from benchmarks.on_ray import Gateway, Setting, running
from benchmarks.provider import provider
from benchmarks.strict import terms
from benchmarks.strict.cells import Cell
from benchmarks.strict.evidence import Evidence, Kill, plain
from benchmarks.strict.findings import Findings
from benchmarks.strict.judge import judge
from benchmarks.strict.measure import Bench
from deployments.config import parse_policy

PROCESS_BACK_S = 3.0
NODE_BACK_S = 15.0
"""At most so long a singleton is away after its process was killed, or its node."""
LEAK_S = 100.0
"""A lost node's holds end half a minute after it is known to be lost."""
NOT_JUDGED = ("I11", "I13")
"""What the dead have on loan is withheld until their death is known, and who waits for a limit
waits for its singleton: that is judged as recovery."""
_CALM_S = (1.0, 4.0)
_KEY = "CHAOS_KEY"
_LOSSY = (
    "CoreWorkerService.grpc_client.PushTask",
    "ray::rpc::InternalKVGcsService.grpc_client.InternalKVGet",
    "ray::rpc::InternalKVGcsService.grpc_client.InternalKVPut",
)
# As long as it takes until no ingress hands requests to a replica that leaves.
_ENVIRONMENT = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3"}
_WAIT = {name: {"then": "wait"} for name in ("response_cache", "circuit_breaker")}

Tell = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """What a run has come to. struck: the faults, in order. broken: why it ended early."""

    seed: int
    struck: list[Struck] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    evidence: Evidence | None = None
    broken: str = ""


def order(dice: random.Random, faults: Sequence[str]) -> Iterator[str]:
    """Faults without end: each as often as any other, in an order of chance."""
    while True:
        yield from dice.sample(faults, len(faults))


def chaos(
    seed: int,
    seconds: float | None,
    only: Sequence[str] = (),
    rounds: int = 1,
    replicas: int = 3,
    nodes: int = 2,
    clients: int = 32,
    patience: float = 1.0,
    lost_percent: int = 0,
    keep: Path | None = None,
    tell: Tell = lambda text: None,
) -> Run:
    """Make chaos under load, and judge it.

    seconds: after so long no other fault is made; None: after each was made in each round.
    only: these faults alone. nodes: for singletons, beside the head. patience: how many
    times longer than promised a singleton may be away, on a machine that has other work too.
    lost_percent: so many of Ray's own requests are lost, and of its replies, all the time.
    keep: a folder for what is otherwise removed. tell: told what goes on.
    """
    cell = Cell(replicas, clients, "chaos")
    # Nobody goes on without a singleton, so that every promise is to be kept.
    policy = terms.policy([cell]) | {"unreachable": _WAIT}
    parse_policy(policy)
    key = f"sk-{secrets.token_hex(16)}"
    models = [tenant.name for tenant in terms.TENANTS]
    run = Run(seed)
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rg-chaos-")))
        folder.mkdir(parents=True, exist_ok=True)
        tell("starting the providers and a gateway")
        providers = {
            name: stack.enter_context(provider(folder / f"{name}.jsonl", models, key))
            for name in terms.PROVIDERS
        }
        args = tuple(
            {"name": name, "base_url": one.url, "api_key_env": _KEY}
            for name, one in providers.items()
        )
        environment = _ENVIRONMENT | {_KEY: key} | _lossy(lost_percent)
        setting = Setting(replicas, providers=args, nodes=nodes)
        gateway = stack.enter_context(running(folder, policy, setting, environment))

        async def trouble(gateway: Gateway, cell: Cell, seed: int, kills: list[Kill]) -> None:
            dice = random.Random(f"{seed} chaos")
            faults = Faults(gateway, providers["flaky"], policy, dice, kills)
            await _trouble(faults, dice, seconds, rounds, only, run, tell)

        bench = Bench(gateway, providers, seed, trouble, LEAK_S)
        run.evidence = asyncio.run(bench.measure(cell, seconds or 0.0))
        tell("judging")
        (folder / "evidence.json").write_text(json.dumps(plain(run.evidence), default=str))
        run.findings = judge(run.evidence)
        breaches = run.findings.breaches
        run.findings.breaches = [each for each in breaches if each.invariant not in NOT_JUDGED]
        run.findings.add(recovery(run.struck, patience))
        run.findings.breach("I9", bool(run.broken), run.broken)
        (folder / "struck.json").write_text(json.dumps([one._asdict() for one in run.struck]))
    return run


def _lossy(percent: int) -> dict[str, str]:
    """Ray's own fault injection, for the calls of actors and for what the cluster remembers."""
    loss = {"num_failures": -1, "req_failure_prob": percent, "resp_failure_prob": percent}
    told = json.dumps(dict.fromkeys(_LOSSY, loss))
    return {"RAY_testing_rpc_failure": told} if percent else {}


async def _trouble(
    faults: Faults,
    dice: random.Random,
    seconds: float | None,
    rounds: int,
    only: Sequence[str],
    run: Run,
    tell: Tell,
) -> None:
    names = [name for name in faults.all if not only or name in only]
    began = time.monotonic()
    await faults.until_well()
    for number, name in enumerate(order(dice, names)):
        if seconds is None and number == rounds * len(names):
            break
        if seconds is not None and time.monotonic() - began > seconds:
            break
        await asyncio.sleep(dice.uniform(*_CALM_S))
        tell(f"{number + 1}: {name}")
        try:
            run.struck.append(await faults.strike(name))
        except (RuntimeError, TimeoutError) as error:
            # What has come to pass by then is judged all the same.
            run.broken = f"{name}: {error}"
            return
    await asyncio.sleep(_CALM_S[1])


def recovery(struck: list[Struck], patience: float = 1.0) -> Findings:
    """Singletons that were away for longer than is promised."""
    findings = Findings()
    for fault, most_s in (("singleton killed", PROCESS_BACK_S), ("node killed", NODE_BACK_S)):
        took_s = [each for one in struck if one.fault == fault for each in one.back_s.values()]
        late = sum(each > most_s * patience for each in took_s)
        # Of fewer than a hundred the 99th percentile is the longest.
        if late > len(took_s) // 100:
            text = f"{fault}: up to {max(took_s):.1f} s until it was back, of {most_s:g}"
            findings.breach("I9", late, text)
    return findings
