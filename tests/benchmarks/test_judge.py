"""The judge finds what is planted in the evidence of single requests and calls, and only that."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.strict import evidence, judge
from benchmarks.strict.evidence import Evidence
from benchmarks.strict.findings import Findings
from tests.benchmarks.evidence_of import asked, booked, call, cell, kill, row

ONE, TWO = call("1", "ample", 1.0), call("2", "ample", 2.0)


def invariants(findings: Findings) -> list[str]:
    """Which bounds are broken."""
    return [breach.invariant for breach in findings.breaches]


def test_a_clean_cell_holds() -> None:
    """Calls that are charged, answers, and refusals where they belong: nothing to say."""
    requests = (asked("ample", 1.0), asked("queue", 1.0, "429 rate_limit_exceeded"))
    findings = judge.judge(booked(ONE, TWO, asked=requests))
    assert findings.breaches == []
    assert (findings.figures["calls"], findings.figures["requests"]) == (2, 2)


WRONG: dict[str, tuple[dict[str, Any], ...]] = {
    "not charged": (row(ONE),),
    "charged twice": (row(ONE), row(TWO), row(TWO)),
    "an estimate after the actual": (row(ONE), row(TWO), row(TWO, state="estimated")),
    "one nano too much": (row(ONE), row(TWO, amount_nanos=row(TWO)["amount_nanos"] + 1)),
    "a charge without a call": (row(ONE), row(TWO), row(call("3", "ample", 3.0))),
    "an estimate for nothing": (row(ONE), row(TWO, state="estimated")),
}


@pytest.mark.parametrize("rows", WRONG.values(), ids=WRONG)
def test_each_way_to_charge_wrongly_is_found(rows: tuple[dict[str, Any], ...]) -> None:
    """I3: one wrong charge among right ones is one breach."""
    findings = judge.charges(cell(calls=(ONE, TWO), rows=rows))
    assert invariants(findings) == ["I3"]
    assert findings.figures["wrong_charges"] == 1


def test_two_calls_under_one_charge_are_found() -> None:
    """I3: each call has a charge id of its own, or the second one goes unpaid."""
    twin = TWO._replace(charge_id=ONE.charge_id)
    assert judge.charges(booked(ONE, twin)).figures["wrong_charges"] > 0
    nameless = TWO._replace(charge_id=None)
    assert judge.charges(booked(ONE, nameless)).figures["wrong_charges"] > 0


def test_a_corrected_estimate_is_right() -> None:
    """I3: estimated, then actual: one charge."""
    rows = (row(ONE, state="estimated", amount_nanos=9), row(ONE))
    assert judge.charges(cell(calls=(ONE,), rows=rows)).breaches == []


def test_estimates_are_right_for_calls_that_broke_off_or_died_with_their_replica() -> None:
    """I3: whether by the provider's doing, or by a kill while the call was under way."""
    broken = TWO._replace(outcome="reset")
    rows = (row(ONE), row(TWO, state="estimated", amount_nanos=1))
    assert judge.charges(cell(calls=(ONE, broken), rows=rows)).breaches == []
    found = cell("replica", calls=(ONE, TWO), rows=rows, kills=(kill(2.1),))
    assert judge.charges(found).breaches == []
    elsewhere = replace(found, kills=(kill(4.0),))
    assert invariants(judge.charges(elsewhere)) == ["I3"]


def test_estimates_without_a_call_are_at_most_the_requests_that_were_cut_off() -> None:
    """I3: they are counted apart; one more than died with a replica is one too many."""
    lost = [row(call(str(n), "ample", 1.0), state="estimated") for n in range(2)]
    cut = (asked("ample", 1.0, evidence.CLOSED), asked("ample", 1.1, evidence.CLOSED))
    found = cell("replica", rows=tuple(lost), asked=cut, kills=(kill(1.2),))
    findings = judge.charges(found)
    assert findings.breaches == []
    assert findings.figures["estimates_without_call"] == 2
    assert invariants(judge.charges(replace(found, asked=cut[:1]))) == ["I3"]


