"""Prices as integers, and what a call costs at them."""

from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, NamedTuple

from actors.cost_tracker import Usage

MTOK = 1_000_000
_NANOS = 10**9
_MAX_USD = 1_000_000


class Rates(NamedTuple):
    """Nano-dollars for 1,000,000 tokens of each kind."""

    input: int
    cached: int
    output: int
    reasoning: int


class Tier(NamedTuple):
    """Rates for all tokens of a call that has more than `above` input tokens."""

    above: int
    rates: Rates


class Prices(NamedTuple):
    """What the calls of one model cost.

    model: "provider/model". version: which prices these are, for the ledger.
    tiers: at least one, the first above -1, in rising order.
    per_call: nano-dollars for each call, beside its tokens.
    """

    model: str
    version: str
    tiers: tuple[Tier, ...]
    per_call: int = 0

    def cost(self, usage: Usage) -> int:
        """What a call with these tokens costs: nano-dollars, rounded up."""
        input, cached, output, reasoning = usage
        rates = self.tiers[0].rates
        for tier in self.tiers[1:]:
            if input > tier.above:
                rates = tier.rates
        cached, reasoning = min(cached, input), min(reasoning, output)
        total = (input - cached) * rates.input + cached * rates.cached
        total += (output - reasoning) * rates.output + reasoning * rates.reasoning
        return self.per_call - (-total // MTOK)

    def worst_case(self, input_tokens: int, max_output_tokens: int) -> int:
        """The most that a call with at most these tokens can cost: nano-dollars, rounded up."""
        reached = [tier.rates for tier in self.tiers if input_tokens > tier.above]
        input_rate = max(max(rates.input, rates.cached) for rates in reached)
        output_rate = max(max(rates.output, rates.reasoning) for rates in reached)
        total = input_tokens * input_rate + max_output_tokens * output_rate
        return self.per_call - (-total // MTOK)


def flat(model: str, version: str, rates: Rates, per_call: int = 0) -> Prices:
    """Prices that are the same for calls of any length."""
    return Prices(model, version, (Tier(-1, rates),), per_call)


def nanos(usd: Any) -> int:
    """Dollars as nano-dollars, rounded up.

    Raises ValueError for what is no amount from 0 to 1,000,000.
    """
    if isinstance(usd, bool) or not isinstance(usd, int | float | str | Decimal):
        raise ValueError(f"{usd!r} is no amount of dollars")
    try:
        # By way of its text: 0.1 means a tenth, not the nearest binary fraction.
        amount = Decimal(str(usd))
    except InvalidOperation:
        raise ValueError(f"{usd!r} is no amount of dollars") from None
    if not amount.is_finite() or not 0 <= amount <= _MAX_USD:
        raise ValueError(f"{usd!r} is no amount from 0 to {_MAX_USD:,} dollars")
    return int((amount * _NANOS).to_integral_value(ROUND_CEILING))
