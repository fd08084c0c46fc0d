import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.charges import Usage
from deployments.api.prompts import _deltas, text_of
from deployments.providers.base import Call, ProviderFailure, retry_after_s
from deployments.providers.http1_reply import MAX_HEAD_BYTES, ReplyParser
from deployments.providers.openai import OpenAIProvider
from deployments.providers.sse import MAX_EVENT_BYTES, StreamTail, has_event, opening_error
from deployments.replay import completion_of, restream, stream_of
from deployments.settlement import usage_of
from deployments.verdict import are_choices, quote
from tests.deployments.hostile.server import BILL
from tests.deployments.hostile.spoiling import BODIES, REPLIES, STREAMS, in_pieces, spoiled
from tests.deployments.providers.scripted import request_of

MAX_BYTES = 2_000

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "delta", "usage", "error", "index", "tool_calls"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
COUNT = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()


@given(pieces=in_pieces(spoiled(REPLIES)), streamed=st.booleans())
def test_any_bytes_are_a_reply_or_a_flaw(pieces: list[bytes], streamed: bool) -> None:
    """The parser raises nothing, and keeps no more than a head and a body may have."""
    parser = ReplyParser(MAX_BYTES)
    parser.begin(streamed)
    for piece in pieces:
        parser.feed(piece)
        held = sum(map(len, parser.parts))
        assert held <= MAX_BYTES + len(piece)
        assert sum(len(a) + len(b) for a, b in parser._pairs) <= MAX_HEAD_BYTES + len(piece)
        assert not (parser.complete and parser.flaw)
        if parser.flaw or parser.complete:
            break
    if parser.complete:
        assert 200 <= parser.status <= 999
        assert held <= MAX_BYTES
        assert all(name == name.lower() for name in parser.headers)


class Mouth:
    """A server that says what it is told to, to one call after another.

    words: for the next call, in pieces. It hangs up after them.
    """

    def __init__(self) -> None:
        self.words: list[bytes] = []
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0)
        )
        port = self.server.sockets[0].getsockname()[1]
        self.provider = self.loop.run_until_complete(self._provider(port))

    async def _provider(self, port: int) -> OpenAIProvider:
        return OpenAIProvider("mouth", f"http://127.0.0.1:{port}", "", max_answer_bytes=MAX_BYTES)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await request_of(reader)
            for piece in self.words:
                writer.write(piece)
                await asyncio.sleep(0)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def ask(self, streamed: bool) -> tuple[int, bytes] | str:
        """Status and body of the answer, or the kind of failure."""
        call = Call("/x", b"{}", {}, timeout_s=2.0)
        async with asyncio.timeout(4.0):
            try:
                if not streamed:
                    answer = await self.provider.send(call)
                    return answer.status, answer.body
                stream = await self.provider.stream(call)
                body = stream.body
                try:
                    while piece := await stream.read():
                        body += piece
                finally:
                    await stream.aclose()
                return stream.status, body
            except ProviderFailure as failure:
                return failure.kind

    def close(self) -> None:
        """Nothing of it is left."""
        pool = self.provider._pool
        assert pool._places == len(pool._idle)
        self.loop.run_until_complete(self.provider.close())
        assert (pool._places, len(pool._open)) == (0, 0)
        self.server.close()
        self.loop.run_until_complete(asyncio.sleep(0.05))
        self.loop.close()


@pytest.fixture(scope="module")
def mouth() -> Iterator[Mouth]:
    """One for all examples: what one leaves behind would show in the next."""
    made = Mouth()
    yield made
    made.close()


@given(pieces=in_pieces(spoiled(REPLIES)), streamed=st.booleans())
def test_any_bytes_are_an_answer_or_a_failure(
    mouth: Mouth, pieces: list[bytes], streamed: bool
) -> None:
    """Over a socket, whatever came before on its connections; in time, and never too much."""
    mouth.words = pieces
    found = mouth.loop.run_until_complete(mouth.ask(streamed))
    if isinstance(found, str):
        assert found in ("connect", "reset", "timeout")
    else:
        status, body = found
        assert 200 <= status <= 999
        assert len(body) <= MAX_BYTES
        assert body in b"".join(pieces) or b"chunked" in b"".join(pieces).lower()


