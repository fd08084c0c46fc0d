"""How the variants of an experiment fare: single interactions, and their sums."""

from typing import Any, NamedTuple

from actors import fields
from actors.errors import InvalidRequest

OUTCOMES = ("success", "fallback", "error")
_MOST = 2**63 - 1


class Interaction(NamedTuple):
    """What became of one request in an experiment. outcome: one of OUTCOMES."""

    experiment: str
    variant: str
    outcome: str
    cached: bool = False
    tokens_in: int = 0
    tokens_out: int = 0
    cost_nanos: int = 0
    latency_ns: int = 0


class Tally(NamedTuple):
    """Sums over a variant's interactions, each capped at 2**63 - 1."""

    calls: int = 0
    success: int = 0
    fallback: int = 0
    error: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_nanos: int = 0
    latency_ns: int = 0


def added(tally: Tally, one: Interaction) -> Tally:
    """The tally with one more interaction in it."""
    more = {
        "calls": 1,
        one.outcome: 1,
        "cached": int(bool(one.cached)),
        "tokens_in": one.tokens_in,
        "tokens_out": one.tokens_out,
        "cost_nanos": one.cost_nanos,
        "latency_ns": one.latency_ns,
    }
    sums = tally._asdict()
    return Tally(**(sums | {name: min(_MOST, sums[name] + more[name]) for name in more}))


def check(one: Any, path: str) -> None:
    """Raise InvalidRequest, naming the field below `path`, when `one` makes no sense."""
    if not isinstance(one, Interaction):
        raise InvalidRequest(f"`{path}` is not an Interaction.", param=path)
    if one.outcome not in OUTCOMES:
        raise fields.invalid(f"{path}.outcome", "one of " + ", ".join(OUTCOMES))
    fields.text(one.experiment, f"{path}.experiment", 100)
    fields.text(one.variant, f"{path}.variant", 100)
    for name in ("tokens_in", "tokens_out", "cost_nanos", "latency_ns"):
        fields.whole(getattr(one, name), f"{path}.{name}", 0, _MOST)
