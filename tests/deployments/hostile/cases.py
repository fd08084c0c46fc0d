"""What misbehaviour has to come to: for the client, the breaker and the ledger."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.deployments.hostile.server import Script


@dataclass(frozen=True)
class Told:
    """What a case has to come to.

    status, code: what the client sees; a code beside 200 is that of a stream's last event.
    outcome: of each call, in the breaker's words.
    charge: of each call: "none" (no row), "free" (actual, 0), "told" (actual, by its usage),
        "worst" (estimated, all that was reserved), "seen" (estimated, by what came).
    calls: attempts, of at most two.
    """

    status: int
    code: str
    outcome: str
    charge: str
    calls: int = 2


UNREACHED = Told(502, "provider_error", "failure", "none")
BROKEN = Told(502, "provider_error", "failure", "worst")
SILENT = Told(504, "provider_timeout", "failure", "worst")
REFUSED = Told(502, "provider_error", "failure", "free")
THROTTLED = Told(502, "provider_error", "throttled", "free")
WELL = Told(200, "", "success", "told", 1)
GUESSED = Told(200, "", "success", "seen", 1)
CUT = Told(200, "provider_error", "failure", "seen", 1)
STALLED = Told(200, "provider_timeout", "failure", "seen", 1)
LATE = Told(408, "deadline_exceeded", "ignored", "worst", 1)
LATE_STREAM = Told(200, "deadline_exceeded", "ignored", "seen", 1)


@dataclass(frozen=True)
class Case:
    """A behaviour and what it comes to, for a plain request and for a stream.

    within_s: the request's own time.
    """

    name: str
    script: Script
    plain: Told | None
    stream: Told | None
    within_s: float = 5.0


def both(name: str, script: Script, told: Told, within_s: float = 5.0) -> Case:
    """A case that comes to the same either way."""
    return Case(name, script, told, told, within_s)


def pairs(cases: Iterable[Case]) -> tuple[list[tuple[Case, bool]], list[str]]:
    """Each case with each kind of request it speaks of, and their names."""
    found = [(one, stream) for one in cases for stream in (False, True) if told(one, stream)]
    return found, [f"{one.name}-{'stream' if stream else 'plain'}" for one, stream in found]


def told(case: Case, stream: bool) -> Told | None:
    """What it comes to for this kind of request."""
    return case.stream if stream else case.plain
