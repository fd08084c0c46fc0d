"""Any answer, as a stream and back."""

import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.deltas import PIECE
from deployments.replay import DONE, completion_of, data_of, stream_of

USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "m",
    "usage": USAGE,
}
WHOLE = stream_of(
    b'{"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}', False
)

# What JSON escapes, what ends a line of an event stream, what takes UTF-8 several bytes.
LETTERS = 'ab1 \\"/[]{}:,\x00\n\r\x7f\u00e9\u2028\u20ac\U0001f600'
texts = st.text(LETTERS, max_size=40) | st.text(LETTERS, min_size=1, max_size=3).map(
    lambda text: text * PIECE
)
scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(LETTERS, max_size=5)
unknown = (
    scalars
    | st.lists(scalars, max_size=2)
    | st.dictionaries(st.text(LETTERS, max_size=3), scalars, max_size=2)
)
function_calls = st.builds(
    lambda id, name, arguments: {
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    st.text(LETTERS, min_size=1, max_size=5),
    st.text(LETTERS, min_size=1, max_size=5),
    texts,
)
custom_calls = st.builds(
    lambda id, name, given: {"id": id, "type": "custom", "custom": {"name": name, "input": given}},
    st.text(LETTERS, min_size=1, max_size=5),
    st.text(LETTERS, min_size=1, max_size=5),
    texts,
)
messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | texts},
    optional={
        "refusal": st.none() | texts,
        "reasoning_content": texts,
        "tool_calls": st.lists(function_calls | custom_calls, max_size=3),
        "annotations": st.lists(st.fixed_dictionaries({"type": st.just("url"), "index": scalars})),
        "x_unknown": unknown,
    },
)
logprobs = st.none() | st.fixed_dictionaries(
    {
        "content": st.none()
        | st.lists(
            st.fixed_dictionaries(
                {"token": st.text(LETTERS, max_size=3), "logprob": st.floats(-9, 0)}
            ),
            max_size=3,
        ),
        "refusal": st.none(),
    }
)


@st.composite
def completions(draw: st.DrawFn) -> dict[str, Any]:
    """Any answer that a provider may give to a plain request."""
    choices = [
        draw(
            st.fixed_dictionaries(
                {
                    "index": st.just(index),
                    "message": messages,
                    "finish_reason": st.sampled_from(["stop", "length", "tool_calls"]),
                },
                optional={"logprobs": logprobs, "x_choice": unknown},
            )
        )
        for index in range(draw(st.integers(1, 3)))
    ]
    more = draw(st.fixed_dictionaries({}, optional={"system_fingerprint": scalars, "x": unknown}))
    return {**COMPLETION, **more, "choices": choices}


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    """The chunks of a stream that has to be complete."""
    *chunks, done = data_of(stream)
    assert done == b"[DONE]"
    return [orjson.loads(chunk) for chunk in chunks]


def written(*chunks: dict[str, Any]) -> bytes:
    """These chunks as a complete stream."""
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + DONE


@given(completions())
def test_an_answer_survives_the_round_trip(completion: dict[str, Any]) -> None:
    """As a stream and back it is what it was, tool calls and unknowns included."""
    stream = stream_of(orjson.dumps(completion), include_usage=True)
    assert orjson.loads(completion_of(stream)) == completion
    assert stream_of(completion_of(stream), include_usage=True).count(b"\n\n") == stream.count(
        b"\n\n"
    )


@given(completions(), st.randoms(use_true_random=False))
def test_choices_may_come_in_any_interleaving(
    completion: dict[str, Any], order: random.Random
) -> None:
    """Only the order within a choice matters."""
    chunks = chunks_of(stream_of(orjson.dumps(completion), include_usage=True))
    queues: dict[int, list[dict[str, Any]]] = {}
    for chunk in chunks[:-1]:
        queues.setdefault(chunk["choices"][0]["index"], []).append(chunk)
    mixed = []
    while any(queues.values()):
        mixed.append(queues[order.choice([index for index in queues if queues[index]])].pop(0))
    assert orjson.loads(completion_of(written(*mixed, chunks[-1]))) == completion


@given(completions(), st.integers(0, 10_000))
def test_no_prefix_of_a_stream_is_an_answer(completion: dict[str, Any], length: int) -> None:
    """Wherever the connection broke, it shows."""
    stream = stream_of(orjson.dumps(completion), include_usage=True)
    with pytest.raises(ValueError):
        completion_of(stream[: min(length, len(stream) - 1)])


@given(
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "delta", "index", "tool_calls", "content", "function", "logprobs"]
                ),
                inner,
            )
        ),
    )
)
def test_garbage_is_a_value_error(garbage: Any) -> None:
    """Whatever a provider sends, the caller meets an answer or a ValueError."""
    stream = b"data: " + orjson.dumps(garbage) + b"\n\n" + WHOLE
    try:
        completion_of(stream)
    except ValueError:
        pass
