"""The judge of limits, budgets and probes: nothing above the bound (I1, I2, I4), little left (I13).

By the provider's log. Whose user a call was, for what is counted by user, comes from its charge.
"""

from collections import defaultdict
from collections.abc import Iterable

from benchmarks.strict import evidence, terms
from benchmarks.strict.evidence import Evidence
from benchmarks.strict.findings import Findings
from benchmarks.strict.terms import Budget, Limit
from benchmarks.strict.windows import NANOS, above, gaps, overlapping
from deployments.providers.simulated_log import CallRecord

SHARE = 0.95
"""Of what a limit allows under saturating demand, at least so much is used."""
PRESSED = 0.05
"""Demand saturates a limit where at least this share of the requests did not get in at once."""
HEALING_NS = 10 * NANOS
"""How long after a kill it may be that nobody can be let in."""
_WAITED_S = 0.5
_NO_ANSWER = (evidence.CLOSED, evidence.LEFT, evidence.SILENT)


def capacity(found: Evidence) -> Findings:
    """All of it."""
    findings = Findings()
    users = {row["charge_id"]: row["user"] for row in found.rows}
    shares: list[float] = []
    over = 0
    for limit in terms.LIMITS:
        if not terms.binds(limit, found.cell):
            continue
        calls = [call for call in found.calls if call.model == limit.tenant]
        if limit.unit == "concurrent":
            units, share = _slots(limit, calls, findings)
        else:
            units, share = _rate(limit, calls, users, found, findings)
        over += units
        if share is not None:
            shares.append(share)
            if share < SHARE:
                findings.breach("I13", 1, f"only {share:.1%} of limit {limit.name} was used")
    findings.figures |= {"over_limit": over, "limit_share": min(shares, default=None)}
    _money(found, users, findings)
    _probes(found, findings)
    return findings


def _slots(limit: Limit, calls: list[CallRecord], findings: Findings) -> tuple[int, float | None]:
    most = overlapping(calls)
    over = max(0, most - limit.burst)
    findings.breach("I1", over, f"{most} in flight under limit {limit.name} of {limit.burst}")
    judged = limit.saturated and calls
    return over, min(1.0, most / limit.burst) if judged else None


def _rate(
    limit: Limit,
    calls: list[CallRecord],
    users: dict[str | None, str],
    found: Evidence,
    findings: Findings,
) -> tuple[int, float | None]:
    """Units over the bound, and the share that was used where demand was always higher."""
    if not calls:
        return 0, None
    unstamped = sum(not call.admitted_ns for call in calls)
    findings.breach("I1", unstamped, f"calls under limit {limit.name} without admission stamp")
    takes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for call in calls:
        if call.admitted_ns:
            subject = "" if limit.scope == "team" else users.get(call.charge_id, "?")
            takes[subject].append((call.admitted_ns, _units(limit, call)))
    total = 0
    for subject, mine in takes.items():
        over = above(limit.per_s, limit.burst + limit.debt, mine)
        who = f" for {subject}" if subject else ""
        findings.breach("I1", over, f"{over} units over limit {limit.name}{who}")
        total += over
    if not limit.saturated or "" not in takes:
        return total, None
    if not _pressed(limit.tenant, found):
        findings.figures.setdefault("unpressed", []).append(limit.name)
        return total, None
    return total, _share(limit, takes[""], calls, found)


def _units(limit: Limit, call: CallRecord) -> int:
    return call.input_tokens + call.output_tokens if limit.unit == "tokens" else 1