SAME = [call(str(n), "shared", at_s, question="same") for n, at_s in enumerate((1.0, 1.1, 3.0))]


@pytest.mark.parametrize("second", SAME[1:], ids=["in flight", "answered"])
def test_a_second_call_for_one_question_is_found(second: Any) -> None:
    """I5: while the first is under way as well as when its answer is in the cache."""
    findings = judge.doubles(booked(SAME[0], second))
    assert invariants(findings) == ["I5"]
    assert findings.figures["doubled"] == 1


def test_other_models_questions_are_other_questions() -> None:
    """I5: what the judge joins by is the model and the question."""
    assert judge.doubles(booked(SAME[0], SAME[2]._replace(model="ample"))).breaches == []


def test_a_second_call_is_right_where_the_first_left_no_answer() -> None:
    """I5: it failed; its leader was killed; the cache with its answer was killed."""
    failed = SAME[0]._replace(outcome="error")
    assert judge.doubles(booked(failed, SAME[2])).breaches == []
    assert judge.doubles(booked(SAME[0], SAME[2], kills=(kill(1.2),))).breaches == []
    cache = (kill(2.0, "response_cache"),)
    assert judge.doubles(booked(SAME[0], SAME[2], kills=cache)).breaches == []


def test_a_kill_excuses_only_the_calls_that_it_touched() -> None:
    """I5: another replica's time, another singleton, a cache killed under a call in flight."""
    assert invariants(judge.doubles(booked(SAME[0], SAME[2], kills=(kill(2.5),)))) == ["I5"]
    for other in ("rate_limiter", "cost_tracker"):
        found = booked(SAME[0], SAME[2], kills=(kill(1.2, other),))
        assert invariants(judge.doubles(found)) == ["I5"]
    under_way = (kill(1.05, "response_cache"),)
    long = SAME[0]._replace(ended_ns=SAME[2].ended_ns)
    assert invariants(judge.doubles(booked(long, SAME[1], kills=under_way))) == ["I5"]


ENDS = [
    ("ample", "500 internal_error"),
    ("ample", "503 singleton_unavailable"),
    ("ample", "503 overloaded"),
    ("ample", "408 deadline_exceeded"),
    ("ample", "502 provider_error"),
    ("ample", "429 rate_limit_exceeded"),
    ("ample", "429 insufficient_quota"),
    ("queue", "429 insufficient_quota"),
    ("purse", "429 rate_limit_exceeded"),
    ("flaky", "504 provider_timeout"),
    ("ample", "stream provider_error"),
    ("ample", "401 invalid_api_key"),
    ("ample", evidence.CLOSED),
    ("ample", evidence.INGRESS),
    ("ample", evidence.SILENT),
    ("ample", evidence.LEFT),
]


@pytest.mark.parametrize(("tenant", "end"), ENDS)
def test_each_end_that_no_request_should_meet_is_found(tenant: str, end: str) -> None:
    """I9: also a refusal by what does not bind this tenant."""
    findings = judge.failures(cell(asked=(asked(tenant, 1.0, end), asked(tenant, 1.0))))
    assert invariants(findings) == ["I9"]
    assert findings.figures["failed"] == 1


def test_refusals_that_belong_to_a_tenant_are_no_failures() -> None:
    """I9: nor is a request that its own client has left, where clients leave."""
    requests = (
        asked("queue", 1.0, "429 rate_limit_exceeded"),
        asked("purse", 1.0, "429 insufficient_quota"),
        asked("flaky", 1.0, "503 provider_unavailable"),
        asked("ample", 1.0, evidence.LEFT),
    )
    assert judge.failures(cell("leaving", asked=requests)).breaches == []


