"""What happened to one request, step by step."""

import random
import time
from typing import Any

_MAX_NAME = 128
# A trace id names, and proves nothing: it need not come from the system, a call for each.
_random_bits = random.Random().getrandbits


class Trace:
    """The record of one request.

    id: W3C trace id, 32 hex digits; parent: the caller's span, if it named one.
    request_id: what its client knows the request by, "" until it has a name. Nothing is held
        by it: clients may choose it.
    steps: (name, start, duration) in nanoseconds since the request came.
    """

    __slots__ = (
        "_began_ns",
        "facts",
        "finished",
        "id",
        "parent",
        "provider_ns",
        "request_id",
        "started_ns",
        "steps",
    )

    def __init__(self, id: str, parent: str | None = None) -> None:
        self.id = id
        self.parent = parent
        self.request_id = ""
        self.started_ns = time.time_ns()
        self._began_ns = time.perf_counter_ns()
        self.provider_ns = 0
        self.steps: list[tuple[str, int, int]] = []
        self.finished = False
        self.facts: dict[str, Any] = {}

    def elapsed_ns(self) -> int:
        """Since the request came."""
        return time.perf_counter_ns() - self._began_ns

    def step(self, name: str, since_ns: int) -> int:
        """Note that a step lasted from `since_ns` until now; returns now."""
        now = time.perf_counter_ns() - self._began_ns
        self.steps.append((name, since_ns, now - since_ns))
        return now

    def record(self) -> dict[str, Any]:
        """The trace as it is kept; `shown` makes of it what a person reads."""
        return {
            "trace_id": self.id,
            "request_id": self.request_id or self.id,
            "parent": self.parent,
            "started_ns": self.started_ns,
            "duration_ns": self.elapsed_ns(),
            "provider_ns": self.provider_ns,
            **self.facts,
            "steps": self.steps.copy(),
        }


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """A kept trace with its steps spelled out, which a hundred thousand others need not be."""
    names = ("name", "start_ns", "duration_ns")
    steps = [
        # Those of versions before 0.2 are.
        step if isinstance(step, dict) else dict(zip(names, step, strict=True))
        for step in record["steps"]
    ]
    return {**record, "steps": steps}


def new_trace(headers: dict[bytes, bytes]) -> Trace:
    """The trace that a W3C `traceparent` header continues, or one of its own."""
    trace = _trace_of(headers)
    trace.request_id = _name_given(headers)
    return trace


def _name_given(headers: dict[bytes, bytes]) -> str:
    """What the request is called already: by its client, or by the ingress in front of us."""
    name = headers.get(b"x-request-id", b"").decode("latin-1")
    return name if len(name) <= _MAX_NAME and name.isascii() and name.isprintable() else ""


def _trace_of(headers: dict[bytes, bytes]) -> Trace:
    given = headers.get(b"traceparent")
    if given is not None:
        words = given.decode("latin-1").split("-")
        if len(words) >= 4 and len(words[1]) == 32 and len(words[2]) == 16:
            digits = set(words[1] + words[2])
            if digits <= set("0123456789abcdef") and set(words[1]) != {"0"}:
                return Trace(words[1], words[2])
    return Trace(f"{_random_bits(128):032x}")
