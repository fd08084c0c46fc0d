from dataclasses import replace

import pytest

from tests.deployments.hostile.cases import BROKEN, CUT, GUESSED, WELL, Case, pairs
from tests.deployments.hostile.meeting import check, nothing_left, provided
from tests.deployments.hostile.server import BILL, DONE, EVENTS, delta, event, hostile, says
from tests.replies import events
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


WITHOUT_WORDS = ("done-at-once", "error-event-first")
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
    Case("error-event-first", says(EVENTS + b": wait\n\n" + ERROR + HELLO), None, BROKEN),
    Case("no-bill", says(EVENTS + HELLO + DONE), None, GUESSED),
    Case("done-at-once", says(EVENTS + DONE), None, GUESSED),
    Case("event-of-10-mb-first", says(EVENTS, HUGE, BILL, DONE), None, WELL),
    Case("lines-that-end-in-cr", says(EVENTS, HELLO.replace(b"\n", b"\r") + BILL), None, CUT),
]


@pytest.mark.parametrize(("case", "stream"), pairs(GARBAGE)[0], ids=pairs(GARBAGE)[1])
async def test_garbage_in_a_stream(stack: Stack, case: Case, stream: bool) -> None:
    """It is relayed as it came; only a missing end, or an error among it, is a failure."""
    seen = await check(stack, case, stream)
    assert b"hello" in seen.text or "10-mb" in case.name or case.name in WITHOUT_WORDS
    assert seen.text.endswith(DONE) or seen.code


async def test_a_stream_that_opens_with_an_error_never_began(stack: Stack) -> None:
    """The client reads the provider's words, and another target may do better."""
    case = Case("error", says(EVENTS + ERROR), None, BROKEN)
    assert "failed: CUDA out of memory" in (await check(stack, case, True)).message


async def test_a_long_event_that_is_cut_off_is_ended(stack: Stack) -> None:
    """What has gone out of it is an event of its own; ours after it can be read."""
    case = Case("cut", says(EVENTS, HUGE[:1_000_000]), None, CUT_LONG)
    seen = await check(stack, case, True)
    broken, error, rest = seen.text.split(b"\n\n")
    assert HUGE.startswith(broken)
    assert error.startswith(b'data: {"error":')
    assert rest == b""


PROMPTED = {
    "broken-json": (event(b"{"), True),
    "no-object": (event(b"7"), True),
    "choice-of-no-shape": (event({"choices": [1]}), True),
    "content-of-no-shape": (event({"choices": [{"delta": {"content": [1]}}]}), True),
    "error": (ERROR, True),
    "cut-off-long": (b"data: " + b"x" * 1_000_000, True),
    "long": (HUGE, False),
    "comment": (b": ping\n\n", False),
    "null-error": (event({"error": None, "choices": []}), False),
    "null-choices": (event({"choices": None}), False),
}


@pytest.mark.parametrize("name", PROMPTED)
async def test_a_prompts_stream_has_all_its_words_or_an_error(stack: Stack, name: str) -> None:
    """An event that can't be read ends it with an error: no result with a hole in it."""
    part, fails = PROMPTED[name]
    async with hostile(says(EVENTS, HELLO, part, HELLO, BILL, DONE)) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with provided(stack, url, model="gpt-4o-mini") as provider:
            status, text, _ = await stack.execute(stream=True)
            await nothing_left(stack, provider)
    found = events(text)
    names = [one for one, _ in found]
    assert status == 200
    assert names[-1] == ("error" if fails else "result")
    assert names.count("error") == fails
    words = "".join(data["text"] for one, data in found if one == "delta")
    long = "x" * 10_000_000 if name == "long" else ""
    assert words == ("hello" if fails else f"hello{long}hello")
    if not fails:
        assert found[-1][1]["response"] == words


async def test_an_event_of_10_mb_passes_whole(stack: Stack) -> None:
    """Piece by piece; it is charged as the provider says, at most as allowed where it does not."""
    case = Case("huge", says(EVENTS, HUGE, DONE), None, GUESSED_LONG)
    seen = await check(stack, case, True)
    assert seen.text == HUGE + DONE
