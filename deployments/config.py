"""Policy: the half of the configuration that changes in place (`user_config`), and its reader."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from actors import periods
from actors.errors import InvalidRequest
from deployments.structure import Part

NANOS = 1_000_000_000
_PERIOD_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][\w.:/@ -]*$")]
Identifier = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Seconds = Annotated[float, Field(ge=0, le=31 * 86_400)]
Share = Annotated[float, Field(ge=0, le=1)]


class Price(Part):
    """US dollars per million tokens, or `free`."""

    input_per_mtok: Annotated[float, Field(ge=0)] | None = None
    cached_input_per_mtok: Annotated[float, Field(ge=0)] | None = None
    output_per_mtok: Annotated[float, Field(ge=0)] | None = None
    reasoning_per_mtok: Annotated[float, Field(ge=0)] | None = None
    free: bool = False

    @model_validator(mode="after")
    def _whole(self) -> "Price":
        if not self.free and (self.input_per_mtok is None or self.output_per_mtok is None):
            raise ValueError("give input_per_mtok and output_per_mtok, or free: true")
        return self


class Model(Part):
    """A model that clients may name.

    targets: `provider/model`, in the order in which they are tried.
    max_output_tokens: the most output of a request that names no maximum of its own.
    max_tokens_field: what the targets call that maximum.
    """

    targets: Annotated[tuple[Name, ...], Field(min_length=1)]
    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 4_096
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    price: Price | None = None
    cache: bool = True


class Limit(Part):
    """`rate` units per `per`, with room for `burst` at once.

    debt: how far below empty high-priority requests may draw; default: one burst for
    request limits where a key may be high.
    subjects: those whom it binds (team names, key ids, models, ...); None: everybody.
    """

    name: Identifier
    scope: Literal["cluster", "team", "key", "model", "key_model", "user"] = "cluster"
    unit: Literal["requests", "tokens", "concurrent"] = "requests"
    rate: Annotated[int, Field(ge=1, le=10**12)] = 1
    per: Literal["second", "minute", "hour", "day"] = "second"
    burst: Annotated[int, Field(ge=1, le=10**12)]
    debt: Annotated[int, Field(ge=0, le=10**12)] | None = None
    subjects: tuple[str, ...] | None = None


class Budget(Part):
    """At most `amount_usd` in each calendar period."""

    name: Identifier
    scope: Literal["cluster", "team", "key", "model", "user"] = "cluster"
    period: Literal["day", "week", "month", "total"] = "day"
    amount_usd: Annotated[float, Field(ge=0, le=1e9)]
    timezone: str = "UTC"
    subjects: tuple[str, ...] | None = None

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            periods.zone(name)
        except ValueError:
            raise ValueError("must be the name of a time zone, such as UTC") from None
        return name


class Breaker(Part):
    """When a target is left alone; see `actors/circuit_breaker.py`."""

    failure_threshold: Annotated[int, Field(ge=0, le=100_000)] = 5
    window_s: Annotated[float, Field(ge=0.001, le=3600)] = 20.0
    min_calls: Annotated[int, Field(ge=1, le=100_000)] = 10
    failure_rate: Share = 0.5
    slow_rate: Share = 1.0
    slow_s: Seconds = 60.0
    # Every replica must have heard of "open" before "half open" can begin.
    recovery_timeout_s: Annotated[float, Field(ge=2, le=86_400)] = 60.0
    recovery_factor: Annotated[float, Field(ge=1, le=100)] = 2.0
    recovery_cap_s: Annotated[float, Field(ge=2, le=86_400)] = 600.0
    jitter: Share = 0.1
    success_threshold: Annotated[int, Field(ge=1, le=1_000)] = 3
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0


class Breakers(Part):
    """The rule for all targets, and those of single ones."""

    default: Breaker = Breaker()
    targets: dict[str, Breaker] = Field({})


class Cache(Part):
    """How answers are kept. shared: across tenants (off: nobody sees another's answers)."""

    ttl_s: Seconds = 300.0
    stale_while_revalidate_s: Seconds = 0.0
    stale_if_error_s: Seconds = 3_600.0
    max_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = 256 << 20
    max_entries: Annotated[int, Field(ge=0, le=10**8)] = 10_000
    max_entry_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = 1 << 20
    shared: bool = False


class Retries(Part):
    """Full jitter between 0 and min(cap, base * 2**n); see `deployments/retries.py`."""

    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    base_s: Seconds = 0.5
    cap_s: Seconds = 8.0
    budget_share: Share = 0.2
    budget_floor: Annotated[int, Field(ge=0, le=10_000)] = 10


class Traces(Part):
    """How many of the last traces are kept, and how many bytes of them."""

    max_traces: Annotated[int, Field(ge=1, le=10**7)] = 10_000
    max_bytes: Annotated[int, Field(ge=1, le=1 << 36)] = 64 << 20


class Needed(Part):
    """What a request does while a singleton is silent that it can't do without.

    then: `wait` until the request's own time is over, or `refuse` once nothing has been heard of
    it for `after_s` (or for half of the request's time, where that is less).
    """

    then: Literal["wait", "refuse"] = "wait"
    after_s: Seconds = 5.0


class Spared(Part):
    """The same where a request can go on without it: `go_on`, after `after_s`."""

    then: Literal["wait", "go_on", "refuse"] = "wait"
    after_s: Seconds = 5.0


class Unreachable(Part):
    """What a request does while a singleton is away for longer than a restart takes.

    Money is never spent unasked: without the cost tracker nothing goes on.
    """

    rate_limiter: Spared = Spared()
    response_cache: Spared = Spared(then="go_on")
    circuit_breaker: Spared = Spared(then="go_on")
    cost_tracker: Needed = Needed()
    key_store: Needed = Needed()
    prompt_registry: Needed = Needed()
    experiment_manager: Needed = Needed()


class Policy(Part):
    """Policy: what is allowed, at what price, and what happens when things fail."""

    models: Annotated[dict[Name, Model], Field(min_length=1)]
    limits: Annotated[tuple[Limit, ...], Field(max_length=1_000)] = ()
    budgets: Annotated[tuple[Budget, ...], Field(max_length=1_000)] = ()
    breakers: Breakers = Breakers()
    cache: Cache = Cache()
    retries: Retries = Retries()
    traces: Traces = Traces()
    fallbacks: dict[str, str] = Field({})
    unreachable: Unreachable = Unreachable()

    @model_validator(mode="after")
    def _names_once(self) -> "Policy":
        for kind, named in (("limits", self.limits), ("budgets", self.budgets)):
            names = [part.name for part in named]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind}: the name {twice[0]} is used twice")
        for name, model in self.models.items():
            for target in model.targets:
                if "/" not in target:
                    raise ValueError(f"models.{name}.targets: {target} is not provider/model")
        return self


def problems(error: ValidationError, root: str) -> list[str]:
    """One line per error: the field's path, what was found, what is allowed."""
    lines = []
    for found in error.errors(include_url=False):
        path = ".".join([root, *(str(part) for part in found["loc"])])
        seen = found.get("input")
        shown = f" (found {seen!r:.80})" if not isinstance(seen, dict | list) else ""
        lines.append(f"{path}: {found['msg']}{shown}")
    return lines


def parse_policy(raw: Any, providers: tuple[str, ...] | None = None) -> Policy:
    """Read a policy. Raises InvalidRequest that lists every error with its path.

    providers: names that targets may use; None skips that check.
    """
    try:
        policy = Policy.model_validate(raw)
    except ValidationError as error:
        raise InvalidRequest("; ".join(problems(error, "user_config"))) from None
    unknown = [
        f"user_config.models.{name}.targets: {target} names no provider of this gateway "
        f"(there is {', '.join(providers or ())})"
        for name, model in policy.models.items()
        for target in model.targets
        if providers is not None and target.partition("/")[0] not in providers
    ]
    if unknown:
        raise InvalidRequest("; ".join(unknown))
    return policy