@given(pieces=in_pieces(spoiled(STREAMS)), keep_usage=st.booleans())
def test_any_stream_is_followed(pieces: list[bytes], keep_usage: bool) -> None:
    """Nothing is raised, changed or kept back for long; only whole bills are withheld."""
    tail = StreamTail(keep_usage)
    relayed = b""
    for piece in pieces:
        relayed += tail.feed(piece)
        assert len(tail._held) <= MAX_EVENT_BYTES
    relayed += tail.flush()
    whole = b"".join(pieces)
    assert not opening_error(whole) or (tail.failed and has_event(whole))
    if keep_usage:
        assert relayed == whole
    else:
        assert len(relayed) <= len(whole)
    assert 0 <= tail.content_bytes <= len(whole)
    found = tail.usage()
    assert found is None or isinstance(found, dict)
    told = usage_of(found)
    assert told is None or isinstance(told, Usage)


@given(data=spoiled(STREAMS), asks=st.booleans())
def test_any_stream_is_read_or_refused(data: bytes, asks: bool) -> None:
    """What reads a stream's words, or stores it in another shape, knows what it can't."""
    _read(data, asks)


def _read(data: bytes, asks: bool) -> None:
    """A stream by all who look into it."""
    assert isinstance(quote(opening_error(data)), str)
    tail = StreamTail(asks)
    tail.feed(data)
    usage_of(tail.usage())
    for name, content in _deltas(data):
        assert name in ("delta", "error")
        assert name == "error" or isinstance(content["text"], str)
        assert orjson.dumps(content)
    for replayed in (completion_of, lambda stream: restream(stream, asks)):
        try:
            assert isinstance(replayed(data), bytes)
        except ValueError:
            pass


def _judge(body: bytes) -> None:
    """What becomes of an answer's body."""
    assert isinstance(quote(body), str)
    try:
        content: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    if isinstance(content, dict) and are_choices(content.get("choices")):
        usage_of(content.get("usage"))
        assert isinstance(text_of(body), str)
        for asks in (False, True):
            try:
                assert stream_of(body, asks).endswith(b"data: [DONE]\n\n")
            except ValueError:
                pass


@pytest.mark.parametrize("depth", [200, 300, 900, 1020, 5000])
@pytest.mark.parametrize("place", [b'"no"', b'"hello"', b'"hello "', b"null", b"9", b"[]"])
def test_any_depth_is_an_answer_or_none(place: bytes, depth: int) -> None:
    """Libraries give up at different depths: to read, to write, to print."""
    nest = b"[" * depth + b"]" * depth
    error = b'{"error":{"message":"no","code":null,"param":9},"usage":[]}'
    for body in (*BODIES, error):
        _judge(body.replace(place, nest))
    event = b"data: " + error + b"\n\n"
    for stream in (*STREAMS, event, STREAMS[0].replace(BILL, event + BILL)):
        _read(stream.replace(place, nest), False)
        _read(stream.replace(place, nest), True)


@given(body=spoiled(BODIES))
def test_any_body_is_an_answer_or_none(body: bytes) -> None:
    """Bytes that nearly are an answer."""
    _judge(body)


@given(content=JSON)
def test_any_json_is_an_answer_or_none(content: Any) -> None:
    """JSON of every shape with the names of an answer's members, alone and as its choices."""
    _judge(orjson.dumps(content))
    _judge(orjson.dumps({"choices": [{"message": content}], "usage": content}))
    _judge(orjson.dumps({"choices": [{"message": {"content": content, "tool_calls": content}}]}))
    chunk = b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": content}]}) + b"\n\n"
    for _, told in _deltas(chunk + b"data: " + orjson.dumps(content) + b"\n\n"):
        assert isinstance(told, dict)


@given(counts=st.tuples(COUNT, COUNT, COUNT, COUNT))
def test_any_usage_is_believed_whole_or_not_at_all(counts: tuple[Any, ...]) -> None:
    """Tokens that are believed could have been, and their details are among them."""
    usage = usage_of(
        {
            "prompt_tokens": counts[0],
            "completion_tokens": counts[1],
            "prompt_tokens_details": {"cached_tokens": counts[2]},
            "completion_tokens_details": {"reasoning_tokens": counts[3]},
        }
    )
    if usage is not None:
        assert (usage.input, usage.output) == counts[:2]
        assert 0 <= usage.cached <= usage.input <= 10**9
        assert 0 <= usage.reasoning <= usage.output <= 10**9


@given(text=st.text(max_size=60) | st.floats().map(str) | st.integers().map(str))
def test_any_retry_after_is_a_wait_or_none(text: str) -> None:
    """From nothing to a day."""
    for name in ("retry-after", "retry-after-ms"):
        found = retry_after_s({name: text}, 10**18)
        assert found is None or 0 <= found <= 86_400
