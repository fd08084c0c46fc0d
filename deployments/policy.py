"""A policy as the request path and the singletons use it: resolved once, in integers."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from actors import budget_terms
from actors.breaker_policy import BreakerPolicy
from actors.circuit_breaker import MAX_TARGETS
from actors.errors import InvalidRequest
from actors.limits import Take, read_limits
from deployments.config import _PERIOD_S, NANOS, Breaker, Limit, Model, Policy, Price
from deployments.prices import Prices, PriceTable, Unpriced


def ns(seconds: float) -> int:
    """Seconds as integer nanoseconds."""
    return round(seconds * NANOS)


_MAX_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Target:
    """A provider's model. name: `provider/model`; price_id: the provider's name in `table`."""

    name: str
    provider: str
    model: str
    timeout_s: float
    table: PriceTable
    price_id: str

    def prices(self) -> Prices:
        """Those in force now; a call takes them once, and keeps them to its end."""
        return self.table.resolve(self.price_id, self.model)


@dataclass(frozen=True, slots=True)
class Route:
    """What a public model name stands for."""

    name: str
    targets: tuple[Target, ...]
    max_output_tokens: int
    max_tokens_field: str
    cache: bool


@dataclass(frozen=True, slots=True)
class Who:
    """Under whose limits and budgets a request falls."""

    key: str
    team: str
    model: str
    user: str

    def subject(self, scope: str) -> str:
        """The value that this scope counts by ("" for the cluster)."""
        if scope == "key_model":
            return f"{self.key}|{self.model}"
        return budget_terms.subject_of(scope, self.key, self.team, self.model, self.user)


class _Bound(NamedTuple):
    """The limits (by unit, a quantity of 1 each) and budgets that bind somebody."""

    requests: tuple[Take, ...]
    tokens: tuple[Take, ...]
    slots: tuple[Take, ...]
    budgets: tuple[tuple[str, str], ...]


class PolicyInForce:
    """A checked policy, resolved.

    price_ids: provider → its name in the price table.
    Raises InvalidRequest, with the path of the field, for what only shows once it is resolved.
    """

    def __init__(self, policy: Policy, price_ids: Mapping[str, str]) -> None:
        self.policy = policy
        self._price_ids = price_ids
        raw = orjson.dumps(policy.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
        self.revision = hashlib.sha256(raw).hexdigest()[:16]
        table = PriceTable()
        self.routes = {
            name: self._route(name, model, table) for name, model in policy.models.items()
        }
        self._known: dict[Who, _Bound] = {}
        self._check()

    def _route(self, name: str, model: Model, table: PriceTable) -> Route:
        targets = []
        for target in model.targets:
            provider, _, its_model = target.partition("/")
            price_id = self._price_ids.get(provider, provider)
            if model.price is not None:
                table = _own_table(f"user_config.models.{name}.price", its_model, model.price)
            made = Target(
                target, provider, its_model, self.breaker(target).timeout_s, table, price_id
            )
            try:
                made.prices()
            except Unpriced:
                raise InvalidRequest(
                    f"user_config.models.{name}.price: {target} has no known price; give "
                    "input_per_mtok and output_per_mtok (dollars per million tokens), or free: true"
                ) from None
            targets.append(made)
        return Route(
            name, tuple(targets), model.max_output_tokens, model.max_tokens_field, model.cache
        )

    def _check(self) -> None:
        """Let each singleton's own reader have its word before anything is in force anywhere."""
        try:
            read_limits(self.for_rate_limiter())
            budget_terms.parse(self.for_cost_tracker())
        except InvalidRequest as error:
            raise InvalidRequest(f"user_config.{error.param}: {error}") from None
        try:
            BreakerPolicy(self.for_circuit_breaker(), MAX_TARGETS)
        except InvalidRequest as error:
            raise InvalidRequest(f"user_config.breakers.{error}") from None

    def breaker(self, target: str) -> Breaker:
        """The breaker's rule for one target."""
        return self.policy.breakers.targets.get(target, self.policy.breakers.default)

    def request_takes(self, who: Who) -> tuple[Take, ...]:
        """One unit of every request limit that binds this request."""
        return self._bound(who).requests

    def admission_takes(self, who: Who, tokens: int) -> tuple[Take, ...]:
        """Tokens, and a slot, of every other limit that binds this request."""
        bound = self._bound(who)
        if not bound.tokens:
            return bound.slots
        return (*(take._replace(quantity=tokens) for take in bound.tokens), *bound.slots)

    def budget_subjects(self, who: Who) -> tuple[tuple[str, str], ...]:
        """(budget, subject) of every budget of the policy that binds this request.

        The cluster's always do. So do those that operators have set, unnamed: which they are,
        the cost tracker sees by whose charge it is, so that they bind as soon as they are set.
        """
        return self._bound(who).budgets

    def _bound(self, who: Who) -> "_Bound":
        """What binds the same key, team, model and user again and again is found out once."""
        found = self._known.get(who)
        if found is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            found = self._known[who] = _Bound(
                requests=self._takes(who, "requests"),
                tokens=self._takes(who, "tokens"),
                slots=self._takes(who, "concurrent"),
                budgets=tuple(
                    (budget.name, who.subject(budget.scope))
                    for budget in self.policy.budgets
                    if _binds(budget.scope, budget.subjects, who)
                ),
            )
        return found

    def _takes(self, who: Who, unit: str) -> tuple[Take, ...]:
        return tuple(
            Take(limit.name, who.subject(limit.scope), 1)
            for limit in self.policy.limits
            if limit.unit == unit and _binds(limit.scope, limit.subjects, who)
        )

    def for_rate_limiter(self) -> dict[str, Any]:
        """What `rate_limiter.configure` takes."""
        return {"limits": [_limit(limit) for limit in self.policy.limits]}

    def for_cost_tracker(self) -> dict[str, Any]:
        """What `cost_tracker.configure` takes."""
        return {
            "budgets": [
                {
                    "name": b.name,
                    "scope": b.scope,
                    "period": b.period,
                    "amount_nanos": round(b.amount_usd * NANOS),
                    "timezone": b.timezone,
                }
                for b in self.policy.budgets
            ],
            "cluster": "default",
        }

    def for_circuit_breaker(self) -> dict[str, Any]:
        """What `circuit_breaker.configure` takes."""
        breakers = self.policy.breakers
        return {
            "default": _breaker(breakers.default),
            "targets": {name: _breaker(breaker) for name, breaker in breakers.targets.items()},
        }

    def for_response_cache(self) -> dict[str, Any]:
        """What `response_cache.configure` takes."""
        cache = self.policy.cache
        return {
            "max_bytes": cache.max_bytes,
            "max_entries": cache.max_entries,
            "max_entry_bytes": cache.max_entry_bytes,
        }

    def for_trace_collector(self) -> dict[str, Any]:
        """What `trace_collector.configure` takes."""
        return self.policy.traces.model_dump()


