"""The judge finds what is over a limit, a budget or the probes, and what was withheld of them."""

from dataclasses import replace
from math import ceil
from typing import Any

import pytest

from benchmarks.strict import evidence, terms
from benchmarks.strict.capacity import capacity
from benchmarks.strict.evidence import Evidence
from benchmarks.strict.findings import Findings
from deployments.providers.simulated_log import CallRecord
from tests.benchmarks.evidence_of import asked, booked, call, kill, row

LIMITS = {limit.name: limit for limit in terms.LIMITS}
BUDGETS = {budget.name: budget for budget in terms.BUDGETS}
SECONDS = 10


def invariants(findings: Findings) -> list[str]:
    """Which bounds are broken."""
    return [breach.invariant for breach in findings.breaches]


def used_up(name: str, units: int = 1, seconds: int = SECONDS, **more: Any) -> list[CallRecord]:
    """Calls that take all that a limit allows, at the first moment when it allows it."""
    limit = LIMITS[name]
    room, gap_s = limit.burst + limit.debt, units / limit.per_s
    at_once = room // units
    late = int((seconds - 0.01) / gap_s)
    times = [0.0] * at_once + [after(n + 1, gap_s) for n in range(late)]
    return [call(f"{name} {n}", limit.tenant, at_s, **more) for n, at_s in enumerate(times)]


def pressed(*calls: CallRecord) -> Evidence:
    """Evidence of these calls, and of refusals of the same tenants."""
    tenants = sorted({str(one.model) for one in calls})
    return booked(*calls, asked=tuple(asked(one, 1.0, terms.RATE_LIMITED) for one in tenants))


def after(count: int, gap_s: float) -> float:
    """When so many have come back, in whole nanoseconds, given in seconds."""
    return ceil(count * gap_s * 10**9) / 10**9


@pytest.mark.parametrize("name", ["queue", "urgent"])
def test_all_that_a_limit_allows_is_neither_too_much_nor_too_little(name: str) -> None:
    """I1, I13: to the unit; debt of high priority belongs to it."""
    findings = capacity(pressed(*used_up(name)))
    assert findings.breaches == []
    assert findings.figures["limit_share"] > 0.98


@pytest.mark.parametrize("name", ["queue", "urgent", "bursty-32"])
@pytest.mark.parametrize("at_s", [0.0, 0.5, 9.9])
def test_one_unit_too_many_in_any_window_is_found(name: str, at_s: float) -> None:
    """I1: in the burst, in the middle and at the end."""
    findings = capacity(booked(*used_up(name), call("more", LIMITS[name].tenant, at_s)))
    assert invariants(findings) == ["I1"]
    assert findings.figures["over_limit"] == 1


def test_a_burst_after_a_pause_is_no_more_than_a_burst() -> None:
    """I1: a bucket that has refilled holds one burst, however long the pause was."""
    limit = LIMITS["bursty-32"]
    late = [call(f"late {n}", "bursty", 9.0) for n in range(limit.burst)]
    early = call("early", "bursty", 0.0)
    assert capacity(booked(early, *late)).breaches == []
    assert invariants(capacity(booked(early, *late, call("more", "bursty", 9.0)))) == ["I1"]


def test_tokens_are_judged_by_what_was_billed() -> None:
    """I1: calls of 28 tokens; one more of them is 28 units over, one token more is one."""
    calls = used_up("tokens", units=28)
    assert capacity(booked(*calls)).breaches == []
    more = call("more", "tokens", 5.0)
    over = capacity(booked(*calls, more)).figures["over_limit"]
    assert 0 < over <= 28
    # 350 is 12 calls of 28 and 14 tokens more.
    first = calls[0]._replace(output_tokens=20 + 15)
    assert capacity(booked(first, *calls[1:12])).figures["over_limit"] == 1


def test_each_users_limit_is_its_own() -> None:
    """I1: two users may take two bursts, one may not; the charge tells whose call it was."""
    limit = LIMITS["tight-user"]
    calls = [call(str(n), "tight", 0.0) for n in range(limit.burst + 1)]
    rows = [row(one, user=f"u{n % 2}") for n, one in enumerate(calls)]
    assert capacity(replace(booked(*calls), rows=tuple(rows))).breaches == []
    same = [{**one, "user": "u"} for one in rows]
    assert invariants(capacity(replace(booked(*calls), rows=tuple(same)))) == ["I1"]


def test_calls_without_an_admission_stamp_are_found() -> None:
    """I1: what can't be judged is not taken for good."""
    calls = used_up("queue")
    unstamped = calls[0]._replace(admitted_ns=0)
    assert "I1" in invariants(capacity(booked(unstamped, *calls[1:])))


def test_slots_are_judged_by_the_calls_in_flight() -> None:
    """I1: three at once where two may be; I13: never more than one."""
    two = [call(str(n), "slots", 1.0) for n in range(2)]
    assert capacity(booked(*two)).breaches == []
    assert invariants(capacity(booked(*two, call("more", "slots", 1.2)))) == ["I1"]
    assert capacity(booked(*two, call("more", "slots", 1.3))).breaches == []
    assert invariants(capacity(booked(two[0]))) == ["I13"]


