"""What the simulated provider says, and how it counts tokens.

A reply is a list of pieces, and a piece is a token: a common word or a punctuation mark, each of
which is one token in `cl100k_base` and `o200k_base` too, so that a count of the text agrees with
the usage. A prompt is counted by a formula, which needs no tokenizer:

    3 + Σ over messages (3 + ⌈characters / 4⌉ + 85 for each part that is not text)
      + ⌈characters of the tools' and the response format's JSON / 4⌉
"""

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any
from zlib import crc32

import orjson

_PROSE = (
    "The short answer is that demand grew faster than supply , and the cost of waiting is higher "
    "than it looks . Sales rose in most regions , while returns stayed low and margins held . "
    "Three things stand out from the data . First , a small group of customers brings most of the "
    "revenue , so keeping them matters more than finding new ones . Second , response times got "
    "worse in the second half of the month , which explains part of the drop in satisfaction . "
    "Third , prices have room to move , but only where the product is hard to replace . We suggest "
    "a simple plan . Start with the largest accounts , measure the effect every week , and stop "
    "what does not work . Teams should share one list of open questions and review it together . "
    "The main risk is time , because a late decision costs more than a wrong one that can be "
    "changed . If the trend holds , the goal for this year is within reach . Please check the "
    "numbers again before you act on them ."
)
_WORDS = _PROSE.split()
_PIECES = [word if word in ".," else f" {word}" for word in _WORDS]
_STARTS = [0] + [i + 1 for i, word in enumerate(_WORDS[:-1]) if word == "."]
_MAX_DEPTH = 16
_MAX_VALUES = 1000


@dataclass(frozen=True, slots=True)
class Reply:
    """What is said, piece by piece.

    pieces: one token each.
    finish: "stop", "length" or "tool_calls".
    tool: the function that is called; its arguments are then the pieces. None for text.
    """

    pieces: list[str]
    finish: str
    tool: str | None = None


def compose(request: dict[str, Any], length: int, most: int | None, fill: bool, seed: int) -> Reply:
    """The reply to a request: the same request and seed get the same words.

    length: tokens to say when nothing else decides.
    most: the request's own maximum, None without one.
    fill: say exactly `most` tokens where the words are free.
    Tool arguments and JSON by schema are as long as they must be, and are cut at `most`.
    """
    wanted = length
    if most is not None:
        wanted = most if fill else min(length, most)
    start = crc32(orjson.dumps(request.get("messages")), seed & 0xFFFFFFFF)
    finish = "length" if most is not None and (fill or length > most) else "stop"
    tool = _tool_to_call(request)
    if tool is not None:
        arguments = example(tool.get("parameters") or {})
        return _cut(orjson.dumps(arguments).decode(), most, "tool_calls", str(tool["name"]))
    shape = request.get("response_format") or {}
    if shape.get("type") == "json_schema":
        schema = (shape.get("json_schema") or {}).get("schema") or {}
        return _cut(orjson.dumps(example(schema)).decode(), most, "stop", None)
    if shape.get("type") == "json_object":
        if wanted < 2:
            return Reply(["{}"], finish)
        return Reply(['{"answer": "', *_words(start, wanted - 2), '"}'], finish)
    return Reply(_words(start, wanted), finish)


def count_prompt(request: dict[str, Any]) -> int:
    """Input tokens of a request, by the formula above."""
    total = 3
    for message in request["messages"]:
        total += 3
        content = message.get("content")
        if isinstance(content, str):
            total += -(-len(content) // 4)
        elif isinstance(content, list):
            for part in content:
                text = part.get("text") if isinstance(part, dict) else None
                total += -(-len(text) // 4) if isinstance(text, str) else 85
    for name in ("tools", "response_format"):
        if request.get(name):
            total += -(-len(orjson.dumps(request[name])) // 4)
    return total


def example(schema: Any) -> Any:
    """A value that fits a JSON schema of the kind that tools use: the smallest that is handy.

    Understands type, properties, required, items, enum, const, default, minimum, minItems,
    anyOf/oneOf/allOf (the first), and local $ref. What it does not know it answers with text, and
    a schema that leads to too many values with null.
    """
    return _Sampler(schema).value(schema, 0)


class _Sampler:
    """Bounded in depth and in number of values: a schema may refer to itself."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = _MAX_VALUES

    def value(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth > _MAX_DEPTH or self._left < 0:
            return None
        for name in ("const", "default"):
            if name in schema:
                return schema[name]
        if schema.get("enum"):
            return schema["enum"][0]
        if isinstance(schema.get("$ref"), str):
            return self.value(_follow(schema["$ref"], self._root), depth + 1)
        for name in ("anyOf", "oneOf", "allOf"):
            if schema.get(name):
                return self.value(schema[name][0], depth + 1)
        kind = schema.get("type", "object" if "properties" in schema or depth == 0 else "string")
        if isinstance(kind, list):
            kind = kind[0] if kind else "string"
        if kind == "object":
            fields = schema.get("properties") or {}
            names = schema.get("required") or list(fields)
            return {name: self.value(fields.get(name, {}), depth + 1) for name in names}
        if kind == "array":
            count = min(max(1, int(schema.get("minItems", 1))), _MAX_VALUES)
            return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]
        if kind in ("integer", "number"):
            return schema.get("minimum", 1)
        return {"boolean": True, "null": None}.get(kind, "example")


def _words(start: int, count: int) -> list[str]:
    if count <= 0:
        return []
    first = _STARTS[start % len(_STARTS)]
    words = list(islice(cycle(_PIECES), first, first + count))
    words[0] = words[0].lstrip()
    return words


def _cut(text: str, most: int | None, finish: str, tool: str | None) -> Reply:
    pieces = [text[i : i + 4] for i in range(0, len(text), 4)]
    if most is not None and len(pieces) > most:
        return Reply(pieces[:most], "length", tool)
    return Reply(pieces, finish, tool)


def _tool_to_call(request: dict[str, Any]) -> dict[str, Any] | None:
    """The function to call: the one that is named, or the first when one is asked for."""
    tools: list[dict[str, Any]] = [
        t["function"] for t in request.get("tools") or [] if t.get("type") == "function"
    ]
    choice = request.get("tool_choice")
    if not tools or choice in (None, "none"):
        return None
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        return next((tool for tool in tools if tool.get("name") == name), None)
    # After a tool's result it is time to talk, or an agent's loop would never end.
    if choice == "auto" and request["messages"][-1].get("role") == "tool":
        return None
    return tools[0]


def _follow(reference: str, root: Any) -> Any:
    found = root
    for step in reference.lstrip("#/").split("/"):
        found = found.get(step) if isinstance(found, dict) else None
    return found
