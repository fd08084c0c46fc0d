"""The price of every model that may be called: by policy, else from `genai-prices`.

A model without a price is refused: it never costs 0 by mistake. Looking a price up in
`genai-prices` takes long (tens of microseconds), so it is done once and kept until the
price changes by date or time of day.

Text tokens only, at the standard service tier: tokens written to a provider's cache are
billed as input, and fees for what a model does beside (searches, images) are not known
here. Where they matter, policy names a price that covers them.
"""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from actors import fields
from actors.cost_tracker import Usage
from actors.errors import InvalidRequest
from deployments.price_rates import Prices, Rates, Tier, flat, nanos

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

_NEVER_NS = 2**63 - 1
_FOREVER = timedelta(days=36_500)
_MAX_REMEMBERED = 10_000
_OVERRIDES = (
    "free",
    "input_per_mtok",
    "cached_input_per_mtok",
    "output_per_mtok",
    "reasoning_per_mtok",
    "per_call",
)


class Unpriced(InvalidRequest):
    """400: the model has no price, so nothing may be spent on it."""

    default_code = "model_not_priced"


class _Resolved(NamedTuple):
    prices: Prices
    until_ns: int


class PriceTable:
    """Prices by provider and model.

    overrides: policy, by model or by "provider/model": either {"free": true}, or dollars
        for 1,000,000 tokens: "input_per_mtok", "output_per_mtok", and where they differ
        "cached_input_per_mtok" (else as input), "reasoning_per_mtok" (else as output);
        "per_call" in dollars for each call.
    clock: Unix time in nanoseconds; prices may change by date and time of day.
    Raises InvalidRequest that names the field and what is allowed.
    """

    def __init__(
        self,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        if not isinstance(overrides or {}, Mapping):
            raise fields.invalid("prices", "a mapping of models to their prices")
        self._overrides = {
            model: _override(model, each) for model, each in (overrides or {}).items()
        }
        self._clock = clock
        self._resolved: dict[tuple[str, str], _Resolved] = {}

    def resolve(self, provider: str, model: str) -> Prices:
        """The prices in force now; take them once for a call, and use them to its end.

        provider: its id in `genai-prices`, or any other for models priced by policy.
        Raises Unpriced.
        """
        now = self._clock()
        found = self._resolved.get((provider, model))
        if found is None or now >= found.until_ns:
            found = self._look_up(provider, model, now)
            if len(self._resolved) >= _MAX_REMEMBERED:
                self._resolved.clear()
            self._resolved[provider, model] = found
        return found.prices

    def _look_up(self, provider: str, model: str, now: int) -> _Resolved:
        for name in (f"{provider}/{model}", model):
            if name in self._overrides:
                named = self._overrides[name]._replace(model=f"{provider}/{model}")
                return _Resolved(named, _NEVER_NS)
        # Here, because the package reads its whole table when it is imported, which a
        # gateway whose models are all priced by policy need not wait for.
        from genai_prices import __version__
        from genai_prices.data_snapshot import get_snapshot

        try:
            _, info = get_snapshot().find_provider_model(model, None, provider, None)
        except LookupError:
            raise _unpriced(provider, model, "it is not in the price table") from None
        at = datetime.fromtimestamp(now / 1e9, UTC)
        tiers, per_call = _tiers(provider, model, info.get_prices(at))
        prices = Prices(f"{provider}/{model}", f"genai-prices {__version__}", tiers, per_call)
        return _Resolved(prices, _next_change_ns(info, at))


def _tiers(provider: str, model: str, table: "ModelPrice") -> tuple[tuple[Tier, ...], int]:
    """All tiers of a model, each with every kind's rate, and its price for each call."""
    from genai_prices.types import TieredPrices

    def usd(kind: str, tokens: int) -> Any:
        price = getattr(table, kind)
        if isinstance(price, TieredPrices):
            reached = [tier.price for tier in price.tiers if tokens > tier.start]
            return reached[-1] if reached else price.base
        return price

    kinds = ("input_mtok", "cache_read_mtok", "output_mtok", "output_reasoning_mtok")
    if table.input_mtok is None:
        raise _unpriced(provider, model, "the price table has no price of its input tokens")
    starts = {-1}
    for kind in kinds:
        price = getattr(table, kind)
        if isinstance(price, TieredPrices):
            starts.update(tier.start for tier in price.tiers)
    tiers = []
    for start in sorted(starts):
        input, cached, output, reasoning = (usd(kind, start + 1) for kind in kinds)
        # Models without a price of output (embeddings) have none; should they ever tell
        # of some, it must not be free.
        output = input if output is None else output
        cached = input if cached is None else cached
        reasoning = output if reasoning is None else reasoning
        rates = Rates(nanos(input), nanos(cached), nanos(output), nanos(reasoning))
        tiers.append(Tier(start, rates))
    per_call = nanos(table.requests_kcount or 0)
    if not per_call and not any(any(tier.rates) for tier in tiers):
        raise _unpriced(provider, model, "the price table has it at 0")
    return tuple(tiers), -(-per_call // 1_000)


def _next_change_ns(info: "ModelInfo", at: datetime) -> int:
    """When a model's price may be another one: a date, or a time of day."""
    from genai_prices.types import ModelPrice, StartDateConstraint, TimeOfDateConstraint

    if isinstance(info.prices, ModelPrice):
        return _NEVER_NS
    changes = [at + _FOREVER]
    for each in info.prices:
        rule = each.constraint
        if isinstance(rule, StartDateConstraint):
            changes.append(datetime.combine(rule.start_date, datetime.min.time(), UTC))
        elif isinstance(rule, TimeOfDateConstraint):
            for edge in (rule.start_time, rule.end_time):
                today = datetime.combine(at.date(), edge, edge.tzinfo or UTC)
                changes += [today + timedelta(days=days) for days in (-1, 0, 1, 2)]
    return int(min(change for change in changes if change > at).timestamp()) * 10**9


def _override(model: str, given: Mapping[str, Any]) -> Prices:
    path = f"prices.{model}"
    given = fields.mapping(given, path, _OVERRIDES)
    text = json.dumps({name: str(value) for name, value in given.items()}, sort_keys=True)
    version = "policy " + sha256(text.encode()).hexdigest()[:12]
    if given.get("free", False) is not False:
        if given["free"] is not True or len(given) > 1:
            raise fields.invalid(f"{path}.free", "true, without any price beside it")
        return flat(model, "free", Rates(0, 0, 0, 0))

    def price(name: str, otherwise: int | None) -> int:
        value = given.get(name)
        if value is None and otherwise is not None:
            return otherwise
        try:
            return nanos(value)
        except ValueError:
            raise fields.invalid(f"{path}.{name}", "dollars, from 0 to 1000000") from None

    input, output = price("input_per_mtok", None), price("output_per_mtok", None)
    cached, reasoning = price("cached_input_per_mtok", input), price("reasoning_per_mtok", output)
    per_call = price("per_call", 0)
    rates = Rates(input, cached, output, reasoning)
    if not any(rates) and not per_call:
        raise fields.invalid(path, "{free: true} where a model costs nothing")
    return flat(model, version, rates, per_call)


def _unpriced(provider: str, model: str, why: str) -> Unpriced:
    return Unpriced(
        f"Model '{model}' of provider '{provider}' has no price ({why}), so no budget can pay "
        f"for it. In the policy, put under `prices` either '{model}': {{input_per_mtok: ..., "
        f"output_per_mtok: ...}} (dollars) or '{model}': {{free: true}}.",
        param="model",
    )


__all__ = ["PriceTable", "Prices", "Rates", "Tier", "Unpriced", "Usage"]