def test_a_limit_that_is_not_used_is_found() -> None:
    """I13: of the 60 units of ten seconds, one of them under way, 57 pass, 55 do not."""
    first, *calls = used_up("queue")
    assert len(calls) == 58
    assert capacity(pressed(first, *calls[2:])).breaches == []
    assert invariants(capacity(pressed(first, *calls[4:]))) == ["I13"]


def test_a_limit_that_stands_still_at_the_end_is_found() -> None:
    """I13: the demand goes on after the last admission."""
    calls = [one for one in used_up("queue") if one.started_ns < 1_006 * 10**9]
    assert invariants(capacity(pressed(*calls))) == ["I13"]


def test_the_time_after_a_kill_in_which_nobody_was_let_in_is_not_withheld() -> None:
    """I13: without the kill it is found; and what comes after it has to be used."""
    limit = LIMITS["queue"]
    times = [0.0] + [6.0] * limit.burst + [6.0 + after(n + 1, 1 / limit.per_s) for n in range(15)]
    found = pressed(*(call(str(n), "queue", at_s) for n, at_s in enumerate(times)))
    assert invariants(capacity(found)) == ["I13"]
    healed = replace(found, kills=(kill(0.1, "rate_limiter"),))
    assert capacity(healed).breaches == []
    assert invariants(capacity(replace(healed, calls=healed.calls[9:]))) == ["I13"]


def test_a_limit_that_nobody_was_refused_by_is_not_judged_for_what_is_left_of_it() -> None:
    """I13: there was no saturating demand; that is said, and no share is."""
    findings = capacity(booked(*used_up("queue")[:5]))
    assert findings.breaches == []
    assert findings.figures["unpressed"] == ["queue"]
    assert findings.figures["limit_share"] is None


def test_waiting_in_line_is_demand_and_everybodys_slowness_is_not() -> None:
    """I13: a limit is judged where its requests waited longer than those without limits did."""
    calls = used_up("queue")[:5]
    waited = asked("queue", 1.0, promised_s=5.0, wait_s=2.0)
    assert invariants(capacity(booked(*calls, asked=(waited,)))) == ["I13"]
    slow = asked("ample", 1.0)
    slow = slow._replace(ended_ns=slow.sent_ns + 3 * 10**9)
    assert capacity(booked(*calls, asked=(waited, slow))).figures["unpressed"] == ["queue"]


def spent(calls: int, user: str = "u") -> tuple[list[CallRecord], list[dict[str, Any]]]:
    """So many calls of a purse, and their charges."""
    made = [call(str(n), "purse", n / 10, output_tokens=100) for n in range(calls)]
    return made, [row(one, user=user) for one in made]


def refused(user: str = "u", budget: str = "purse-32") -> Any:
    """A request that a budget refused."""
    words = f"Budget {budget} reached: of x's 0.04 USD"
    return asked("purse", 9.0, terms.NO_MONEY, user=user, words=words)


def test_money_over_a_budget_is_found_by_the_providers_log() -> None:
    """I2: one call more than the budget pays for, whatever the ledger says that it cost."""
    calls, rows = spent(BUDGETS["purse-32"].calls)
    assert capacity(booked(*calls, asked=(refused(),))).figures["over_budget_nanos"] == 0
    calls, rows = spent(BUDGETS["purse-32"].calls + 1)
    found = replace(booked(*calls), rows=tuple(rows))
    assert capacity(found).figures["over_budget_nanos"] == terms.CALL_NANOS
    free = replace(found, rows=tuple({**one, "amount_nanos": 0} for one in rows))
    assert "I2" in invariants(capacity(free))


def test_money_over_a_budget_is_found_by_the_ledger() -> None:
    """I2: posted and held above a budget at any moment that was looked at."""
    findings = capacity(booked(over_budget={"day ": 7}))
    assert invariants(findings) == ["I2"]
    assert findings.figures["over_budget_nanos"] == 7


def test_a_budget_that_refuses_with_a_calls_money_left_is_found() -> None:
    """I13: to within one worst case of its end, and only where it has refused somebody."""
    pays = BUDGETS["purse-32"].calls
    for count, broken in ((pays, []), (pays - 1, ["I13"])):
        calls, rows = spent(count)
        found = replace(booked(*calls, asked=(refused(),)), rows=tuple(rows))
        assert invariants(capacity(found)) == broken
        unfinished = replace(found, asked=(refused("somebody else"),))
        assert "u" not in str(capacity(replace(unfinished, asked=())).breaches)


def test_what_a_dead_request_gave_back_is_nobodys_withholding() -> None:
    """I13: its money was held when others were refused."""
    calls, rows = spent(BUDGETS["purse-32"].calls - 1)
    dead = asked("purse", 1.0, evidence.CLOSED, user="u")
    found = replace(booked(*calls, asked=(refused(), dead)), rows=tuple(rows))
    assert capacity(found).breaches == []


def test_too_many_probes_are_found() -> None:
    """I4: four in flight of at most three, of whatever generation; one after the other is fine."""
    together = [call(str(n), "flaky", 1.0 + n / 100, probe=True) for n in range(4)]
    assert capacity(booked(*together[:3])).breaches == []
    findings = capacity(booked(*together))
    assert (invariants(findings), findings.figures["probes_over"]) == (["I4"], 1)
    apart = [call(str(n), "flaky", n, probe=True) for n in range(4)]
    assert capacity(booked(*apart)).figures["probes"] == 4
    assert capacity(booked(*apart)).breaches == []
