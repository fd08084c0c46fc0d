from dataclasses import replace

import pytest

from tests.deployments.hostile.cases import CUT, GUESSED, WELL, Case, pairs
from tests.deployments.hostile.meeting import check
from tests.deployments.hostile.server import BILL, DONE, EVENTS, delta, event, says
from tests.stack import Stack

pytestmark = pytest.mark.anyio

HELLO = delta("hello")
ERROR = event({"error": {"message": "CUDA out of memory", "code": 500}})
CUT_LONG = replace(CUT, charge="worst")
GUESSED_LONG = replace(GUESSED, charge="worst")
HUGE = delta("x" * 10_000_000)


def sends(name: str, *parts: bytes, whole: bool = True) -> Case:
    """A stream of these parts, between good ones; whole: to its end."""
    end = (BILL, DONE) if whole else ()
    return Case(name, says(EVENTS, HELLO, *parts, *end), None, WELL if whole else CUT)


GARBAGE = [
    sends("invalid-utf-8", delta("hi").replace(b"hi", b"\xff\xfe\x80")),
    sends("zero-bytes", bytes(1000) + b"\n\n"),
    sends("unknown-event", b"event: surprise\nid: 9\nretry: 1\ndata: 1\n\n"),
    sends("unknown-field", b"hello: world\n\n"),
    sends("broken-json", event(b'{"choices":[{')),
    sends("json-of-another-shape", event(b"[[]]"), event(b"null"), event(b"7")),
    sends("usage-without-shape", event(b'{"usage":{"prompt_tokens":')),
    sends("only-comments", b": ping\n\n" * 1000),
    sends("blank-lines", b"\n" * 100_000),
    sends("line-ends-of-every-kind", HELLO.replace(b"\n", b"\r\n")),
    sends("done-in-the-text", delta("data: [DONE]")),
    sends("error-as-a-word", delta('"error":{"message":"no"}')),
    sends("event-of-10-mb", HUGE),
    sends("error-event", ERROR, whole=False),
    sends("error-event-and-done", ERROR, DONE, whole=False),
    Case("line-without-end", says(EVENTS, HELLO, b"data: " + b"x" * 1_000_000), None, CUT_LONG),
    sends("no-done", whole=False),
    sends("half-an-event", HELLO[:-9], whole=False),
    sends("bill-without-done", BILL, whole=False),
    Case("no-bill", says(EVENTS + HELLO + DONE), None, GUESSED),
    Case("done-at-once", says(EVENTS + DONE), None, GUESSED),
    Case("event-of-10-mb-first", says(EVENTS, HUGE, BILL, DONE), None, WELL),
    Case("lines-that-end-in-cr", says(EVENTS, HELLO.replace(b"\n", b"\r") + BILL), None, CUT),
]


@pytest.mark.parametrize(("case", "stream"), pairs(GARBAGE)[0], ids=pairs(GARBAGE)[1])
async def test_garbage_in_a_stream(stack: Stack, case: Case, stream: bool) -> None:
    """It is relayed as it came; only a missing end, or an error among it, is a failure."""
    seen = await check(stack, case, stream)
    assert b"hello" in seen.text or case.name == "done-at-once" or "10-mb" in case.name
    assert seen.text.endswith(DONE) or seen.code


async def test_an_event_of_10_mb_passes_whole(stack: Stack) -> None:
    """Piece by piece; it is charged as the provider says, at most as allowed where it does not."""
    case = Case("huge", says(EVENTS, HUGE, DONE), None, GUESSED_LONG)
    seen = await check(stack, case, True)
    assert seen.text == HUGE + DONE
