"""Choosing cells, and what is deployed for them."""

import pytest

from benchmarks.strict import terms
from benchmarks.strict.cells import ALL, SHORT, Cell, choose
from deployments.config import parse_policy


def test_the_table_has_forty_cells() -> None:
    """Four numbers of replicas, two of clients, five kinds of trouble."""
    assert len(ALL) == len({cell.name for cell in ALL}) == 40
    assert set(SHORT) < set(ALL)


def test_cells_are_chosen_by_patterns_in_the_tables_order() -> None:
    """Several patterns are one choice; a pattern that fits nothing is a mistake."""
    assert choose(["2x32-plain"]) == (Cell(2, 32, "plain"),)
    assert [cell.name for cell in choose(["4x256-scarce", "1x32-*"])][-1] == "4x256-scarce"
    assert len(choose(["*-replica", "8x*"])) == 8 + 8
    with pytest.raises(ValueError, match="3x32"):
        choose(["2x32-plain", "3x32-*"])


def test_every_client_of_a_cell_has_a_tenant() -> None:
    """32 of them, however they are shared out; and enough to find a fourth probe."""
    for cell in SHORT:
        assert sum(terms.crew(tenant, cell) for tenant in terms.TENANTS) == 32
    (flaky,) = [tenant for tenant in terms.TENANTS if tenant.name == "flaky"]
    assert min(flaky.clients) > terms.PROBES


def test_the_policy_is_one_that_the_gateway_takes_and_binds_who_it_should() -> None:
    """Each tenant's terms bind its own teams and users in each cell, and nobody else's."""
    policy = parse_policy(terms.policy(SHORT))
    for each in (*policy.limits, *policy.budgets):
        terms_of = [one for one in (*terms.LIMITS, *terms.BUDGETS) if one.name == each.name]
        if terms_of:
            assert each.subjects
            assert all(one.startswith(f"{terms_of[0].tenant}-") for one in each.subjects)
    amounts = {budget.name: round(budget.amount_usd * 1e9) for budget in policy.budgets}
    assert amounts["purse-32"] == terms.CALL_NANOS * 10
