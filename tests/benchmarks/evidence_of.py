"""Evidence of a quiet cell, into which tests plant what a judge has to find."""

from dataclasses import replace
from typing import Any

from benchmarks.strict import terms
from benchmarks.strict.cells import Cell
from benchmarks.strict.evidence import ANSWERED, Asked, Evidence, Kill
from deployments.providers.simulated_log import CallRecord

S = 10**9
BEGAN = 1_000 * S
APART = 900 * S
"""How far the limiter's clock is behind the provider's."""


def call(id: str, model: str, at_s: float, **more: Any) -> CallRecord:
    """A call that was answered, 0.3 s long; `at_s` seconds after the beginning."""
    at_ns = BEGAN + round(at_s * S)
    usual: dict[str, Any] = {
        "charge_id": f"charge-{id}",
        "admitted_ns": at_ns - APART,
        "probe": False,
        "stream": False,
        "in_flight": 1,
        "probes_in_flight": 0,
        "started_ns": at_ns,
        "ended_ns": at_ns + 3 * S // 10,
        "outcome": "ok",
        "status": 200,
        "input_tokens": terms.PROMPT_TOKENS,
        "output_tokens": 20,
        "question": f"question {id}",
    }
    return CallRecord(id=id, model=model, **{**usual, **more})


def row(of: CallRecord, **more: Any) -> dict[str, Any]:
    """The ledger's row of a call, as it should be."""
    nanos_in, nanos_out = terms.prices(of.model or "")
    amount = of.input_tokens * nanos_in + of.output_tokens * nanos_out
    usual = {"charge_id": of.charge_id, "state": "actual", "amount_nanos": amount}
    return {**usual, "model": of.model, "user": "", "team": f"{of.model}-32-plain", **more}


def asked(tenant: str, at_s: float, end: str = ANSWERED, **more: Any) -> Asked:
    """A request of half a second."""
    at_ns = BEGAN + round(at_s * S)
    usual: dict[str, Any] = {"user": "", "sent_ns": at_ns, "ended_ns": at_ns + S // 2}
    return Asked(tenant=tenant, end=end, **{**usual, **more})


def cell(trouble: Any = "plain", replicas: int = 2, seconds: int = 10, **more: Any) -> Evidence:
    """Evidence of nothing, with `more`."""
    nothing = Evidence(Cell(replicas, 32, trouble), BEGAN, BEGAN + seconds * S)
    return replace(nothing, **more)


def booked(*calls: CallRecord, **more: Any) -> Evidence:
    """Evidence of these calls, each charged as it should be."""
    return cell(calls=calls, rows=tuple(row(one) for one in calls), **more)


def kill(at_s: float, what: str = "replica") -> Kill:
    """A kill, so long after the beginning."""
    return Kill(BEGAN + round(at_s * S), what, 1)
