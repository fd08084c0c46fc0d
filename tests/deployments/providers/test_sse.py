import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.providers.sse import MAX_EVENT_BYTES, SAMPLE_BYTES, StreamTail

USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def event(body: dict[str, Any], end: str = "\n\n") -> bytes:
    """An event as it is on the wire."""
    return f"data: {json.dumps(body, separators=(',', ':'))}{end}".encode()


def delta(text: str, **more: Any) -> dict[str, Any]:
    """The body of a content chunk."""
    return {"choices": [{"index": 0, "delta": {"content": text}}], **more}


BILL = {"choices": [], "usage": USAGE}
STREAM = [
    event(delta("", usage=None)),
    event(delta("Hi", usage=None)),
    event(delta(' "usage":{"x":1},"choices":[] \n', usage=None)),
    event(BILL),
    b"data: [DONE]\n\n",
]


def follow(chunks: list[bytes], keep_usage: bool) -> tuple[bytes, StreamTail]:
    """All that is relayed of a stream that ends by itself, and what was seen of it."""
    tail = StreamTail(keep_usage)
    relayed = b"".join(tail.feed(chunk) for chunk in chunks)
    return relayed + tail.flush(), tail


def seen(tail: StreamTail) -> tuple[object, ...]:
    """Everything that settling reads."""
    return tail.usage(), tail.done, tail.failed, tail.content_bytes


def test_whole_events_are_relayed_uncopied() -> None:
    """The usual chunk goes through as the very object that came in."""
    tail = StreamTail(keep_usage=True)
    assert all(tail.feed(chunk) is chunk for chunk in STREAM)
    assert tail.usage() == USAGE
    assert tail.done
    assert tail.content_bytes == len(r"Hi \"usage\":{\"x\":1},\"choices\":[] \n")


def test_usage_that_the_client_did_not_ask_for_is_withheld_from_it() -> None:
    """The bill is kept for settling, every other byte is relayed."""
    relayed, tail = follow(STREAM, keep_usage=False)
    assert relayed == b"".join(STREAM[:3] + STREAM[4:])
    assert tail.usage() == USAGE