def test_only_requests_in_flight_on_a_killed_replica_are_excused() -> None:
    """I9: a closed connection is, if a replica was killed meanwhile; an error of ours never is."""
    cut = asked("ample", 1.0, evidence.CLOSED)
    found = cell("replica", asked=(cut,), kills=(kill(1.2),))
    findings = judge.failures(found)
    assert (findings.breaches, findings.figures["excused"]) == ([], 1)
    for other in (kill(3.0), kill(0.2), kill(1.2, "rate_limiter")):
        assert invariants(judge.failures(replace(found, kills=(other,)))) == ["I9"]
    ours = replace(found, asked=(cut._replace(end="503 singleton_unavailable"),))
    assert invariants(judge.failures(ours)) == ["I9"]


def test_where_the_only_replica_was_killed_nobody_is_there_until_the_next_answers() -> None:
    """I9: with one replica; with two the other one is there."""
    requests = (asked("ample", 2.0, evidence.INGRESS), asked("ample", 5.0))
    alone = cell("replica", replicas=1, asked=requests, kills=(kill(1.0),))
    assert judge.failures(alone).breaches == []
    later = (*requests, asked("ample", 6.0, evidence.INGRESS))
    assert invariants(judge.failures(replace(alone, asked=later))) == ["I9"]
    two = cell("replica", replicas=2, asked=requests, kills=(kill(1.0),))
    assert invariants(judge.failures(two)) == ["I9"]


@pytest.mark.parametrize("end", [evidence.ANSWERED, "429 rate_limit_exceeded"])
def test_a_wait_beyond_the_promise_is_found(end: str) -> None:
    """I11: of those who were served as of those who were refused."""
    within = asked("queue", 1.0, end, promised_s=5.0, wait_s=5.0 + judge.GRACE_S)
    beyond = within._replace(wait_s=5.01 + judge.GRACE_S)
    assert judge.waits(cell(asked=(within,))).breaches == []
    findings = judge.waits(cell(asked=(within, beyond)))
    assert invariants(findings) == ["I11"]
    assert findings.figures["longest_wait_s"] == beyond.wait_s


def test_what_all_requests_take_is_no_wait() -> None:
    """I11: where an answer without limits took 3.5 s, a limit's may take as much longer."""
    slow = asked("ample", 1.0)
    slow = slow._replace(ended_ns=slow.sent_ns + 3_900_000_000)
    beyond = asked("queue", 1.0, promised_s=5.0, wait_s=5.0 + judge.GRACE_S + 3.4)
    assert judge.waits(cell(asked=(slow, beyond))).breaches == []
    later = beyond._replace(wait_s=5.0 + judge.GRACE_S + 3.6)
    assert invariants(judge.waits(cell(asked=(slow, later)))) == ["I11"]


def test_who_does_not_wait_is_answered_at_once() -> None:
    """I11: a promise of no wait is one of at most the time that a recall takes."""
    allowed = judge.SHORTEST_WAIT_S + judge.GRACE_S
    late = asked("queue", 1.0, promised_s=0.0, wait_s=allowed + 0.01)
    assert invariants(judge.waits(cell(asked=(late,)))) == ["I11"]
    assert judge.waits(cell(asked=(late._replace(wait_s=allowed),))).breaches == []


def test_what_is_still_held_is_found() -> None:
    """I12: each kind of it."""
    found: Evidence = cell(held={"holds": 2, "leaders": 1})
    findings = judge.leaks(found)
    assert [(each.invariant, each.times) for each in findings.breaches] == [("I12", 2)]
    assert "2 holds" in findings.breaches[0].text


def test_judge_hears_all_judges() -> None:
    """A breach of any of them is one of the whole."""
    found = cell(
        calls=(SAME[0], SAME[1]),
        asked=(
            asked("ample", 1.0, evidence.CLOSED),
            asked("queue", 1.0, promised_s=0.0, wait_s=9.0),
        ),
        held={"tickets": 1},
        over_budget={"day ": 5},
    )
    assert set(invariants(judge.judge(found))) == {"I2", "I3", "I5", "I9", "I11", "I12"}
