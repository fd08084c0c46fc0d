"""One choice of a chat answer as the deltas of a stream, and back."""

from collections.abc import Iterator
from typing import Any

PIECE = 1024
"""Characters of text per chunk: an answer in one event would overrun clients' line limits."""

_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
"""Members of a message that stream in pieces."""

_NAMES = frozenset({"id", "type", "name", "role", "object"})
"""Members that come whole: some providers repeat them in every delta."""


def pieces_of(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The choices of the chunks that add up to `choice`, in order; the last one finishes it."""
    index = mapping(choice).get("index", 0)
    message = mapping(choice.get("message") or {})
    logprobs = {"logprobs": choice["logprobs"]} if "logprobs" in choice else {}
    null = dict.fromkeys(logprobs)
    calls = [mapping(call) for call in listed(message.get("tool_calls") or [])]

    def piece(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"index": index, "delta": delta, **null, "finish_reason": None, **more}

    opening: dict[str, Any] = {}
    for name, value in message.items():
        if name in _TEXTS and isinstance(value, str):
            opening[name] = ""
        elif name != "tool_calls" or not calls:
            opening[name] = value
    yield piece(opening, **logprobs)
    for name in _TEXTS:
        for text in _cut(message.get(name)):
            yield piece({name: text})
    for place, call in enumerate(calls):
        yield from (piece({"tool_calls": [part]}) for part in _call_parts(place, call))
    end = {name: v for name, v in choice.items() if name not in ("message", "logprobs")}
    yield piece({}, **end)


def _call_parts(place: int, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A tool call: first all but its input, then the input in pieces."""
    opening: dict[str, Any] = {"index": place}
    inputs: list[tuple[str, str, str]] = []
    for name, value in call.items():
        if name == "index":
            continue
        opening[name] = value
        for member in ("arguments", "input"):
            if isinstance(value, dict) and isinstance(value.get(member), str):
                inputs.append((name, member, value[member]))
                opening[name] = {**opening[name], member: ""}
    yield opening
    for name, member, text in inputs:
        for part in _cut(text):
            yield {"index": place, name: {member: part}}


def _cut(text: Any) -> list[str]:
    if not isinstance(text, str):
        return []
    return [text[start : start + PIECE] for start in range(0, len(text), PIECE)]


class Joined:
    """The choice that a stream's deltas add up to. `finished`: it has its finish reason."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._rest: dict[str, Any] = {}

    @property
    def finished(self) -> bool:
        """Whether the provider said why it ended."""
        return bool(self._rest.get("finish_reason"))

    def add(self, piece: dict[str, Any]) -> None:
        """Take the next chunk's choice. Raises ValueError for what is not one."""
        _merge(self._message, mapping(piece.get("delta") or {}))
        for name, value in piece.items():
            if name in ("index", "delta"):
                continue
            if name == "logprobs" and isinstance(value, dict):
                self._rest[name] = _joined(self._rest.get(name), value)
            elif self._rest.get(name) is None:
                self._rest[name] = value

    def choice(self, index: int) -> dict[str, Any]:
        """The choice of a chat.completion."""
        message = {"role": "assistant", "content": None, **self._message}
        calls = message.get("tool_calls")
        if calls:
            ordered = sorted(calls, key=lambda call: int(call.get("index", 0)))
            message["tool_calls"] = [
                {name: value for name, value in call.items() if name != "index"} for call in ordered
            ]
        return {"index": index, "message": message, **self._rest}


def mapping(value: Any) -> dict[str, Any]:
    """The value as the JSON object that it has to be, else ValueError."""
    if not isinstance(value, dict):
        raise ValueError("not a JSON object where one belongs")
    return value


def listed(value: Any) -> list[Any]:
    """The value as the JSON array that it has to be, else ValueError."""
    if not isinstance(value, list):
        raise ValueError("not a JSON array where one belongs")
    return value


def _place(call: dict[str, Any]) -> int:
    place = call.get("index", 0)
    return place if isinstance(place, int) else 0


def _merge(whole: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name in _NAMES:
            whole[name] = whole.get(name) or value
        elif name == "tool_calls" and value:
            whole[name] = whole.get(name) or []
            for call in listed(value):
                _add_call(whole[name], mapping(call))
        else:
            whole[name] = _joined(whole.get(name), value)


def _add_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Merge a part into the call of its index; a part without one is a call of its own."""
    for call in calls:
        if "index" in part and call.get("index") == part["index"]:
            _merge(call, part | {"index": None})
            return
    calls.append({})
    _merge(calls[-1], part)


def _joined(whole: Any, part: Any) -> Any:
    """What has come so far and what comes now: texts and lists grow, objects merge."""
    if whole is None or part is None:
        return part if whole is None else whole
    if type(whole) is not type(part):
        raise ValueError("a delta does not fit the ones before it")
    if isinstance(whole, dict):
        _merge(whole, part)
        return whole
    if isinstance(whole, str | list):
        return whole + part
    return part
