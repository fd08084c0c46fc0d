import pytest

from tests.deployments.hostile.cases import (
    BROKEN,
    CUT,
    LATE,
    LATE_STREAM,
    SILENT,
    STALLED,
    WELL,
    Case,
    both,
    pairs,
)
from tests.deployments.hostile.meeting import check
from tests.deployments.hostile.server import (
    BILL,
    DONE,
    EVENTS,
    HEAD,
    completion,
    delta,
    for_ever,
    reply,
    says,
)
from tests.stack import Stack

pytestmark = pytest.mark.anyio

GOOD = completion()
STREAM = delta("hello") + BILL + DONE
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
UPGRADE = b"HTTP/1.1 101 Up\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
BAD_CHUNK = b"%x\r\n%b!" % (len(delta("hello")), delta("hello"))
BITS = [bytes([one]) for one in reply(GOOD)[:9]] + [reply(GOOD)[9:]]


def sized(length: bytes, body: bytes = GOOD) -> bytes:
    """An answer with a content-length that says something."""
    return HEAD + b"content-length: %b\r\n\r\n%b" % (length, body)


def streamed(length: bytes) -> bytes:
    """A stream with a content-length that says something."""
    return HEAD + b"content-length: %b\r\n\r\n%b" % (length, STREAM)


CASES = [
    both("half-a-status-line", says(b"HTTP/1.1 20"), BROKEN),
    both("half-a-status-line-and-silence", says(b"HTTP/1.1 20", hold=True), SILENT),
    both("no-http", says(b"SSH-2.0-OpenSSH_9.9\r\n"), BROKEN),
    both("a-request-for-a-reply", says(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"), BROKEN),
    both("head-without-end", for_ever(HEAD, b"x-a: b\r\n"), SILENT),
    both("headers-of-a-megabyte", says(HEAD, b"x-a: " + b"a" * 2**20), BROKEN),
    both("a-thousand-headers", says(HEAD + b"x: y\r\n" * 1000 + b"\r\n"), BROKEN),
    both("reason-of-a-megabyte", says(b"HTTP/1.1 200 " + b"a" * 2**20), BROKEN),
    both("flood-of-1xx", says(b"HTTP/1.1 102 Processing\r\n\r\n" * 4000, hold=True), BROKEN),
    both("1xx-for-ever", for_ever(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), SILENT),
    both("upgrade", says(UPGRADE), BROKEN),
    both("silence-before-the-head", says(hold=True), SILENT),
    both("silence-until-the-deadline", says(hold=True), LATE, within_s=0.3),
    both("silence-after-the-head", says(EVENTS, hold=True), SILENT),
    both("closed-without-a-word", says(), BROKEN),
    both("length-too-long", says(sized(b"9999")), BROKEN),
    both("length-beyond-the-bound", says(sized(b"99999999999")), BROKEN),
    both("length-negative", says(sized(b"-5")), BROKEN),
    both("length-no-number", says(sized(b"many")), BROKEN),
    both("length-overflows", says(sized(b"9" * 40)), BROKEN),
    both("length-twice", says(HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n"), BROKEN),
    both("length-and-chunks", says(CHUNKED[:-2] + b"content-length: 5\r\n\r\n0\r\n\r\n"), BROKEN),
    both("unknown-coding", says(HEAD + b"transfer-encoding: gzip\r\n\r\nxx"), BROKEN),
    Case("length-too-long-and-silence", says(sized(b"9999"), hold=True), SILENT, None),
    Case("length-too-short", says(sized(b"9")), BROKEN, None),
    Case("no-length", says(HEAD + b"\r\n" + GOOD), WELL, None),
    Case("bad-chunk-size", says(CHUNKED + b"zz\r\n" + GOOD), BROKEN, BROKEN),
    Case("chunk-cut-off", says(CHUNKED + b"3e8\r\n" + GOOD), BROKEN, None),
    Case("chunk-without-end", says(CHUNKED + b"5\r\nhello0\r\n\r\n"), BROKEN, None),
    Case("chunk-size-overflows", says(CHUNKED + b"f" * 30 + b"\r\n"), BROKEN, BROKEN),
    Case(
        "chunk-extension-of-a-megabyte",
        says(CHUNKED + b"5;" + b"x" * 2**20),
        BROKEN,
        BROKEN,
    ),
    Case("trailing-bytes", says(reply(GOOD) + b"HTTP/1.1 500 No\r\n\r\n", hold=True), WELL, None),
    Case("trickle", for_ever(sized(b"9999", b"{"), b" "), SILENT, None),
    Case(
        "slow-but-in-time",
        says(*BITS),
        WELL,
        None,
    ),
    Case("stream-length-too-long", says(streamed(b"9999")), None, WELL),
    Case("stream-length-too-short", says(streamed(b"70")), None, CUT),
    Case("stream-cut-off", says(EVENTS, delta("hello")), None, CUT),
    Case("stream-chunk-cut-off", says(CHUNKED + b"%x\r\n" % 9999 + delta("hello")), None, CUT),
    Case("stream-chunk-bad", says(CHUNKED + BAD_CHUNK), None, CUT),
    Case("silence-in-mid-stream", says(EVENTS, delta("hello"), hold=True), None, STALLED),
    Case("stream-without-end", for_ever(EVENTS, delta("and")), None, LATE_STREAM, within_s=0.8),
    Case("stream-of-comments", for_ever(EVENTS, b": wait\n\n"), None, LATE_STREAM, within_s=0.8),
    Case("stream-of-bytes", for_ever(EVENTS, b"x"), None, SILENT),
    Case("stream-goes-on-after-its-end", for_ever(EVENTS + STREAM, delta("and")), None, WELL),
    Case("stream-stays-open-after-its-end", says(EVENTS + STREAM, hold=True), None, WELL),
]


@pytest.mark.parametrize(("case", "stream"), pairs(CASES)[0], ids=pairs(CASES)[1])
async def test_a_reply_that_breaks_http(stack: Stack, case: Case, stream: bool) -> None:
    """It ends in time with the error that is its own, counted, charged and let go."""
    await check(stack, case, stream)
