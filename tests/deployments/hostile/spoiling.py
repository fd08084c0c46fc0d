"""Good bytes made bad: flipped, cut, repeated, spliced."""

from itertools import pairwise

from hypothesis import strategies as st

from tests.deployments.hostile.server import (
    BILL,
    DONE,
    EVENTS,
    HEAD,
    completion,
    delta,
    event,
    reply,
)

GOOD = completion()
STREAM = delta("hello ") + delta("wörld") + BILL + DONE
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"

REPLIES = [
    reply(GOOD, "content-type: application/json"),
    reply(b'{"error":{"message":"no"}}', "retry-after: 5", status="429 Slow"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + reply(GOOD, "connection: keep-alive"),
    b"HTTP/1.1 204 Nothing\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n" + GOOD,
    CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD),
    CHUNKED + b"%x;a=b\r\n%b\r\n0\r\nx-trailer: y\r\n\r\n" % (len(STREAM), STREAM),
    EVENTS + STREAM,
]
STREAMS = [
    STREAM,
    STREAM.replace(b"\n", b"\r\n"),
    b": wait\n\n" + delta('"usage":{"prompt_tokens":1}') + event(b'{"error":{"message":"no"}}'),
    event({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]}) + DONE,
    b"event: x\nid: 1\ndata: {\ndata: }\n\n" + BILL + b"data: [DONE]",
]
BODIES = [GOOD, b'{"error":{"message":"no","type":null}}', completion(usage=None, choices=[])]


@st.composite
def spoiled(draw: st.DrawFn, good: list[bytes]) -> bytes:
    """One of these with up to five faults, or bytes that were never good."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(0, 5))):
        a, b = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        match draw(st.sampled_from(["flip", "cut", "drop", "repeat", "splice", "insert"])):
            case "flip" if a < len(data):
                changed = data[a] ^ (1 << draw(st.integers(0, 7)))
                data = data[:a] + bytes([changed]) + data[a + 1 :]
            case "cut":
                data = data[:b]
            case "drop":
                data = data[:a] + data[b:]
            case "repeat":
                data = data[:b] + data[a:b] * draw(st.integers(1, 50)) + data[b:]
            case "splice":
                data = data[:a] + draw(st.sampled_from(good))[b:]
            case _:
                data = data[:a] + draw(st.binary(max_size=20)) + data[a:]
    return data[:200_000]


@st.composite
def in_pieces(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    """The same bytes as they may arrive."""
    data = draw(whole)
    at = draw(st.lists(st.integers(0, len(data)), max_size=8))
    bounds = sorted({0, len(data), *at})
    return [data[a:b] for a, b in pairwise(bounds)]
