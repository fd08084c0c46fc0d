from typing import Any

import pytest

from actors.errors import InvalidRequest
from deployments.config import Policy, parse_policy, problems
from deployments.policy import PolicyInForce
from deployments.structure import GatewayArgs, ProviderArgs
from tests.stack import policy

MODEL = {"targets": ["simulated/gpt-4o-mini"]}
PRICES = {"simulated": "openai"}
LIMIT = {"name": "l", "burst": 1}
BUDGET = {"name": "b", "amount_usd": 1}


def refused(raw: Any) -> str:
    """What is said of a policy that is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        PolicyInForce(parse_policy(raw, ("simulated",)), PRICES)
    return str(caught.value)


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"models": {}}, "user_config.models", "at least 1"),
    ({"models": {"": MODEL}}, "user_config.models", "at least 1"),
    ({"models": {"m": {}}}, "user_config.models.m.targets", "required"),
    ({"models": {"m": {"targets": []}}}, "user_config.models.m.targets", "at least 1"),
    ({"models": {"m": {"targets": ["noslash"]}}}, "models.m.targets", "provider/model"),
    ({"models": {"m": {"targets": ["other/x"]}}}, "models.m.targets", "simulated"),
    ({"models": {"m": MODEL | {"max_output_tokens": 0}}}, "models.m.max_output_tokens", "1"),
    (
        {"models": {"m": MODEL | {"max_output_tokens": "x"}}},
        "models.m.max_output_tokens",
        "integer",
    ),
    (
        {"models": {"m": MODEL | {"max_tokens_field": "x"}}},
        "models.m.max_tokens_field",
        "max_tokens",
    ),
    ({"models": {"m": {"targets": ["simulated/unheard-of"]}}}, "models.m.price", "free: true"),
    ({"models": {"m": MODEL | {"price": {}}}}, "models.m.price", "input_per_mtok"),
    (
        {"models": {"m": MODEL | {"price": {"input_per_mtok": -1, "output_per_mtok": 1}}}},
        "models.m.price.input_per_mtok",
        "0",
    ),
    (
        {"models": {"m": MODEL | {"price": {"input_per_mtok": 0, "output_per_mtok": 0}}}},
        "models.m.price",
        "free",
    ),
    (
        {"models": {"m": MODEL | {"price": {"input_per_mtok": 1e300, "output_per_mtok": 1}}}},
        "models.m.price",
        "1000000",
    ),
    ({"modles": {}}, "user_config.modles", "not permitted"),
    ({"limits": [LIMIT | {"rate": 0}]}, "user_config.limits.0.rate", "1"),
    ({"limits": [LIMIT | {"burst": 0}]}, "user_config.limits.0.burst", "1"),
    ({"limits": [LIMIT | {"burst": 1.5}]}, "user_config.limits.0.burst", "integer"),
    ({"limits": [LIMIT | {"scope": "planet"}]}, "user_config.limits.0.scope", "cluster"),
    ({"limits": [LIMIT | {"unit": "bytes"}]}, "user_config.limits.0.unit", "requests"),
    ({"limits": [LIMIT | {"per": "year"}]}, "user_config.limits.0.per", "second"),
    ({"limits": [LIMIT | {"name": "two words"}]}, "user_config.limits.0.name", "A-Za-z0-9"),
    ({"limits": [LIMIT, LIMIT]}, "limits", "twice"),
    ({"limits": LIMIT}, "user_config.limits", "tuple"),
    ({"budgets": [BUDGET | {"amount_usd": -1}]}, "user_config.budgets.0.amount_usd", "0"),
    ({"budgets": [BUDGET | {"amount_usd": "lots"}]}, "user_config.budgets.0.amount_usd", "number"),
    ({"budgets": [BUDGET | {"amount_usd": float("nan")}]}, "budgets.0.amount_usd", "0"),
    ({"budgets": [BUDGET | {"period": "decade"}]}, "user_config.budgets.0.period", "month"),
    ({"budgets": [BUDGET | {"timezone": "Mars/Olympus"}]}, "budgets.0.timezone", "time zone"),
    ({"budgets": [BUDGET | {"name": "a|b"}]}, "user_config.budgets.0.name", "A-Za-z0-9"),
    ({"budgets": [BUDGET, BUDGET]}, "budgets", "twice"),
    (
        {"budgets": [BUDGET | {"name": "daily", "scope": "team"}]},
        "user_config.budgets[0].name",
        "another than daily",
    ),
    ({"breakers": {"default": {"jitter": 2}}}, "user_config.breakers.default.jitter", "1"),
    ({"breakers": {"default": {"min_calls": 0}}}, "breakers.default.min_calls", "1"),
    ({"breakers": {"targets": {"a/b": {"x": 1}}}}, "breakers.targets.a/b.x", "not permitted"),
    ({"cache": {"ttl_s": -1}}, "user_config.cache.ttl_s", "0"),
    ({"cache": {"shared": "perhaps"}}, "user_config.cache.shared", "boolean"),
    ({"retries": {"attempts": 0}}, "user_config.retries.attempts", "1"),
    ({"traces": {"max_traces": 0}}, "user_config.traces.max_traces", "1"),
    ({"fallbacks": {"a": 1}}, "user_config.fallbacks.a", "string"),
]


@pytest.mark.parametrize(("changes", "path", "allowed"), WRONG)
def test_a_wrong_policy_is_told_by_path_and_what_is_allowed(
    changes: dict[str, Any], path: str, allowed: str
) -> None:
    """The path of the field, and what it may be."""
    said = refused({"models": {"m": MODEL}} | changes)
    assert path in said
    assert allowed in said


@pytest.mark.parametrize("raw", [None, [], "models", 3, {}])
def test_what_is_no_policy_at_all(raw: Any) -> None:
    """Said as well, from the root."""
    assert "user_config" in refused(raw)


def test_every_error_is_told_at_once() -> None:
    """Not one per try."""
    said = refused({"models": {"m": {"targets": []}}, "limits": [{"name": "x"}], "other": 1})
    for path in ("models.m.targets", "limits.0.burst", "user_config.other"):
        assert path in said


def test_the_small_policy_of_the_tests_is_good() -> None:
    """And so are the defaults of everything else."""
    parsed = parse_policy(policy(), ("simulated",))
    assert isinstance(parsed, Policy)
    assert parsed.retries.attempts == 3
    assert PolicyInForce(parsed, PRICES).revision == PolicyInForce(parsed, PRICES).revision


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": "Big Name", "base_url": "http://x", "api_key_env": "K"}, "name"),
        ({"name": "x", "base_url": "ftp://x", "api_key_env": "K"}, "base_url"),
        ({"name": "x", "base_url": "http://x"}, "api_key_env"),
        ({"name": "x", "base_url": "http://x", "api_key_env": "K", "api_key": "sk-1"}, "api_key"),
        ({"name": "x", "base_url": "http://x", "kind": "psychic"}, "kind"),
    ],
)
def test_a_provider_that_cannot_be(fields: dict[str, Any], path: str) -> None:
    """Each mistake names its field; a key never stands in a configuration."""
    with pytest.raises(ValueError, match=path):
        ProviderArgs(**fields)


def test_structure_is_bounded() -> None:
    """Times and sizes that no gateway can serve are refused with their path."""
    good = {"providers": [{"name": "s", "kind": "simulated", "base_url": "http://x/v1"}]}
    assert GatewayArgs.model_validate(good).max_body_bytes == 10 << 20
    for field, value in (("max_body_bytes", 1), ("drain_s", -1), ("name", "A B"), ("x", 1)):
        with pytest.raises(ValueError, match=field) as caught:
            GatewayArgs.model_validate(good | {field: value})
        assert problems(caught.value, "args")[0].startswith(f"args.{field}: ")  # type: ignore[arg-type]
