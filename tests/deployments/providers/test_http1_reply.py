from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.providers.http1_reply import MAX_HEAD_BYTES, MAX_HEADERS, ReplyParser

OK = b"HTTP/1.1 200 OK\r\n"


def fed(*pieces: bytes, max_bytes: int = 1000, streamed: bool = False) -> ReplyParser:
    """A parser that has got the pieces, up to where it wants no more."""
    parser = ReplyParser(max_bytes)
    parser.begin(streamed)
    for piece in pieces:
        if parser.flaw or parser.complete:
            break
        parser.feed(piece)
    return parser


def seen(parser: ReplyParser) -> tuple[object, ...]:
    """All that a reply says."""
    return (
        parser.status,
        parser.headers,
        b"".join(parser.parts),
        parser.complete,
        parser.keep,
        parser.ends_with_connection,
        bool(parser.flaw),
    )


names = st.sampled_from(["X-A", "x-a", "X-B", "Set-Cookie", "Retry-After"])
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"))
pairs = st.lists(st.tuples(names, values), max_size=5)


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, int, bytes]:
    """A well-formed reply, its status and its body."""
    status = draw(st.sampled_from([200, 307, 400, 429, 503]))
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    informational = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    head = f"HTTP/1.1 {status} Word\r\n".encode()
    head += b"".join(f"{k}: {v}\r\n".encode("latin-1") for k, v in draw(pairs))
    body = b"".join(chunks)
    if draw(st.booleans()):
        head += b"content-length: %d\r\n\r\n" % len(body)
        return informational + head + body, status, body
    raw = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n"
    raw += b"".join(f"{k}: {v}\r\n".encode("latin-1") for k, v in draw(pairs)) + b"\r\n"
    return informational + head + b"Transfer-Encoding: chunked\r\n\r\n" + raw, status, body


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """The data in pieces."""
    bounds = sorted({min(one, len(data)) for one in at} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(bounds)]


@given(reply=replies(), at=st.lists(st.integers(0, 500), max_size=20), streamed=st.booleans())
def test_a_reply_in_pieces_reads_like_a_whole_one(
    reply: tuple[bytes, int, bytes], at: list[int], streamed: bool
) -> None:
    """However the network cuts a reply, it is the same answer, and the connection is as good."""
    data, status, body = reply
    whole = fed(data, streamed=streamed)
    assert (whole.status, b"".join(whole.parts), whole.complete, whole.keep) == (
        status,
        body,
        True,
        True,
    )
    for pieces in (cut(data, at), [data[i : i + 1] for i in range(len(data))]):
        assert seen(fed(*pieces, streamed=streamed)) == seen(whole)


@given(reply=replies(), keep=st.integers(0, 10_000))
def test_a_reply_without_its_end_is_never_complete(
    reply: tuple[bytes, int, bytes], keep: int
) -> None:
    """Each beginning of a reply leaves it open, and is no flaw yet."""
    data, _, _ = reply
    parser = fed(data[: keep % len(data)])
    assert not parser.complete
    assert not parser.flaw


@given(first=replies(), data=st.binary(min_size=1, max_size=60))
def test_whatever_follows_a_reply_leaves_it_as_it_is(
    first: tuple[bytes, int, bytes], data: bytes
) -> None:
    """More bytes never change an answer; unless they are empty lines, they end the connection."""
    whole, more = fed(first[0]), fed(first[0] + data)
    assert seen(more)[:4] == seen(whole)[:4]
    assert not more.flaw
    assert more.keep == (not data.strip(b"\r\n"))


@given(first=replies(), second=replies())
def test_one_parser_reads_reply_after_reply(
    first: tuple[bytes, int, bytes], second: tuple[bytes, int, bytes]
) -> None:
    """Nothing of a reply shows in the next one on the same connection."""
    parser = fed(first[0])
    parser.begin(False)
    parser.feed(second[0])
    assert seen(parser) == seen(fed(second[0]))


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([OK, b"a: b\r\n", b"\r\n"]))))
def test_no_bytes_are_more_than_a_flaw(pieces: list[bytes]) -> None:
    """Whatever a provider sends is an answer, the beginning of one, or a flaw; never an error."""
    parser = fed(*pieces)
    assert not (parser.complete and parser.flaw)


