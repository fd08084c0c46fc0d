"""What shares a cache key, and what must not."""

import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from actors.errors import InvalidRequest
from deployments.cache_key import SCHEMA_VERSION, TRANSPORT_FIELDS, cache_key

BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hello"}],
    "temperature": 0.2,
}

SHAPING = [
    ("model", "other"),
    ("messages", [{"role": "user", "content": "hello "}]),
    ("messages", [{"role": "system", "content": "hello"}]),
    ("temperature", 0.3),
    ("temperature", None),
    ("top_p", 0.5),
    ("max_tokens", 10),
    ("max_completion_tokens", 10),
    ("n", 2),
    ("stop", ["."]),
    ("seed", 7),
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", "none"),
    ("parallel_tool_calls", False),
    ("response_format", {"type": "json_object"}),
    ("logprobs", True),
    ("top_logprobs", 3),
    ("logit_bias", {"50256": -100}),
    ("presence_penalty", 0.1),
    ("frequency_penalty", 0.1),
    ("reasoning_effort", "high"),
    ("modalities", ["text"]),
    ("service_tier", "flex"),
    ("a_field_nobody_knows_yet", 1),
]

# What JSON escapes, what ends a line of an event stream, what takes UTF-8 several bytes.
LETTERS = 'ab1 \\"/[]{}:,\x00\n\r\x7f\u00e9\u2028\u20ac\U0001f600'
texts = st.text(LETTERS)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(
    st.sampled_from(["messages", "temperature", "tools", "seed", "x", *sorted(TRANSPORT_FIELDS)]),
    json_values,
    max_size=6,
)


def key(body: dict[str, Any], tenant: str = "t", model: str = "m", endpoint: str = "chat") -> str:
    """The key of a body, of one tenant and model unless said otherwise."""
    return cache_key(tenant, model, endpoint, body)


def shuffled(value: Any) -> Any:
    """The same JSON with the members of every object in reverse order."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(list(value))}
    if isinstance(value, list):
        return [shuffled(item) for item in value]
    return value


def shaping_of(body: dict[str, Any]) -> Any:
    """An independent reading of which question a body asks, as comparable text."""

    def plain(value: Any, top: bool) -> Any:
        if isinstance(value, dict):
            return {
                "object": sorted((name, repr(plain(item, False))) for name, item in value.items())
            }
        if isinstance(value, list):
            return [plain(item, False) for item in value]
        if top and isinstance(value, float) and value == int(value) and abs(value) < 2**53:
            return int(value)
        return value

    return repr(
        sorted(
            (name, repr(plain(value, True)))
            for name, value in body.items()
            if name not in TRANSPORT_FIELDS
        )
    )


@pytest.mark.parametrize(("field", "value"), SHAPING)
def test_every_parameter_that_shapes_the_answer_is_in_the_key(field: str, value: Any) -> None:
    """A request that differs in one parameter, known or not, asks another question."""
    assert key({**BODY, field: value}) != key(BODY)


def test_shaping_parameters_differ_pairwise() -> None:
    """No two of those variants meet."""
    assert len({key({**BODY, field: value}) for field, value in SHAPING}) == len(SHAPING)


@pytest.mark.parametrize("field", sorted(TRANSPORT_FIELDS))
def test_transport_fields_are_not_in_the_key(field: str) -> None:
    """How an answer is delivered, or what is kept of the call, asks nothing."""
    assert key({**BODY, field: "anything"}) == key(BODY)


def test_tenant_model_and_endpoint_are_in_the_key() -> None:
    """I6: the same body of another tenant, model or endpoint has another key."""
    keys = {
        key(BODY),
        key(BODY, tenant="other"),
        key(BODY, model="other"),
        key(BODY, endpoint="other"),
        key(BODY, tenant="m", model="t"),
    }
    assert len(keys) == 5


def test_the_key_is_a_full_sha_256_over_the_schema_version() -> None:
    """Nothing is cut off, and a new schema version means new keys."""
    text = orjson.dumps([SCHEMA_VERSION, "t", "chat", "m", BODY], option=orjson.OPT_SORT_KEYS)
    assert key(BODY) == hashlib.sha256(text).hexdigest()
    assert len(key(BODY)) == 64


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ({"temperature": 1}, {"temperature": 1.0}, True),
        ({"temperature": 0}, {"temperature": -0.0}, True),
        ({"temperature": 1}, {"temperature": True}, False),
        ({"temperature": 1}, {"temperature": "1"}, False),
        ({"stop": None}, {}, False),
        ({"seed": 2**63}, {"seed": 2**63 + 1}, False),
        ({"seed": 2**53}, {"seed": float(2**53)}, False),
    ],
)
def test_numbers_are_compared_by_value(left: Any, right: Any, same: bool) -> None:
    """1 and 1.0 are one number; truth values, texts and null are none."""
    assert (key(left) == key(right)) is same


@pytest.mark.parametrize("value", [2**64, "\ud800", [[]]], ids=["number", "surrogate", "nesting"])
def test_what_has_no_canonical_form_is_an_invalid_request(value: Any) -> None:
    """A body that cannot be written down again is refused as the client's mistake."""
    if value == [[]]:
        for _ in range(300):
            value = [value]
    with pytest.raises(InvalidRequest, match="canonical form"):
        key({"x": value})


@given(bodies)
def test_order_of_members_does_not_matter(body: dict[str, Any]) -> None:
    """Objects are unordered, at every depth."""
    assert key(shuffled(body)) == key(body)


@given(bodies, bodies)
def test_equal_keys_mean_equal_questions(left: dict[str, Any], right: dict[str, Any]) -> None:
    """I6: two bodies share a key exactly when all that shapes the answer is the same."""
    assert (key(left) == key(right)) == (shaping_of(left) == shaping_of(right))


@given(texts, texts, texts, texts)
def test_no_two_tenants_meet(tenant: str, model: str, other: str, other_model: str) -> None:
    """I6: names are delimited, whatever characters they hold."""
    assume((tenant, model) != (other, other_model))
    assert key(BODY, tenant, model) != key(BODY, other, other_model)
