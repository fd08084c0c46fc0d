"""Chaos: faults drawn from a seed under mixed load, then all invariants, by the provider's log.

See docs/reliability.md. Ends with 1 where a bound is broken.

    python -m benchmarks.chaos [--seconds S] [--seed N] [--only 'node killed' ...]
"""

import argparse
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.run import chaos
from benchmarks.chaos.table import markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench --chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, help="of faults; otherwise each is made once")
    parser.add_argument("--seed", type=int, help="of all that is left to chance; printed")
    parser.add_argument("--rounds", type=int, default=1, help="without --seconds")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=3, help="the head and those for singletons")
    parser.add_argument("--clients", type=int, default=32, choices=(32, 256))
    parser.add_argument("--lost-replies", type=int, default=0, metavar="PERCENT", help="of Ray's")
    parser.add_argument("--only", nargs="+", metavar="FAULT", default=(), help="only these faults")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--keep", type=Path, help="keep state and logs in this folder")
    args = parser.parse_args(arguments)
    seed = args.seed if args.seed is not None else secrets.randbelow(10**6)
    # Otherwise what was started would stay.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    tell(f"seed {seed}")
    run = chaos(
        seed,
        args.seconds,
        args.only,
        rounds=args.rounds,
        replicas=args.replicas,
        nodes=args.nodes - 1,
        clients=args.clients,
        lost_percent=args.lost_replies,
        keep=args.keep,
        tell=tell,
    )
    text = markdown(run)
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    return 1 if run.findings.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
