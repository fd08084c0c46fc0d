"""Limits, money and calls under load, kills and scarcity, by the provider's own count.

Each cell of the table is a number of replicas, a number of clients and a kind of trouble; see
docs/strictness.md for what is counted. Ends with 1 where a bound is broken.

    python -m benchmarks.strictness [--short] [--cells '2x32-*' ...] [--seconds S]
"""

import argparse
import asyncio
import json
import secrets
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.machine import machine
from benchmarks.on_ray import Setting, running
from benchmarks.provider import provider
from benchmarks.strict import terms
from benchmarks.strict.cells import ALL, SHORT, Cell, choose
from benchmarks.strict.evidence import plain
from benchmarks.strict.findings import Findings
from benchmarks.strict.judge import judge
from benchmarks.strict.measure import Bench
from benchmarks.strict.table import Result, markdown, terminal
from deployments.config import parse_policy

SECONDS = 12.0
SHORT_SECONDS = 8.0
_KEY = "STRICTNESS_KEY"

Tell = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, show the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench --strictness", description=__doc__)
    parser.add_argument("--cells", nargs="+", metavar="PATTERN", help="such as 2x32-plain, '4x*'")
    parser.add_argument("--short", action="store_true", help="the five cells of 2 x 32 only")
    parser.add_argument("--seconds", type=float, help="of load in each cell")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--keep", type=Path, help="keep state, logs and books in this folder")
    args = parser.parse_args(arguments)
    try:
        cells = choose(args.cells, ALL) if args.cells else SHORT if args.short else ALL
    except ValueError as error:
        parser.error(str(error))
    seconds = args.seconds or (SHORT_SECONDS if args.short else SECONDS)
    # Otherwise what was started would stay.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    console, errors = Console(), Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("starting")
        results = measure(
            cells,
            seconds,
            args.seed,
            args.keep,
            doing=lambda text: progress.update(task, description=text),
            done=lambda result: errors.print(_line(result), highlight=False, soft_wrap=True),
        )
    # Wide as it is, whatever the terminal: a table that wraps is read by nobody.
    console.width = max(console.width, 200)
    console.print(terminal(results))
    if args.json:
        told = {"machine": machine(), "seed": args.seed, "seconds": seconds}
        told["cells"] = [result.data() for result in results]
        args.json.write_text(json.dumps(told, indent=1))
    if args.markdown:
        args.markdown.write_text(markdown(results))
    return 0 if all(result.holds for result in results) else 1


def measure(
    cells: Sequence[Cell],
    seconds: float,
    seed: int,
    keep: Path | None = None,
    doing: Tell = lambda text: None,
    done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run these cells, a gateway for each number of replicas.

    seconds: of load in each. keep: a folder for what is otherwise removed.
    doing, done: told what goes on, and of each cell that is judged.
    """
    results: list[Result] = []
    for replicas, group in groupby(sorted(cells, key=lambda cell: cell.replicas), _replicas):
        mine = tuple(group)
        with tempfile.TemporaryDirectory(prefix="raygate-strict-") as name:
            folder = Path(name) if keep is None else keep / f"{replicas}-replicas"
            folder.mkdir(parents=True, exist_ok=True)
            doing(f"starting a gateway of {replicas}")
            results += _on_gateway(mine, seconds, seed, folder, doing, done)
    return results


def _replicas(cell: Cell) -> int:
    return cell.replicas


def _on_gateway(
    cells: tuple[Cell, ...],
    seconds: float,
    seed: int,
    folder: Path,
    doing: Tell,
    done: Callable[[Result], None],
) -> list[Result]:
    """These cells, all of the same number of replicas."""
    policy = terms.policy(cells)
    parse_policy(policy)
    key = f"sk-{secrets.token_hex(16)}"
    models = [tenant.name for tenant in terms.TENANTS]
    results = []
    with ExitStack() as stack:
        providers = {
            name: stack.enter_context(provider(folder / f"{name}.jsonl", models, key))
            for name in terms.PROVIDERS
        }
        args = tuple(
            {"name": name, "base_url": one.url, "api_key_env": _KEY}
            for name, one in providers.items()
        )
        setting = Setting(cells[0].replicas, providers=args)
        with running(folder, policy, setting, {_KEY: key}) as gateway:
            bench = Bench(gateway, providers, seed)
            for number, cell in enumerate(cells, 1):
                doing(f"{cell.name}, {number} of {len(cells)} with {cell.replicas} replicas")
                began = time.monotonic()
                findings = _judged(bench, cell, seconds, folder)
                results.append(Result(cell, findings, time.monotonic() - began))
                done(results[-1])
    return results


def _judged(bench: Bench, cell: Cell, seconds: float, folder: Path) -> Findings:
    """What is found in one cell; one that breaks down is a finding too."""
    try:
        found = asyncio.run(bench.measure(cell, seconds))
    except Exception as error:
        traceback.print_exc()
        findings = Findings()
        findings.breach("I9", 1, f"the cell broke down: {error!r}"[:300])
        return findings
    findings = judge(found)
    (folder / f"{cell.name}.json").write_text(json.dumps(plain(found), default=str))
    return findings


def _line(result: Result) -> str:
    """One cell, as it is done."""
    broken = "; ".join(
        f"{each.invariant} {each.times} ×: {each.text}" for each in result.findings.breaches
    )
    verdict = "[green]holds[/]" if result.holds else f"[red]broken[/] {escape(broken[:1000])}"
    return f"{result.cell.name:18} {result.took_s:5.1f} s  {verdict}"


if __name__ == "__main__":
    sys.exit(main())
