"""Who asks in a cell and how, and what binds them: the policy, and what the judge holds it to.

Each tenant is a team with a model of its own, so that the provider's log tells whose call a call
was. Teams are new in each cell, and with them their buckets are full and their budgets unspent.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from benchmarks.strict.cells import Cell

AMPLE = 10**9
PROBES = 3
FLAKY_TARGET = "flaky/flaky"
PROMPT_TOKENS = 8
"""What the provider bills for any prompt: no more than the gateway counts for one, so that no
call uses more of a token limit than was admitted for it."""

RATE_LIMITED = "429 rate_limit_exceeded"
NO_MONEY = "429 insufficient_quota"
_FAILING = ("502 provider_error", "503 provider_unavailable")


class Limit(NamedTuple):
    """A limit of one tenant.

    scope: whether the team is counted, or each of its users. per_s: units a second.
    saturated: whether demand always exceeds it, so that nearly all of it must be used.
    clients: only in cells of so many clients; None: in all.
    """

    name: str
    tenant: str
    unit: Literal["requests", "tokens", "concurrent"]
    burst: int
    per_s: int = 1
    debt: int = 0
    scope: Literal["team", "user"] = "team"
    saturated: bool = True
    clients: int | None = None


class Budget(NamedTuple):
    """A budget of one tenant, for all time.

    scope, clients: as a limit's. calls: how many it pays for, at `CALL_NANOS`.
    """

    name: str
    tenant: str
    scope: Literal["team", "user"]
    calls: int
    clients: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """How one team asks.

    clients: of every 32, usually and where everything is scarce.
    refusals: how a request may end without being answered, "status code".
    waits_s: what its clients, in turn, are willing to wait for a limit.
    high: whether every other request is of high priority.
    max_tokens: the output that each request asks for, and gets.
    streams: share of the requests that ask for a stream.
    users: how many it has; each request names one, by chance.
    spends: instead, one after the other, each until its budget refuses.
    same_s: for how long everybody asks the same question; 0: never twice.
    rhythm_s: all ask for the first of these, then all rest for the second.
    pause_s: the longest pause between two requests of a client.
    provider: who answers it: "steady", "quick" or "flaky".
    """

    name: str
    clients: tuple[int, int]
    refusals: tuple[str, ...] = ()
    waits_s: tuple[float, ...] = ()
    high: bool = False
    max_tokens: int = 20
    streams: float = 0.0
    users: int = 0
    spends: bool = False
    same_s: float = 0.0
    rhythm_s: tuple[float, float] = (1.0, 0.0)
    pause_s: float = 0.05
    provider: str = "steady"


LIMITED = (RATE_LIMITED,)
POOR = (NO_MONEY,)
TENANTS = (
    Tenant(name="ample", clients=(4, 1), max_tokens=60, streams=0.5, pause_s=0.3),
    Tenant(name="queue", clients=(4, 3), refusals=LIMITED, waits_s=(5.0, 0.0)),
    Tenant(name="urgent", clients=(2, 2), refusals=LIMITED, waits_s=(0.0, 2.0), high=True),
    Tenant(name="tokens", clients=(2, 2), refusals=LIMITED, waits_s=(5.0, 0.0)),
    Tenant(
        name="bursty",
        clients=(3, 2),
        refusals=LIMITED,
        waits_s=(0.0, 1.0),
        rhythm_s=(1.0, 1.5),
        provider="quick",
    ),
    Tenant(
        name="gush",
        clients=(2, 2),
        refusals=LIMITED,
        waits_s=(1.0, 0.0),
        rhythm_s=(1.2, 0.8),
        provider="quick",
    ),
    Tenant(name="slots", clients=(3, 3), refusals=LIMITED, waits_s=(5.0, 5.0, 0.0)),
    Tenant(name="berths", clients=(3, 3), refusals=LIMITED, waits_s=(1.0, 0.0), provider="quick"),
    Tenant(
        name="wallet",
        clients=(2, 1),
        refusals=POOR,
        max_tokens=100,
        users=50,
        spends=True,
        provider="quick",
    ),
    Tenant(
        name="purse",
        clients=(1, 0),
        refusals=POOR,
        max_tokens=100,
        streams=0.3,
        users=100,
        spends=True,
    ),
    Tenant(name="shared", clients=(2, 1), streams=0.4, same_s=0.6, pause_s=0.1),
    Tenant(name="flaky", clients=(4, 4), refusals=_FAILING, provider="flaky"),
    Tenant(name="tight", clients=(0, 4), refusals=LIMITED, waits_s=(0.0, 3.0), users=6),
    Tenant(
        name="sliver",
        clients=(0, 4),
        refusals=POOR,
        max_tokens=100,
        streams=0.3,
        users=300,
        spends=True,
    ),
)
LIMITS = (
    Limit("queue", "queue", "requests", burst=20, per_s=4),
    Limit("urgent", "urgent", "requests", burst=6, per_s=1, debt=2),
    Limit("tokens", "tokens", "tokens", burst=350, per_s=60),
    # Of these there is enough to be lent at first, and too little soon after.
    Limit("bursty-32", "bursty", "requests", burst=24, per_s=4, saturated=False, clients=32),
    Limit("bursty-256", "bursty", "requests", burst=80, per_s=20, saturated=False, clients=256),
    Limit("gush-32", "gush", "tokens", burst=500, per_s=80, saturated=False, clients=32),
    Limit("gush-256", "gush", "tokens", burst=2_000, per_s=400, saturated=False, clients=256),
    Limit("slots", "slots", "concurrent", burst=2),
    Limit("berths-32", "berths", "concurrent", burst=2, saturated=False, clients=32),
    Limit("berths-256", "berths", "concurrent", burst=12, saturated=False, clients=256),
    Limit("tight-team", "tight", "requests", burst=9, per_s=3),
    Limit("tight-user", "tight", "requests", burst=4, per_s=2, scope="user", saturated=False),
)
BUDGETS = (
    Budget("wallet-32", "wallet", "user", calls=60, clients=32),
    Budget("wallet-256", "wallet", "user", calls=200, clients=256),
    Budget("purse-32", "purse", "user", calls=10, clients=32),
    Budget("purse-256", "purse", "user", calls=50, clients=256),
    Budget("sliver", "sliver", "user", calls=3),
    Budget("sliver-team", "sliver", "team", calls=60),
)
USUAL_PRICE = (1_000, 4_000)
ROUND_PRICE = (0, 20_000)
"""All output: what a call is sure to cost is what it may cost at worst."""
CALL_NANOS = 100 * ROUND_PRICE[1]

_STEADY: dict[str, Any] = {
    "ttft_s": 0.25,
    "tokens_per_s": 500.0,
    "spread": 0.2,
    "fill_max_tokens": True,
    "input_tokens": PROMPT_TOKENS,
}
PROVIDERS: dict[str, dict[str, Any]] = {
    "steady": _STEADY,
    # As quick as it takes for much to be asked of one replica, which then borrows.
    "quick": _STEADY | {"ttft_s": 0.01, "tokens_per_s": 0.0},
    # Its outages leave time to open, to be probed in vain, and to be found well again.
    "flaky": _STEADY
    | {
        "error_after_s": 0.2,
        "outages": [{"from_s": 1.0 + 8.0 * n, "for_s": 3.0} for n in range(20)],
    },
}
"""The knobs of each."""


def prices(model: str) -> tuple[int, int]:
    """Nano-dollars per token, input and output."""
    return ROUND_PRICE if model in ("wallet", "purse", "sliver") else USUAL_PRICE


def team(tenant: str, cell: Cell) -> str:
    """A tenant's team in a cell."""
    return f"{tenant}-{cell.tag}"


