"""What a cell leaves behind for the judge; nothing here says whether it is good."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.strict.cells import Cell
from deployments.providers.simulated_log import CallRecord

LEFT = "left"
"""A request that its own client broke off."""
CLOSED = "closed"
"""The connection ended before the answer did."""
INGRESS = "ingress"
"""An answer that is not the gateway's: the ingress had nobody to hand the request to."""
SILENT = "silent"
"""No answer for so long that the client gave up."""
ANSWERED = "200"


class Asked(NamedTuple):
    """One request as its client saw it.

    user: "" for none. sent_ns, ended_ns: Unix time.
    end: ANSWERED, "status code" of an error of the gateway's, or one of the words above.
    wait_s: how long it took, without the provider's time; None where nobody knows.
    promised_s: the longest that it was willing to wait for a limit; None: for ever.
    words: what was said, where that matters.
    """

    tenant: str
    user: str
    sent_ns: int
    ended_ns: int
    end: str
    wait_s: float | None = None
    promised_s: float | None = None
    words: str = ""


class Kill(NamedTuple):
    """A kill -9 at a Unix time, of a "replica", "node", "haproxy", or a singleton by its name."""

    at_ns: int
    what: str
    pid: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything about one cell.

    began_ns, ended_ns: of the demand, Unix time.
    calls: by the provider's log. rows: of the ledger, in order, those of the cell's own teams.
    asked: by the clients.
    over_budget: nano-dollars posted and held above a budget, the most that was ever seen,
        by "name subject"; only what is not 0.
    looks: how often the budgets were looked at.
    held: what was still held or waited for at the end, by its name; only what is not 0.
    settled_s: how long that took after the last answer.
    """

    cell: Cell
    began_ns: int
    ended_ns: int
    calls: tuple[CallRecord, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    asked: tuple[Asked, ...] = ()
    kills: tuple[Kill, ...] = ()
    over_budget: dict[str, int] = field(default_factory=dict)
    looks: int = 0
    held: dict[str, int] = field(default_factory=dict)
    settled_s: float = 0.0

    def killed(self, *what: str) -> list[int]:
        """When these were killed."""
        return [kill.at_ns for kill in self.kills if kill.what in what]

    def in_flight_at_kill(self, call: CallRecord, what: str = "replica") -> bool:
        """Whether a replica was killed while this call may have been its own business.

        Up to a moment after its end, too: until then the end may not have been told.
        """
        ended_ns = call.ended_ns or self.ended_ns
        return any(
            call.started_ns - JUST_NS <= at <= ended_ns + JUST_NS for at in self.killed(what)
        )

    def slowest_s(self) -> float:
        """What the slowest answer took, without the provider's time, where no limit delayed it."""
        times = [
            one.ended_ns - one.sent_ns
            for one in self.asked
            if one.tenant == "ample" and one.end == ANSWERED
        ]
        return max(max(times, default=0) / 1e9 - _PROVIDER_S, 0.0)


_PROVIDER_S = 0.4
"""What a provider takes for a request of `ample`."""
JUST_NS = 500_000_000
"""What is this close to a kill may have been touched by it."""


def plain(found: Evidence) -> dict[str, Any]:
    """The evidence as it is kept."""
    return {
        "began_ns": found.began_ns,
        "ended_ns": found.ended_ns,
        "asked": [one._asdict() for one in found.asked],
        "kills": [one._asdict() for one in found.kills],
        "held": found.held,
        "over_budget": found.over_budget,
        "calls": [one._asdict() for one in found.calls],
        "rows": found.rows,
    }
