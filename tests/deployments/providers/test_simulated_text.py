import json
from typing import Any

import pytest

from deployments.providers.simulated_text import Reply, compose, count_prompt, example

MESSAGES = [{"role": "user", "content": "Hello there"}]


def said(
    request: dict[str, Any],
    length: int = 20,
    most: int | None = None,
    fill: bool = False,
    seed: int = 0,
) -> Reply:
    """The reply to a short question."""
    return compose({"messages": MESSAGES, **request}, length, most, fill, seed)


@pytest.mark.parametrize(
    ("length", "most", "fill", "pieces", "finish"),
    [
        (20, None, False, 20, "stop"),
        (20, None, True, 20, "stop"),
        (20, 20, False, 20, "stop"),
        (20, 5, False, 5, "length"),
        (20, 300, False, 20, "stop"),
        (20, 300, True, 300, "length"),
        (20, 1, True, 1, "length"),
    ],
)
def test_a_reply_is_as_long_as_told(
    length: int, most: int | None, fill: bool, pieces: int, finish: str
) -> None:
    """A piece is a token, so that a test can make each call cost a known amount."""
    reply = said({}, length, most, fill)
    assert (len(reply.pieces), reply.finish) == (pieces, finish)


def test_the_same_question_and_seed_get_the_same_words() -> None:
    """Replies can be compared from run to run, and another prompt reads differently."""
    assert said({}) == said({})
    others = {
        "".join(said({"messages": [{"role": "user", "content": str(i)}]}).pieces) for i in range(20)
    }
    assert len(others) > 3


@pytest.mark.parametrize("length", [2, 3, 50])
def test_json_mode_answers_json_of_the_asked_length(length: int) -> None:
    """JSON mode is valid JSON and still costs exactly what it should."""
    reply = said({"response_format": {"type": "json_object"}}, length, length, True)
    assert len(reply.pieces) == length
    assert isinstance(json.loads("".join(reply.pieces)), dict)


SCHEMA = {
    "type": "object",
    "required": ["city", "days", "kind", "tags", "deep", "maybe", "flag"],
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 3},
        "kind": {"enum": ["rain", "sun"]},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "deep": {"$ref": "#/$defs/deep"},
        "maybe": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        "flag": {"type": ["boolean", "null"]},
        "unasked": {"type": "string"},
    },
    "$defs": {"deep": {"type": "object", "properties": {"x": {"const": 7}}}},
}
FITTING = {
    "city": "example",
    "days": 3,
    "kind": "rain",
    "tags": ["example", "example"],
    "deep": {"x": 7},
    "maybe": None,
    "flag": True,
}


def test_an_example_fits_its_schema() -> None:
    """Tool arguments and structured outputs are what the caller's schema asks for."""
    assert example(SCHEMA) == FITTING


def test_an_example_of_a_schema_without_end_ends() -> None:
    """A schema that refers to itself, twice over, is answered in bounded time and size."""
    node = {"type": "array", "minItems": 10**6, "items": {"$ref": "#"}}
    assert len(json.dumps(example(node))) < 100_000


TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "time"}},
]


@pytest.mark.parametrize(
    ("choice", "last_role", "tool"),
    [
        (None, "user", None),
        ("none", "user", None),
        ("auto", "user", "weather"),
        ("auto", "tool", None),
        ("required", "user", "weather"),
        ({"type": "function", "function": {"name": "time"}}, "user", "time"),
    ],
)
def test_tools_are_called_when_asked_for(choice: Any, last_role: str, tool: str | None) -> None:
    """A tool is called by name or on demand, with arguments that are JSON; else there is text."""
    messages = [{"role": last_role, "content": "?"}]
    reply = said({"tools": TOOLS, "tool_choice": choice, "messages": messages})
    assert reply.tool == tool
    if tool is not None:
        assert reply.finish == "tool_calls"
        arguments = json.loads("".join(reply.pieces))
        assert arguments == (FITTING if tool == "weather" else {})


def test_a_schema_for_the_reply_is_followed() -> None:
    """Structured output is an object of that schema."""
    shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    assert json.loads("".join(said({"response_format": shape}).pieces)) == FITTING


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("", 6),
        ("abcd", 7),
        ("abcde", 8),
        (None, 6),
        ([{"type": "text", "text": "abcd"}, {"type": "image_url", "image_url": {}}], 92),
    ],
)
def test_a_prompt_is_counted_by_the_formula(content: Any, tokens: int) -> None:
    """Input tokens follow the documented formula, images and empty messages included."""
    assert count_prompt({"messages": [{"role": "user", "content": content}]}) == tokens


def test_tools_count_as_input() -> None:
    """What is sent along is billed along."""
    plain = count_prompt({"messages": MESSAGES})
    assert count_prompt({"messages": MESSAGES, "tools": TOOLS}) > plain + 50