def crew(tenant: Tenant, cell: Cell) -> int:
    """How many clients a tenant has in a cell."""
    return tenant.clients[cell.trouble == "scarce"] * cell.clients // 32


def user(tenant: Tenant, cell: Cell, number: int) -> str:
    """One of a tenant's users: nobody else's, in no other cell."""
    return f"{team(tenant.name, cell)}-{number}"


def binds(terms: Limit | Budget, cell: Cell) -> bool:
    """Whether a limit or budget is one of this cell's."""
    return terms.clients in (None, cell.clients)


def policy(cells: Iterable[Cell]) -> dict[str, Any]:
    """The policy for these cells of one gateway."""
    cells = tuple(cells)
    tenants = {tenant.name: tenant for tenant in TENANTS}
    ample = [team(name, cell) for cell in cells for name in ("ample", "shared", "flaky")]

    def bound(terms: Limit | Budget) -> dict[str, Any]:
        bound_cells = [cell for cell in cells if binds(terms, cell)]
        subjects = [team(terms.tenant, cell) for cell in bound_cells]
        if terms.scope == "user":
            mine = tenants[terms.tenant]
            subjects = [
                f"{team(mine.name, cell)}/{user(mine, cell, number)}"
                for cell in bound_cells
                if crew(mine, cell)
                for number in range(mine.users)
            ]
        return {"name": terms.name, "scope": terms.scope, "subjects": subjects}

    return {
        "models": {tenant.name: _model(tenant) for tenant in TENANTS},
        "limits": [
            {"name": "everybody", "rate": AMPLE, "burst": AMPLE},
            *(
                # Only for those whose admission stamps nobody judges: of several admissions
                # of one call, the provider is told the last one's stamp.
                {"name": f"ample-{unit}", "scope": "team", "unit": unit, "subjects": ample}
                | {"rate": AMPLE, "burst": AMPLE}
                for unit in ("tokens", "concurrent")
            ),
            *(
                {**bound(limit), "unit": limit.unit, "rate": limit.per_s, "burst": limit.burst}
                | ({"debt": limit.debt} if limit.unit == "requests" else {})
                for limit in LIMITS
                if any(binds(limit, cell) for cell in cells)
            ),
        ],
        "budgets": [
            {"name": "day", "amount_usd": 100_000},
            {"name": "months", "scope": "team", "period": "month", "amount_usd": 10_000},
            *(
                {**bound(budget), "period": "total", "amount_usd": _usd(budget)}
                for budget in BUDGETS
                if any(binds(budget, cell) for cell in cells)
            ),
        ],
        "breakers": {
            "default": {"failure_threshold": 0, "min_calls": 100_000, "timeout_s": 30},
            "targets": {
                FLAKY_TARGET: {
                    "failure_threshold": 3,
                    "recovery_timeout_s": 2,
                    "recovery_factor": 1,
                    "jitter": 0,
                    "success_threshold": PROBES,
                }
            },
        },
        "retries": {"attempts": 3, "base_s": 0.05, "cap_s": 0.2},
    }


def _model(tenant: Tenant) -> dict[str, Any]:
    nanos_in, nanos_out = prices(tenant.name)
    return {
        "targets": [f"{tenant.provider}/{tenant.name}"],
        "price": {"input_per_mtok": nanos_in / 1_000, "output_per_mtok": nanos_out / 1_000},
        "max_output_tokens": tenant.max_tokens,
    }


def _usd(budget: Budget) -> float:
    return budget.calls * CALL_NANOS / 1e9
