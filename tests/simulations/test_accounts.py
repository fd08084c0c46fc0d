from typing import Any

import pytest

from deployments.providers.simulated_log import CallOutcome, CallRecord
from simulations.accounts import Accounts, join


def charge(
    charge_id: str, key: str = "k", nanos: int = 5, estimated: bool = False
) -> dict[str, Any]:
    """One row of the ledger."""
    return {
        "charge_id": charge_id,
        "key": key,
        "input": 10,
        "output": 4,
        "amount_nanos": nanos,
        "state": "estimated" if estimated else "actual",
    }


def call(charge_id: str | None, tokens_in: int = 10, tokens_out: int = 4) -> CallRecord:
    """One call as the provider saw it."""
    outcome: CallOutcome = "ok" if tokens_out else "error"
    return CallRecord(
        charge_id or "x", charge_id, 0, False, "m", False, 1, 0, 1, 2, outcome, 200,
        tokens_in, tokens_out,
    )  # fmt: skip


def test_books_that_agree() -> None:
    """Two calls, two charges, the same tokens: nothing to complain of."""
    accounts = join([charge("a"), charge("b", nanos=7)], [call("a"), call("b")], "k")
    assert accounts.agree
    assert accounts == Accounts(
        calls=2,
        matched=2,
        tokens_ledger=(20, 8),
        tokens_provider=(20, 8),
        spend_nanos=12,
        charge_nanos=(5, 7),
    )
    assert accounts.finding().holds


@pytest.mark.parametrize(
    ("ledger", "calls", "field"),
    [
        ([], [call("a")], "uncharged"),
        ([charge("a")], [], "without_call"),
        ([charge("a"), charge("a")], [call("a")], "charged_twice"),
    ],
)
def test_each_way_in_which_books_differ_is_found(
    ledger: list[dict[str, Any]], calls: list[CallRecord], field: str
) -> None:
    """A free call, a charge for nothing and a double charge are each counted, and said."""
    accounts = join(ledger, calls, "k")
    assert getattr(accounts, field) == 1
    assert not accounts.agree
    assert not accounts.finding().holds


def test_tokens_that_differ_are_found() -> None:
    """The same call with other tokens is a disagreement too."""
    assert not join([charge("a")], [call("a", tokens_out=5)], "k").agree


def test_a_corrected_estimate_is_one_charge_at_its_last_amount() -> None:
    """An estimate and its correction are not two charges, and the correction counts."""
    rows = [charge("a", nanos=90, estimated=True), charge("a", nanos=40)]
    accounts = join(rows, [call("a")], "k")
    assert accounts.agree
    assert (accounts.spend_nanos, accounts.estimated) == (40, 0)


def test_failed_calls_need_no_charge() -> None:
    """What the provider bills nothing for may be missing from the ledger, or be there at 0."""
    failed = call("b", tokens_in=0, tokens_out=0)
    accounts = join([charge("a"), charge("b", nanos=0)], [call("a"), failed], "k")
    assert accounts.agree
    assert accounts.failed_calls == 1
    assert join([charge("a")], [call("a"), failed], "k").agree


def test_others_pay_for_their_own_calls() -> None:
    """Another key's charge explains its call, and is no spend of this run."""
    accounts = join([charge("a"), charge("b", key="other")], [call("a"), call("b")], "k")
    assert accounts.agree
    assert accounts.spend_nanos == 5
    assert join([charge("b", key="other")], [], "k").without_call == 0


def test_calls_past_the_gateway_are_nobody_s() -> None:
    """A call without a charge id was sent to the provider by somebody else."""
    assert join([], [call(None)], "k").calls == 0
