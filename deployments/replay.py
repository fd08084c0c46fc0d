"""Stored chat answers in the other shape: a JSON body as a stream, a stream as a JSON body.

Shapes: OpenAI's chat.completion and chat.completion.chunk, sent as server-sent events
(WHATWG HTML, "Server-sent events"). Fields that this module does not know are carried
along.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from deployments.deltas import Joined, listed, mapping, pieces_of

DONE = b"data: [DONE]\n\n"
"""The event that ends a complete stream."""


def stream_of(completion: bytes, include_usage: bool) -> bytes:
    """A chat.completion body as a complete stream.

    include_usage: whether the client asked for the usage chunk (`stream_options`).
    Raises ValueError for what is not a chat.completion.
    """
    whole = mapping(orjson.loads(completion))
    choices = listed(whole.get("choices"))
    usage = whole.get("usage")
    base = {name: value for name, value in whole.items() if name not in ("choices", "usage")}
    base["object"] = "chat.completion.chunk"
    # OpenAI's streams carry a null usage on every other chunk when one is to come.
    tail = {"usage": None} if include_usage and usage is not None else {}
    events = [
        _event({**base, "choices": [piece], **tail})
        for choice in choices
        for piece in pieces_of(choice)
    ]
    if tail:
        events.append(_event({**base, "choices": [], "usage": usage}))
    events.append(DONE)
    return b"".join(events)


def completion_of(stream: bytes) -> bytes:
    """A complete stream as the chat.completion body that a plain request would have got.

    Raises ValueError for a stream that was cut off, holds an error, or is none of chat
    chunks: such a one is not an answer.
    """
    try:
        return orjson.dumps(_joined(stream))
    except (RecursionError, TypeError) as error:
        raise ValueError("the stream is nested too deeply") from error


def restream(stream: bytes, include_usage: bool) -> bytes:
    """A stored stream, recorded with its usage, for a client that asked for it or did not.

    Raises ValueError for a stream that was cut off or holds an error.
    """
    hides = not include_usage and b'"usage"' in stream
    if not hides and b'"error"' not in stream and stream.endswith(b"\n\n" + DONE):
        return stream
    events: list[bytes] = []
    for data in _complete(stream):
        # Most chunks hold neither word, and go through as they are.
        if b'"error"' in data:
            _refuse_error(mapping(orjson.loads(data)))
        if not include_usage and b'"usage"' in data:
            chunk = mapping(orjson.loads(data))
            if "usage" in chunk:
                if chunk.pop("usage") is not None and not chunk.get("choices"):
                    continue
                data = _dumped(chunk)
        events.append(b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n")
    events.append(DONE)
    return b"".join(events)


def data_of(stream: bytes) -> Iterator[bytes]:
    """The data of each event of a stream, the unfinished last one left out."""
    data: list[bytes] = []
    lines = stream.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
    for line in lines:
        text = line.rstrip(b"\r\n")
        if text == line:
            return
        if not text:
            if data:
                yield b"\n".join(data)
            data = []
        elif text.startswith(b"data:"):
            data.append(text[5:].removeprefix(b" "))


def _joined(stream: bytes) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    choices: dict[int, Joined] = {}
    usage: Any = None
    for chunk in _chunks(stream):
        for name, value in chunk.items():
            # `obfuscation` pads chunks against eavesdroppers who measure them.
            if name in ("choices", "usage", "obfuscation"):
                continue
            if whole.get(name) is None:
                whole[name] = value
        for choice in listed(chunk.get("choices") or []):
            index = mapping(choice).get("index", 0)
            if not isinstance(index, int):
                raise ValueError("a choice's index is no integer")
            choices.setdefault(index, Joined()).add(choice)
        usage = chunk.get("usage") or usage
    if not choices or not all(choice.finished for choice in choices.values()):
        raise ValueError("the stream was cut off: a choice is not finished")
    whole["object"] = "chat.completion"
    whole["choices"] = [choices[index].choice(index) for index in sorted(choices)]
    if usage is not None:
        whole["usage"] = usage
    return whole


def _complete(stream: bytes) -> Iterator[bytes]:
    """The data of a stream's events up to its [DONE], which has to come."""
    for data in data_of(stream):
        if data == b"[DONE]":
            return
        yield data
    raise ValueError("the stream was cut off: no [DONE]")


def _chunks(stream: bytes) -> Iterator[dict[str, Any]]:
    for data in _complete(stream):
        chunk = mapping(orjson.loads(data))
        _refuse_error(chunk)
        yield chunk


def _refuse_error(chunk: dict[str, Any]) -> None:
    if chunk.get("error"):
        raise ValueError("the stream holds an error")


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + _dumped(chunk) + b"\n\n"


def _dumped(chunk: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(chunk)
    except TypeError as error:
        raise ValueError("the answer is nested too deeply") from error
