"""Stored answers in the other shape."""

from typing import Any

import orjson
import pytest

from deployments.deltas import PIECE
from deployments.replay import DONE, completion_of, data_of, restream, stream_of

USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "m",
    "system_fingerprint": "fp",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
CALLS: list[dict[str, Any]] = [
    {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
    {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}},
    {"id": "call_3", "type": "custom", "custom": {"name": "h", "input": "x" * (PIECE + 1)}},
]


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    """The chunks of a stream that has to be complete."""
    *chunks, done = data_of(stream)
    assert done == b"[DONE]"
    return [orjson.loads(chunk) for chunk in chunks]


def written(*chunks: dict[str, Any]) -> bytes:
    """These chunks as a complete stream."""
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + DONE


def piece(delta: dict[str, Any], index: int = 0, **more: Any) -> dict[str, Any]:
    """A chunk as OpenAI writes it."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
    base = {name: COMPLETION[name] for name in ("id", "created", "model")}
    return {**base, "object": "chat.completion.chunk", "choices": [choice]}


def test_a_plain_answer_becomes_a_stream() -> None:
    """Role, then text, then the finish reason, then [DONE], each in the shape of a chunk."""
    chunks = chunks_of(stream_of(orjson.dumps(COMPLETION), include_usage=False))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-1"}
    assert not any("usage" in chunk for chunk in chunks)
    first, second, last = (chunk["choices"][0] for chunk in chunks)
    assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert second["delta"] == {"content": "Hello there"}
    assert [first["finish_reason"], second["finish_reason"]] == [None, None]
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")


def test_usage_is_a_last_chunk_without_choices_when_asked_for() -> None:
    """With include_usage the others carry a null usage, as OpenAI's do."""
    *others, last = chunks_of(stream_of(orjson.dumps(COMPLETION), include_usage=True))
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert all(chunk["usage"] is None for chunk in others)


def test_an_answer_without_usage_promises_none() -> None:
    """What was never counted is not announced."""
    plain = {name: value for name, value in COMPLETION.items() if name != "usage"}
    chunks = chunks_of(stream_of(orjson.dumps(plain), include_usage=True))
    assert not any("usage" in chunk for chunk in chunks)


def test_tool_calls_come_by_index_with_their_input_in_pieces() -> None:
    """The name comes once, first; the arguments follow; no piece is longer than PIECE."""
    message = {"role": "assistant", "content": None, "tool_calls": CALLS}
    answer = {**COMPLETION["choices"][0], "message": message, "finish_reason": "tool_calls"}
    stream = stream_of(orjson.dumps({**COMPLETION, "choices": [answer]}), include_usage=False)
    parts = [
        part
        for chunk in chunks_of(stream)
        for part in chunk["choices"][0]["delta"].get("tool_calls", ())
    ]
    assert [part["index"] for part in parts] == [0, 0, 1, 2, 2, 2]
    assert parts[0] == {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": ""},
    }
    assert parts[1] == {"index": 0, "function": {"arguments": '{"a": 1}'}}
    assert [len(part["custom"]["input"]) for part in parts[3:]] == [0, PIECE, 1]


def test_an_index_in_a_plain_answers_tool_calls_is_not_believed() -> None:
    """Some providers number the calls of a plain answer, all 0 or from 1; streams count from 0."""
    calls = [{**call, "index": 0} for call in CALLS]
    answer = {**COMPLETION["choices"][0], "message": {"content": None, "tool_calls": calls}}
    stream = stream_of(orjson.dumps({**COMPLETION, "choices": [answer]}), include_usage=False)
    assert orjson.loads(completion_of(stream))["choices"][0]["message"]["tool_calls"] == CALLS


def test_tool_calls_are_put_in_order_of_their_index() -> None:
    """Even where the second begins first."""
    stream = written(
        piece({"tool_calls": [{**CALLS[1], "index": 1}]}),
        piece({"tool_calls": [{**CALLS[0], "index": 0}]}, finish_reason="tool_calls"),
    )
    message = orjson.loads(completion_of(stream))["choices"][0]["message"]
    assert message["tool_calls"] == CALLS[:2]


def test_a_stream_becomes_a_plain_answer() -> None:
    """Choices that came interleaved, with tool calls in pieces, add up."""
    opening = {"index": 0, "id": "c", "type": "function", "function": {"name": "f"}}
    stream = written(
        piece({"role": "assistant", "content": ""}),
        piece({"role": "assistant", "content": None}, index=1),
        piece({"content": "Hel"}),
        piece({"tool_calls": [opening]}, index=1),
        piece({"content": "lo"}),
        # Some providers repeat the id and the name with every piece.
        piece({"tool_calls": [{**opening, "function": {"name": "f", "arguments": "{"}}]}, index=1),
        piece({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}, index=1),
        piece({}, index=1, finish_reason="tool_calls"),
        piece({}, finish_reason="stop"),
        {**piece({}), "choices": [], "usage": USAGE, "obfuscation": "xx"},
    )
    answer = orjson.loads(completion_of(stream))
    assert answer == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "usage": USAGE,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "stop",
            },
            {
                "index": 1,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "c",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                        }
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            },
        ],
    }


