"""What the pipeline asks of a provider, and what it gets back.

The seam knows nothing of money, limits or breakers: one call goes in, one answer or one
`ProviderFailure` comes out, and nothing here ever sends a call a second time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Literal, Protocol

Outcome = Literal["success", "failure", "ignored", "throttled"]
FailureKind = Literal["connect", "full", "timeout", "reset"]

MAX_RETRY_AFTER_S = 86_400.0
"""A longer wait than a day is taken for a mistake of the provider's and cut to it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One POST to a provider.

    path: below the provider's base URL, with its leading slash: "/chat/completions".
    body: the JSON as it goes out.
    headers: added to the provider's own (authorization, content type).
    timeout_s: for a plain call the whole exchange; for a stream the wait for its head, and
        again the wait for each further chunk.
    """

    path: str
    body: bytes
    headers: dict[str, str]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete reply, whatever its status.

    headers: names in lower case.
    first_byte_ns, total_ns: durations from the start of the call to the reply's head and to
        its last byte.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    first_byte_ns: int
    total_ns: int


class StreamAnswer(Protocol):
    """A reply whose body is still arriving.

    status, headers, first_byte_ns: as in `Answer`.
    body: the whole body when the status is not 200 (then there is nothing to read), else empty.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    first_byte_ns: int

    async def read(self) -> bytes:
        """The next bytes of the body; b"" at its end, `ProviderFailure` before it.

        May be cancelled and called again: nothing is lost by it.
        """
        ...

    async def aclose(self) -> None:
        """Let the connection go: kept for reuse when the body was read to its end, else cut."""
        ...


class Provider(Protocol):
    """Somewhere that calls can be sent to.

    name: as configured, the first half of a target's name.
    """

    name: str

    async def send(self, call: Call) -> Answer:
        """Send once and read the whole reply; `ProviderFailure` when there is none."""
        ...

    async def stream(self, call: Call) -> StreamAnswer:
        """Send once and return at the reply's head; `ProviderFailure` when there is none."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class ProviderFailure(Exception):
    """There is no complete reply.

    kind: "connect": nothing was sent, so the provider knows of no call; "full": likewise, and
        for want of a connection that we may have; "timeout" and "reset": it may have worked on
        the call, and may bill it.
    message: names the provider and what happened; never holds a key.
    """

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(kind, message)
        self.kind: FailureKind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


def outcome_of(status: int) -> Outcome:
    """What a reply's status says about the provider's health, in the circuit breaker's words."""
    if status == 200:
        return "success"
    if status in (429, 529):
        return "throttled"
    if 400 <= status < 500 and status != 408:
        return "ignored"
    # Redirects are not followed, and a 204 holds no completion: such a target serves nobody.
    return "failure"


def retry_after_s(headers: Mapping[str, str], now: int) -> float | None:
    """Seconds that the provider asks us to stay away; None when it says nothing we can read.

    headers: names in lower case. `retry-after-ms` is finer and wins over `retry-after`, which is
        seconds or an HTTP date.
    now: wall clock, nanoseconds since 1970.
    """
    wait_s = _number(headers.get("retry-after-ms"), 1e-3)
    if wait_s is None:
        text = headers.get("retry-after")
        wait_s = _number(text, 1.0)
        if wait_s is None and text is not None:
            wait_s = _until(text, now)
    return None if wait_s is None else min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


def _number(text: str | None, unit_s: float) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value * unit_s if isfinite(value) else None


def _until(date: str, now: int) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - now / 1e9
    except (ValueError, OverflowError):
        return None