def _share(
    limit: Limit, takes: list[tuple[int, int]], calls: Iterable[CallRecord], found: Evidence
) -> float:
    """Used, of what the limit allowed from the first admission to the end of the demand.

    The time in which nobody was let in after a kill, what was admitted for requests that died
    with a replica, and the one admission that is under way at the end, are not withheld.
    """
    # The stamps' clock is not the calls'; the quickest call tells how far they are apart.
    apart_ns = min(call.started_ns - call.admitted_ns for call in calls if call.admitted_ns)
    begin_ns, end_ns = min(at for at, _ in takes), found.ended_ns - apart_ns
    used = sum(units for at, units in takes if at <= end_ns)
    largest = max(units for _, units in takes)
    healing = [(kill.at_ns - apart_ns, kill.at_ns - apart_ns + HEALING_NS) for kill in found.kills]
    usual_ns = NANOS + 2 * largest * NANOS // limit.per_s
    stood_still_ns = gaps((at for at, _ in takes), end_ns, usual_ns, healing)
    died = sum(one.tenant == limit.tenant and one.end == evidence.CLOSED for one in found.asked)
    allowed = limit.burst + limit.per_s * (end_ns - begin_ns - stood_still_ns) / NANOS
    return used / max(allowed - largest * (1 + died), 1.0)


def _pressed(tenant: str, found: Evidence) -> bool:
    """Whether more was asked for than was to be had: some were refused, or waited in line."""
    mine = [one for one in found.asked if one.tenant == tenant]
    usual_s = max(found.slowest_s(), _WAITED_S)
    short = sum(one.end == terms.RATE_LIMITED or (one.wait_s or 0) > usual_s for one in mine)
    return bool(mine) and short >= PRESSED * len(mine)


def billed(call: CallRecord) -> int:
    """What a call costs by the provider's count, nano-dollars."""
    nanos_in, nanos_out = terms.prices(call.model or "")
    return call.input_tokens * nanos_in + call.output_tokens * nanos_out


def _money(found: Evidence, users: dict[str | None, str], findings: Findings) -> None:
    over, shares = 0, []
    charged = {row["charge_id"]: row for row in found.rows}
    for budget in terms.BUDGETS:
        if not terms.binds(budget, found.cell):
            continue
        amount = budget.calls * terms.CALL_NANOS
        spent: dict[str, int] = defaultdict(int)
        for call in found.calls:
            if call.model == budget.tenant:
                user = users.get(call.charge_id, "?")
                spent["" if budget.scope == "team" else user] += billed(call)
        for subject, nanos in spent.items():
            if nanos > amount:
                over += nanos - amount
                text = f"budget {budget.name} of {subject or 'its team'}: {nanos - amount} nanos"
                findings.breach("I2", 1, f"{text} over by the provider's log")
        booked: dict[str, int] = defaultdict(int)
        for row in charged.values():
            if row["model"] == budget.tenant:
                booked["" if budget.scope == "team" else row["user"]] += row["amount_nanos"]
        shares += _spent_to_the_end(found, budget, amount, booked, findings)
    for name, nanos in found.over_budget.items():
        findings.breach("I2", 1, f"budget {name}: posted and held are {nanos} nanos over it")
    # Two views of the same money.
    over = max(over, sum(found.over_budget.values()))
    findings.figures |= {"over_budget_nanos": over, "budget_share": min(shares, default=None)}
    findings.figures["budgets_spent"] = len(shares)


def _spent_to_the_end(
    found: Evidence, budget: Budget, amount: int, booked: dict[str, int], findings: Findings
) -> list[float]:
    """The share that was spent of each budget that has refused somebody."""
    given_back: dict[str, int] = defaultdict(int)
    finished = set()
    for one in found.asked:
        if one.tenant != budget.tenant:
            continue
        subject = "" if budget.scope == "team" else one.user
        if one.end == terms.NO_MONEY and f"Budget {budget.name} reached" in one.words:
            finished.add(subject)
        elif one.end in _NO_ANSWER:
            # It may have held money when others were refused, and given it back unused.
            given_back[subject] += 1
    shares = []
    for subject in sorted(finished):
        left = amount - booked[subject]
        shares.append(booked[subject] / amount)
        if left >= terms.CALL_NANOS * (1 + given_back[subject]):
            who = subject or "its team"
            findings.breach("I13", 1, f"budget {budget.name} of {who} refused with {left} left")
    return shares


def _probes(found: Evidence, findings: Findings) -> None:
    probes = [call for call in found.calls if call.probe]
    most = overlapping(probes)
    over = max(0, most - terms.PROBES)
    findings.breach("I4", over, f"{most} probes in flight, of at most {terms.PROBES}")
    findings.figures |= {"probes": len(probes), "probes_over": over}
