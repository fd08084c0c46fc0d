"""A short form of the strictness table: a few of its cells, each with all of its bounds."""

import pytest

from benchmarks import strictness
from benchmarks.strict.cells import Cell

pytestmark = pytest.mark.cluster

CELLS = [Cell(2, 32, trouble) for trouble in ("replica",)]


def test_no_bound_is_broken_under_scarcity_and_kills() -> None:
    """I1 to I5, I9, I11 to I13, by the provider's count, with enough of everything to judge."""
    results = strictness.measure(CELLS, seconds=5.0, seed=3)
    assert [result.cell for result in results] == CELLS
    for result in results:
        figures = result.findings.figures
        assert result.findings.breaches == [], result.data()
        assert figures["calls"] > 50
        assert figures["probes"] > 0
        assert figures["limit_share"] is not None
        assert bool(figures["kills"]) == (result.cell.trouble != "scarce")