def _own_table(path: str, model: str, price: Price) -> PriceTable:
    try:
        return PriceTable({model: price_override(price)})
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error}") from None


def _binds(scope: str, subjects: tuple[str, ...] | None, who: Who) -> bool:
    subject = who.subject(scope)
    return (scope == "cluster" or subject != "") and (subjects is None or subject in subjects)


def _limit(limit: Limit) -> dict[str, Any]:
    debt = limit.debt if limit.debt is not None else limit.burst
    return {
        "name": limit.name,
        "scope": limit.scope,
        "unit": limit.unit,
        "rate": limit.rate,
        "period_ns": _PERIOD_S[limit.per] * NANOS,
        "burst": limit.burst,
        "debt": debt if limit.unit == "requests" else 0,
    }


def _breaker(breaker: Breaker) -> dict[str, Any]:
    return {
        "failure_threshold": breaker.failure_threshold,
        "window": "time",
        "window_ns": ns(breaker.window_s),
        "min_calls": breaker.min_calls,
        "failure_rate": breaker.failure_rate,
        "slow_rate": breaker.slow_rate,
        "slow_ns": ns(breaker.slow_s),
        "recovery_ns": ns(breaker.recovery_timeout_s),
        "recovery_factor": breaker.recovery_factor,
        "recovery_cap_ns": ns(breaker.recovery_cap_s),
        "jitter": breaker.jitter,
        "success_threshold": breaker.success_threshold,
        "half_open_max_ns": None,
    }


def price_override(price: Price) -> dict[str, Any]:
    """A price as `PriceTable` takes it."""
    if price.free:
        return {"free": True}
    return {key: value for key, value in price.model_dump().items() if value is not None}