def test_repeated_headers_are_joined_under_one_name() -> None:
    """In their order, whatever their case; values are latin-1 without the blanks around them."""
    parser = fed(OK + b"X-A:  1 \r\nx-a: \xe9\t\r\nX-B:\r\ncontent-length: 0\r\n\r\n")
    assert parser.headers == {"x-a": "1, é", "x-b": "", "content-length": "0"}


@pytest.mark.parametrize(
    ("head", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.1 204 No\r\n", False),
        (b"HTTP/1.1 304 Same\r\n", False),
    ],
)
def test_only_a_reply_that_allows_it_keeps_the_connection(head: bytes, keep: bool) -> None:
    """By its version, by its word, and never after a status that may hide a body."""
    parser = fed(head + b"content-length: 0\r\n\r\n")
    assert (parser.complete, parser.keep) == (True, keep)


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_a_status_without_body_has_none(status: bytes) -> None:
    """Whatever length it names, and also without one."""
    for head in (b"", b"content-length: 5000\r\n"):
        parser = fed(b"HTTP/1.1 " + status + b" x\r\n" + head + b"\r\n")
        assert (parser.complete, parser.parts, parser.flaw) == (True, [], "")


def headers(count: int, size: int) -> bytes:
    """So many headers in so many bytes."""
    each = size // count
    lines = b"".join(b"h%03d: " % i + b"x" * (each - 8) + b"\r\n" for i in range(count))
    return lines + b"content-length: 2\r\n\r\n"


def test_a_head_just_within_its_bounds_is_read() -> None:
    """64 KiB, 256 headers."""
    for count, size in ((MAX_HEADERS - 1, MAX_HEAD_BYTES - 100), (2, MAX_HEAD_BYTES - 100)):
        parser = fed(OK + headers(count, size) + b"hi")
        assert (parser.flaw, b"".join(parser.parts)) == ("", b"hi")


@pytest.mark.parametrize(
    "reply",
    [
        OK + headers(MAX_HEADERS, 4000) + b"hi",
        OK + headers(2, MAX_HEAD_BYTES + 100) + b"hi",
        OK + b"a: " + b"x" * 2 * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 " + b"x" * 2 * MAX_HEAD_BYTES,
        b"\r\n" * MAX_HEAD_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
        OK + b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * 2 * MAX_HEAD_BYTES,
        OK + b"transfer-encoding: chunked\r\n\r\n0\r\na: " + b"x" * 2 * MAX_HEAD_BYTES,
        OK + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES,
    ],
    ids=range(9),
)
def test_what_is_no_body_is_bounded(reply: bytes) -> None:
    """No endless head, trailer or row of informational replies, in one piece or in many."""
    pieces = [reply[i : i + 1000] for i in range(0, len(reply), 1000)]
    assert fed(reply).flaw
    assert fed(*pieces).flaw


@pytest.mark.parametrize(
    "reply",
    [
        b"no http\r\n\r\n",
        b"HTTP/1.1 99 x\r\n\r\n",
        b"HTTP/1.1 101 Switch\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switch\r\n\r\n",
        OK + b"a b: c\r\n\r\n",
        OK + b"a: b\0c\r\n\r\n",
        OK + b"a: b\r\n folded: c\r\n\r\n",
        OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nhi",
        OK + b"content-length: -2\r\n\r\n",
        OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"transfer-encoding: gzip\r\n\r\n",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi!\r\n",
        OK + b"content-length: 1001\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
        OK + b"\r\n" + b"x" * 1001,
    ],
)
def test_what_breaks_the_rules_is_a_flaw(reply: bytes) -> None:
    """Told at once, without waiting for more; and it is no answer."""
    for streamed in (False, True):
        parser = fed(reply, streamed=streamed)
        assert parser.flaw
        assert not parser.complete
        assert not parser.keep


def test_a_status_that_is_none_is_no_reply() -> None:
    """Its body would be taken for the beginning of the next one's."""
    parser = ReplyParser(1000)
    parser.feed(b"HTTP/1.1 000 X\r\ncontent-length: 4\r\n\r\nevil")
    assert "status" in parser.flaw
    assert not parser.keep


def test_small_pieces_are_kept_as_large_ones() -> None:
    """An object for every two bytes would take twenty times their room."""
    parser = ReplyParser(1 << 20)
    parser.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for number in range(50_000):
        parser.feed(b"2\r\n%02d\r\n" % (number % 100))
    parser.feed(b"0\r\n\r\n")
    assert parser.complete
    assert len(parser.parts) < 10
    assert b"".join(parser.parts) == b"".join(b"%02d" % (n % 100) for n in range(50_000))
