"""How large requests are: tokens in and out, shaped like real conversations.

The shape is that of the conversation part of the Azure LLM inference trace 2023, published with
Patel et al., "Splitwise: Efficient generative LLM inference using phase splitting", ISCA 2024.
Neither side is one log-normal: contexts gather around 400, 1,100 and 4,100 tokens, answers
around 90 and 400. So the quantiles that we measured on its 19,366 requests are interpolated on
a logarithmic scale. The two sides are drawn independently: in the trace the correlation of
their logarithms is 0.09.
"""

import csv
import gzip
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple


class TokenSizes(NamedTuple):
    """The size of one request: tokens that go in, tokens that are generated."""

    input: int
    output: int


SizeSource = Callable[[random.Random], TokenSizes]
"""Draws the size of one more request."""

Quantiles = Sequence[tuple[float, int]]

CONTEXT_TOKENS: Quantiles = (
    (0.0, 2),
    (0.05, 181),
    (0.10, 207),
    (0.25, 396),
    (0.50, 1020),
    (0.75, 1189),
    (0.90, 2734),
    (0.95, 4083),
    (0.99, 4142),
    (1.0, 14050),
)
GENERATED_TOKENS: Quantiles = (
    (0.0, 7),
    (0.05, 41),
    (0.10, 54),
    (0.25, 85),
    (0.50, 129),
    (0.75, 395),
    (0.90, 424),
    (0.95, 451),
    (0.99, 601),
    (1.0, 1000),
)


def quantile(table: Quantiles, fraction: float) -> int:
    """The value at a fraction (0 to 1) of a table, log-linear between its points."""
    for (low, small), (high, large) in pairwise(table):
        if fraction <= high:
            share = (fraction - low) / (high - low)
            return round(math.exp((1 - share) * math.log(small) + share * math.log(large)))
    return table[-1][1]


def azure_like(rng: random.Random) -> TokenSizes:
    """A size from the interpolated quantiles of the Azure conversation trace."""
    return TokenSizes(
        quantile(CONTEXT_TOKENS, rng.random()), quantile(GENERATED_TOKENS, rng.random())
    )


def from_trace(path: Path) -> SizeSource:
    """A source that draws whole rows, with replacement, from a trace file.

    path: CSV, plain or gzipped, with the Azure trace's columns ContextTokens, GeneratedTokens.
    Raises ValueError when a column is missing or there is no row.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        reader = csv.DictReader(lines)
        missing = {"ContextTokens", "GeneratedTokens"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path} is not a trace: it has no column {sorted(missing)[0]}")
        rows = [
            TokenSizes(max(1, int(row["ContextTokens"])), max(1, int(row["GeneratedTokens"])))
            for row in reader
        ]
    if not rows:
        raise ValueError(f"{path} is not a trace: it has no rows")
    return lambda rng: rng.choice(rows)


def size_source(environment: Mapping[str, str] = os.environ) -> SizeSource:
    """The trace named by RAYGATE_TRACE where that is set, else the fitted shape."""
    path = environment.get("RAYGATE_TRACE")
    return from_trace(Path(path)) if path else azure_like