@pytest.mark.parametrize(
    "kept",
    [
        {"choices": [], "prompt_filter_results": []},
        {"choices": [], "usage": None},
        delta("x", usage=USAGE),
        delta('"choices":[],"usage":{'),
        {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": '{"usage":{}}'}}]}}]},
    ],
)
def test_only_the_usage_only_event_is_withheld(kept: dict[str, Any]) -> None:
    """An event that says anything else as well, or speaks of usage in its text, is relayed."""
    relayed, _ = follow([event(kept)], keep_usage=False)
    assert relayed == event(kept)


def test_usage_in_every_chunk_counts_with_its_last() -> None:
    """Providers that report usage as they go are settled at the final figures."""
    figures = [{"prompt_tokens": 9, "completion_tokens": n} for n in (1, 2)]
    _, tail = follow([event(delta("a", usage=usage)) for usage in figures], True)
    assert tail.usage() == figures[1]


def test_a_cut_off_stream_leaves_an_estimate_and_no_half_event() -> None:
    """What came is counted, and the client can be sent an error event next."""
    tail = StreamTail(keep_usage=True)
    relayed = tail.feed(STREAM[1] + STREAM[2][:20])
    assert relayed == STREAM[1]
    assert (tail.usage(), tail.done, tail.content_bytes) == (None, False, 2)


def test_comments_are_relayed_and_are_no_content() -> None:
    """Keep-alive comments pass, and do not make an empty stream look started."""
    relayed, tail = follow([b": wait\n\n", b"data: [DONE]\n\n"], keep_usage=False)
    assert relayed == b": wait\n\ndata: [DONE]\n\n"
    assert (tail.content_bytes, tail.done) == (0, True)


@pytest.mark.parametrize("name", ["content", "reasoning_content", "refusal", "arguments", "text"])
def test_every_kind_of_generated_text_is_content(name: str) -> None:
    """Text, reasoning, refusals, tool arguments and legacy text all count."""
    _, tail = follow([event({"choices": [{"delta": {name: "four"}}]})], keep_usage=True)
    assert tail.content_bytes == 4


def test_an_endless_event_is_not_held_in_memory() -> None:
    """A line without an end is passed on piece by piece, and the stream goes on after it."""
    tail = StreamTail(keep_usage=False)
    sent = relayed = 0
    for _ in range(20):
        sent += 64 * 1024
        relayed += len(tail.feed(b"x" * 64 * 1024))
        assert sent - relayed <= MAX_EVENT_BYTES
    assert tail.feed(b"\n\n" + event(BILL)).endswith(b"x\n\n")
    assert tail.usage() == USAGE
    assert tail.content_bytes == sent + 2


line_ends = st.sampled_from(["\n\n", "\r\n\r\n", "\n\r\n"])
texts = st.text(alphabet=st.sampled_from('ab"\\\n\r{}[]:é'), max_size=8)
events = st.one_of(
    st.builds(lambda text, end: event(delta(text), end), texts, line_ends),
    st.builds(lambda text, end: event(delta(text, usage=None), end), texts, line_ends),
    st.builds(lambda end: event(BILL, end), line_ends),
    st.builds(lambda end: b"event: delta" + b"\n" + event(delta("x"), end), line_ends),
    st.just(b": comment\n\n"),
    st.just(b"data: [DONE]\n\n"),
    st.just(b"\n"),
    st.just(b"data:[DONE]\r\n\r\n"),
    st.just(b"data: not json\n\n"),
    st.just(b'data: {"choices":[],"usage":{"prompt_tokens":broken\n\n'),
    st.just(b'data: {"error":{"message":"overloaded"}}\n\n'),
    st.binary(max_size=12),
)


@given(
    stream=st.lists(events, max_size=8).map(b"".join),
    cuts=st.lists(st.integers(0, 600), max_size=30),
    keep_usage=st.booleans(),
)
def test_any_split_of_a_stream_reads_the_same(
    stream: bytes, cuts: list[int], keep_usage: bool
) -> None:
    """However the network cuts a stream, the same bytes are relayed and the same usage is read."""
    bounds = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    chunks = [stream[a:b] for a, b in pairwise(bounds)]
    bytewise = [stream[i : i + 1] for i in range(len(stream))]
    whole, whole_tail = follow([stream], keep_usage)
    for pieces in (chunks, bytewise):
        relayed, tail = follow(pieces, keep_usage)
        assert relayed == whole
        assert seen(tail) == seen(whole_tail)
    if keep_usage:
        assert whole == stream


@given(
    length=st.integers(MAX_EVENT_BYTES - 40, MAX_EVENT_BYTES + 40),
    step=st.integers(1000, 300_000),
)
def test_a_split_of_a_very_long_event_reads_the_same(length: int, step: int) -> None:
    """The bound on what is looked at depends on the event alone, not on how it arrives."""
    stream = event(delta("x" * (length - 60))) + STREAM[3]
    whole, whole_tail = follow([stream], keep_usage=False)
    pieces = [stream[i : i + step] for i in range(0, len(stream), step)]
    relayed, tail = follow(pieces, keep_usage=False)
    assert relayed == whole
    assert seen(tail) == seen(whole_tail)


@pytest.mark.parametrize("step", [100, 5000, 10**6])
def test_a_long_stream_is_estimated_by_its_beginning(step: int) -> None:
    """Its text is not searched for all over; the estimate is the same however it arrives."""
    one = event(delta("12345678", usage=None))
    stream = one * (3 * SAMPLE_BYTES // len(one))
    _, tail = follow([stream[i : i + step] for i in range(0, len(stream), step)], keep_usage=True)
    assert tail.content_bytes == pytest.approx(8 * (len(stream) // len(one)), rel=0.01)
    assert tail.content_bytes == follow([stream], keep_usage=True)[1].content_bytes


def test_an_error_event_before_done_is_a_failure() -> None:
    """Some servers end a stream that failed with an error object and `[DONE]` all the same."""
    tail = StreamTail(keep_usage=True)
    tail.feed(b'data: {"choices":[{"index":0,"delta":{"content":"an \\"error\\" in words"}}]}\n\n')
    assert not tail.failed
    tail.feed(b'data: {"error":{"message":"out of memory"}}\n\ndata: [DONE]\n\n')
    assert tail.done
    assert tail.failed