def test_tool_calls_without_an_index_are_calls_of_their_own() -> None:
    """Providers that send each call whole, and unnumbered, are understood."""
    stream = written(
        piece({"tool_calls": [CALLS[0]]}),
        piece({"tool_calls": [CALLS[1]]}, finish_reason="tool_calls"),
    )
    message = orjson.loads(completion_of(stream))["choices"][0]["message"]
    assert message == {"role": "assistant", "content": None, "tool_calls": CALLS[:2]}


def test_logprobs_are_joined() -> None:
    """Those of each piece follow one another."""
    tokens = [{"token": token, "logprob": -0.5} for token in "ab"]
    stream = written(
        piece({"content": "a"}, logprobs={"content": tokens[:1], "refusal": None}),
        piece({"content": "b"}, logprobs={"content": tokens[1:], "refusal": None}),
        piece({}, finish_reason="stop"),
    )
    choice = orjson.loads(completion_of(stream))["choices"][0]
    assert choice["logprobs"] == {"content": tokens, "refusal": None}


WHOLE = written(piece({"content": "a"}), piece({}, finish_reason="stop"))


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        DONE,
        WHOLE.removesuffix(DONE),
        WHOLE.removesuffix(b"\n"),
        WHOLE.removesuffix(b"\n\n"),
        written(piece({"content": "a"})),
        written(piece({"content": "a"}), piece({}, index=1, finish_reason="stop")),
        b'data: {"error": {"message": "gone"}}\n\n' + WHOLE,
        b"data: not json\n\n" + WHOLE,
        b"data: []\n\n" + WHOLE,
        b'data: {"choices": 1}\n\n' + WHOLE,
        b'data: {"choices": [1]}\n\n' + WHOLE,
        b'data: {"choices": [{"index": []}]}\n\n' + WHOLE,
        b'data: {"choices": [{"delta": 1}]}\n\n' + WHOLE,
        b'data: {"choices": [{"delta": {"tool_calls": [1]}}]}\n\n' + WHOLE,
        b'data: {"choices": [{"delta": {"content": [1]}}]}\n\n' + WHOLE,
    ],
)
def test_what_is_no_complete_answer_is_refused(stream: bytes) -> None:
    """Cut-off, failed and malformed streams are a ValueError, never half an answer."""
    with pytest.raises(ValueError):
        completion_of(stream)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"id": 1}', b'{"choices": [1]}', b'{"choices": [{"message": 1}]}']
)
def test_what_is_no_completion_cannot_be_streamed(body: bytes) -> None:
    """An error body or another endpoint's answer is a ValueError."""
    with pytest.raises(ValueError):
        stream_of(body, include_usage=True)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_events_are_read_as_the_standard_says(ending: bytes) -> None:
    """Any line ending, comments, other fields, data over several lines, a byte order mark."""
    stream = b"\xef\xbb\xbf: ping\n\ndata:a\nevent: x\ndata:  b\nid\n\n\ndata\n\ndata: c\n\ndata: d"
    assert list(data_of(stream.replace(b"\n", ending))) == [b"a\n b", b"c"]


def test_a_stream_is_replayed_only_when_complete() -> None:
    """A cut-off stream is not replayed as if it were an answer."""
    with pytest.raises(ValueError, match="cut off"):
        restream(WHOLE.removesuffix(DONE), include_usage=True)


def test_an_error_in_a_stream_is_not_replayed() -> None:
    """A stream that failed is no answer, though it ended."""
    with pytest.raises(ValueError):
        restream(written({"error": {"message": "gone"}}), True)


def test_usage_goes_only_to_those_who_asked() -> None:
    """A stream recorded with its usage loses it, and all mention of it, for other clients."""
    recorded = stream_of(orjson.dumps(COMPLETION), include_usage=True)
    assert restream(recorded, include_usage=True) == recorded
    assert restream(recorded, include_usage=False) == stream_of(
        orjson.dumps(COMPLETION), include_usage=False
    )


def test_usage_beside_a_choice_is_cut_out() -> None:
    """Providers that count on the chunk that finishes keep that chunk."""
    finish = piece({}, finish_reason="stop")
    assert restream(written({**finish, "usage": USAGE}), False) == written(finish)


def test_replay_keeps_what_it_does_not_understand() -> None:
    """Chunks without usage go through byte for byte, several lines of data included."""
    odd = b'data: {"x":\ndata:  1, "y": "\xc3\xa9"}\n\n'
    usage = b'data: {"choices": [], "usage": {}}\n\n'
    assert restream(odd + DONE, include_usage=False) == odd + DONE
    assert restream(odd + usage + DONE, include_usage=False) == odd + DONE
    assert restream(b": ping\n\n" + odd + usage + DONE, True) == b": ping\n\n" + odd + usage + DONE


def test_the_word_error_in_an_answer_is_no_error() -> None:
    """Only an error member ends a stream's worth."""
    stream = written(piece({"content": '"error"'}), piece({"error": None}))
    assert restream(stream, include_usage=True) == stream
