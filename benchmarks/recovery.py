"""How long the host of the ledger takes to start with millions of charges in its store.

The store is filled in batches as a host commits them, with time of its own: `--days` long,
ending now. The last 300,000 charges go through the cost tracker, so that it remembers as many as
it ever does; those before through its journal alone, which writes the same rows. Months that are
over move out meanwhile, as they do in a host. Then hosts are started in new processes, with the
files in the page cache and without.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from actors import incarnation, upkeep
from actors.charges import Facts, Paid, Usage
from actors.cost_tracker import CostTracker
from actors.host import Host
from actors.host_tables import HOST_TABLES
from actors.mechanism import Row
from actors.store import Store
from benchmarks.machine import machine

_FACTORY = "actors.cost_tracker:CostTracker"
_FILE = "cost_tracker.sqlite"
_BATCH = 2_000
_REMEMBERED = 300_000
_KEYS, _TEAMS, _MODELS = 200, 10, 5
_POLICY = {
    "budgets": [
        {"name": "teams", "scope": "team", "period": "month", "amount_nanos": 10**18},
        {"name": "keys", "scope": "key", "period": "day", "amount_nanos": 10**18},
    ]
}


def fill(path: Path, charges: int, days: float) -> dict[str, float]:
    """Write so many charges; what that took, and how long moving months held up the host."""
    tables = {**CostTracker.TABLES, **HOST_TABLES}
    store, tracker = Store(path, tables, durable=False), CostTracker()
    end_ns = time.time_ns()
    step_ns = int(days * 86_400e9) // max(charges, 1)
    now = end_ns - charges * step_ns
    tracker.load(store.load())
    tracker.configure(now, "fill", "r1", _POLICY)
    began, moves = time.perf_counter(), []
    for first in range(0, charges, _BATCH):
        now += _BATCH * step_ns
        day = time.strftime("%Y-%m-%d", time.gmtime(now // 10**9))
        tracker.advance(now)
        for n in range(first, min(first + _BATCH, charges)):
            charge = _charge(n, day)
            if n < charges - _REMEMBERED:
                _, id, _, _, amount, reserved, usage, facts, estimated, _ = charge
                tracker._journal.write(now, id, estimated, amount, reserved, facts, usage, day)
            else:
                tracker.charge(now, "fill", charge)
        changes = tracker.take_changes()
        store.commit([*changes.rows, Row(incarnation.TABLE, "now", now)], tracker.head())
        if first % (50 * _BATCH) == 0:
            moves += _moved(store, now)
            print(f"\r{first:,}", end="", file=sys.stderr)
    moves += _moved(store, now)
    store.close()
    return {
        "filled_s": round(time.perf_counter() - began, 1),
        "moves": len(moves) // 2,
        "held_up_ms": [round(at * 1e3, 1) for at in _middle_and_longest(moves)],
    }


def _charge(n: int, day: str) -> Paid:
    key, team, model = f"key-{n % _KEYS}", f"team-{n % _TEAMS}", f"model-{n % _MODELS}"
    month = day[:7]
    accounts = (f"daily|{day}|", f"teams|{month}|{team}", f"keys|{day}|{key}")
    facts = Facts(key, team, f"user-{n % 9_999}", model, f"openai/{model}", "2026-11", {"a": "b"})
    usage = Usage(900 + n % 200, n % 300, 150 + n % 90, n % 50)
    id = f"{n:024x}"
    return Paid("fill", id, accounts, 0, 300_000 + n % 10_000, 600_000, usage, facts, False, day)


def _middle_and_longest(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times) or [0.0]
    return ordered[len(ordered) // 2], ordered[-1]


def _moved(store: Store, now: int) -> list[float]:
    """Move all months that are over; how long each step held up the host, seconds.

    Not counted is what a thread waits for: the file of the month.
    """
    took = []
    while True:
        began = time.perf_counter()
        move = store.next_move(now)
        looked = time.perf_counter()
        if move is None:
            return took
        move.write()
        written = time.perf_counter()
        store.end_move(move)
        took += [looked - began, time.perf_counter() - written]


def start(path: Path) -> dict[str, float]:
    """Start a host in this process, and let it look through the last day."""

    async def main() -> dict[str, float]:
        began, worked = time.perf_counter(), time.process_time()
        host = Host(_FACTORY, str(path), "claim")
        started, worked = time.perf_counter() - began, time.process_time() - worked
        audit = host._store.audit
        assert audit is not None
        longest = 0.0
        while not audit.done:
            slice_began = time.perf_counter()
            audit.step(upkeep.SLICE_ROWS)
            longest = max(longest, time.perf_counter() - slice_began)
        ended = time.perf_counter() - began
        assert audit.findings == []
        host.close()
        return {
            "start_s": round(started, 3),
            "start_cpu_s": round(worked, 3),
            "last_day_rows": audit.checked,
            "looked_through_s": round(ended - started, 1),
            "longest_slice_ms": round(longest * 1e3, 1),
        }

    return asyncio.run(main())


def _forget(folder: Path) -> None:
    """Have the kernel forget what is in these files."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measured(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Starts in new processes: in turn without and with the files in memory."""
    found: list[dict[str, Any]] = []
    for cached in [False, True] * rounds:
        if not cached:
            _forget(folder)
        command = [sys.executable, "-m", "benchmarks.recovery", "--start", str(folder / _FILE)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append({"cached": cached, **json.loads(done.stdout)})
        print(found[-1], file=sys.stderr)
    return found


def main() -> None:
    """Fill, start, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("charges", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--days", type=float, default=40.0, help="over which they are spread")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start", type=Path, help="only start a host on this database")
    options = parser.parse_args()
    if options.start is not None:
        print(json.dumps(start(options.start)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told: dict[str, Any] = {"charges": options.charges, "days": options.days}
        told |= fill(folder / _FILE, options.charges, options.days)
        files = {file.name: file.stat().st_size for file in sorted(folder.glob("*.sqlite"))}
        told |= {"files": files, "starts": measured(folder, options.rounds)}
    print(json.dumps({**told, "machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
