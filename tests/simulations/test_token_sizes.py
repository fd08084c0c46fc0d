import gzip
import random
import statistics
from pathlib import Path

import pytest

from simulations.token_sizes import (
    CONTEXT_TOKENS,
    GENERATED_TOKENS,
    Quantiles,
    TokenSizes,
    azure_like,
    from_trace,
    quantile,
    size_source,
)

TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n2023-11-16,10,0\n"


@pytest.mark.parametrize("table", [CONTEXT_TOKENS, GENERATED_TOKENS])
def test_measured_quantiles_are_met_exactly(table: Quantiles) -> None:
    """At each measured point the interpolation gives the measured value."""
    for fraction, tokens in table:
        assert quantile(table, fraction) == tokens


def test_sizes_have_the_trace_s_means_and_medians() -> None:
    """Means within a tenth of the trace's 1,155 and 211 tokens, medians of 1,020 and 129."""
    rng = random.Random(1)
    sizes = [azure_like(rng) for _ in range(20_000)]
    assert statistics.mean(size.input for size in sizes) == pytest.approx(1155, rel=0.1)
    assert statistics.mean(size.output for size in sizes) == pytest.approx(211, rel=0.1)
    assert statistics.median(size.input for size in sizes) == pytest.approx(1020, rel=0.05)
    assert statistics.median(size.output for size in sizes) == pytest.approx(129, rel=0.05)


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_a_trace_is_drawn_from_where_one_is_named(tmp_path: Path, name: str) -> None:
    """RAYGATE_TRACE names a plain or gzipped file; rows stay whole, and sizes are at least 1."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(TRACE.encode()) if name.endswith("gz") else TRACE.encode())
    draw = size_source({"RAYGATE_TRACE": str(path)})
    rng = random.Random(1)
    assert {draw(rng) for _ in range(50)} == {TokenSizes(374, 44), TokenSizes(10, 1)}


def test_without_a_trace_the_fitted_shape_is_used() -> None:
    """No variable, no file: the source is the fit."""
    assert size_source({}) is azure_like


@pytest.mark.parametrize(
    ("content", "said"),
    [("a,b\n1,2\n", "no column ContextTokens"), ("ContextTokens,GeneratedTokens\n", "no rows")],
)
def test_a_file_that_is_no_trace_is_refused_with_the_reason(
    tmp_path: Path, content: str, said: str
) -> None:
    """A wrong file is an error that says what is missing, not a run without requests."""
    path = tmp_path / "trace.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        from_trace(path)
