"""The simulated provider's own record of what it was asked: the judge of the gateway's ledger.

One JSON line when a call begins and one when it ends, appended with one write each, so that a
provider that is killed leaves its open calls on record too. `join` puts the pairs together.

    {"event": "started", "id", "charge_id", "admitted_ns", "probe", "model", "stream",
     "question", "in_flight", "probes_in_flight", "started_ns"}
    {"event": "ended", "id", "outcome", "status", "input_tokens", "output_tokens", "ended_ns"}
"""

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import time_ns
from typing import Any, Literal, NamedTuple

import orjson

CallOutcome = Literal["ok", "error", "throttled", "reset", "hang", "client_gone"]


class CallRecord(NamedTuple):
    """One call that the provider saw.

    admitted_ns: the gateway's admission stamp, as it came with the call.
    in_flight, probes_in_flight: calls and probes for the same model at its start, it included.
    started_ns, ended_ns: wall clock; ended_ns, outcome and status are None for a call that was
        still open when the provider died.
    input_tokens, output_tokens: what is billed for it: nothing for an error, a throttled or a
        hanging call; for one that broke off, the prompt and what was produced by then.
    question: a digest of the messages, the same for the same ones; "" where there is none.
    """

    id: str
    charge_id: str | None
    admitted_ns: int | None
    probe: bool
    model: str | None
    stream: bool
    in_flight: int
    probes_in_flight: int
    started_ns: int
    ended_ns: int | None = None
    outcome: CallOutcome | None = None
    status: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    question: str = ""


@dataclass(slots=True)
class OpenCall:
    """A call under way: what is recorded of it, kept up to date for whatever end it meets."""

    id: str
    model: str | None
    probe: bool
    outcome: CallOutcome = "client_gone"
    status: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class _Flight:
    calls: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    probes_in_flight: int = 0
    max_probes_in_flight: int = 0

    def begin(self, probe: bool) -> None:
        self.calls += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.probes_in_flight += probe
        self.max_probes_in_flight = max(self.max_probes_in_flight, self.probes_in_flight)

    def end(self, probe: bool) -> None:
        self.in_flight -= 1
        self.probes_in_flight -= probe

    def reset(self) -> None:
        self.calls = 0
        self.max_in_flight = self.in_flight
        self.max_probes_in_flight = self.probes_in_flight

    def figures(self) -> dict[str, int]:
        return {
            "calls": self.calls,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "probes_in_flight": self.probes_in_flight,
            "max_probes_in_flight": self.max_probes_in_flight,
        }


@dataclass(slots=True)
class _Sums:
    outcomes: dict[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0


class CallLog:
    """Appends calls to a file and counts them.

    path: the file; its folder is made where missing.
    max_bytes: a file that has reached this becomes `<path>.1`, in place of an earlier one.
    models: those that are counted one by one.
    """

    def __init__(self, path: Path, max_bytes: int, models: Iterable[str]) -> None:
        self.path = path
        self._max_bytes = max_bytes
        # Ids must not repeat when a later process appends to the same file.
        self._boot = secrets.token_hex(4)
        self._count = 0
        self._all = _Flight()
        self._by_model = {model: _Flight() for model in models}
        self._sums = _Sums()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def begin(
        self,
        charge_id: str | None,
        admitted_ns: int | None,
        probe: bool,
        model: str | None,
        stream: bool,
        question: str = "",
    ) -> OpenCall:
        """Record that a call came in."""
        self._count += 1
        call = OpenCall(f"{self._boot}-{self._count}", model, probe)
        self._all.begin(probe)
        flight = self._by_model.get(model or "")
        if flight is None:
            flight = self._all
        else:
            flight.begin(probe)
        self._append(
            {
                "event": "started",
                "id": call.id,
                "charge_id": charge_id,
                "admitted_ns": admitted_ns,
                "probe": probe,
                "model": model,
                "stream": stream,
                "question": question,
                "in_flight": flight.in_flight,
                "probes_in_flight": flight.probes_in_flight,
                "started_ns": time_ns(),
            }
        )
        return call

    def end(self, call: OpenCall) -> None:
        """Record how it ended; its tokens are what is billed."""
        self._all.end(call.probe)
        flight = self._by_model.get(call.model or "")
        if flight is not None:
            flight.end(call.probe)
        sums = self._sums
        sums.outcomes[call.outcome] = sums.outcomes.get(call.outcome, 0) + 1
        sums.input_tokens += call.input_tokens
        sums.output_tokens += call.output_tokens
        self._append(
            {
                "event": "ended",
                "id": call.id,
                "outcome": call.outcome,
                "status": call.status,
                "input_tokens": call.input_tokens,
                "output_tokens": call.output_tokens,
                "ended_ns": time_ns(),
            }
        )

    def stats(self) -> dict[str, Any]:
        """Counts since the start or the last reset; those in flight are never reset."""
        return {
            "boot": self._boot,
            **self._all.figures(),
            "outcomes": dict(self._sums.outcomes),
            "input_tokens": self._sums.input_tokens,
            "output_tokens": self._sums.output_tokens,
            "models": {model: flight.figures() for model, flight in self._by_model.items()},
        }

    def reset(self) -> None:
        """Count from nothing again; the file stays."""
        self._sums = _Sums()
        for flight in (self._all, *self._by_model.values()):
            flight.reset()

    def page(self, after: int, limit: int) -> tuple[bytes, int]:
        """Up to `limit` whole lines from byte `after` of the file, and where the next begins.

        An `after` beyond the file's end begins a new file: the old one has been replaced.
        """
        with self.path.open("rb") as file:
            if after > os.fstat(file.fileno()).st_size:
                after = 0
            file.seek(after)
            lines = []
            for line in islice(file, limit):
                if not line.endswith(b"\n"):
                    break
                lines.append(line)
        page = b"".join(lines)
        return page, after + len(page)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self._size += os.write(self._file, b"\n")

    def _append(self, row: dict[str, Any]) -> None:
        if self._size >= self._max_bytes:
            os.close(self._file)
            self.path.replace(f"{self.path}.1")
            self._open()
        self._size += os.write(self._file, orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def join(lines: Iterable[bytes | str]) -> list[CallRecord]:
    """The calls of a log, in the order in which they began; damaged lines are passed over."""
    calls: dict[str, CallRecord] = {}
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        event = row.pop("event")
        if event == "started":
            calls[row["id"]] = CallRecord(**row)
        elif event == "ended" and row["id"] in calls:
            calls[row["id"]] = calls[row["id"]]._replace(**row)
    return list(calls.values())


def read_calls(path: Path) -> list[CallRecord]:
    """The calls of a log file and of the earlier one that it replaced."""
    lines: list[bytes] = []
    for part in (Path(f"{path}.1"), path):
        if part.exists():
            lines += part.read_bytes().splitlines()
    return join(lines)
