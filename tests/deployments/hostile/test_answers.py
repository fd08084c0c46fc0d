import gzip
from typing import Any

import orjson
import pytest

from tests.deployments.hostile.cases import (
    BROKEN,
    GUESSED,
    REFUSED,
    THROTTLED,
    WELL,
    Case,
    Told,
    both,
    pairs,
)
from tests.deployments.hostile.meeting import breaker_of, check
from tests.deployments.hostile.server import (
    BILL,
    DONE,
    EVENTS,
    USAGE,
    Script,
    answers,
    completion,
    delta,
    event,
    reply,
    says,
)
from tests.stack import Stack

pytestmark = pytest.mark.anyio

GOOD = completion()
STREAM = delta("hello") + BILL + DONE
ERROR = orjson.dumps({"error": {"message": "overloaded", "type": "server_error"}})
PAGE = b"<html>\n\n<body>Bad gateway</body></html>\n\n"
JSON = "content-type: application/json"
HTML = "content-type: text/html"
EVENT_STREAM = "content-type: text/event-stream"
PACKED = "content-encoding: gzip"
BOMB = gzip.compress(bytes(64 * 2**20))
CLIENTS_FAULT = Told(400, "invalid_request", "ignored", "free", 1)
OURS = Told(502, "provider_error", "ignored", "free", 1)
REDIRECTED = Told(502, "provider_error", "failure", "free", 1)


def status(line: str, *headers: str, body: bytes = b"") -> Script:
    """Answers with a status."""
    return answers(reply(body, *headers, status=line))


def none_of(**changes: Any) -> Script:
    """Answers with a completion in which something is wrong."""
    return answers(reply(completion(**changes), JSON))


STATUSES = [
    both("408", status("408 Slow"), REFUSED),
    both("500-without-a-body", status("500 No"), REFUSED),
    both("502-with-a-page", status("502 Bad", HTML, body=PAGE), REFUSED),
    both("503-with-an-error", status("503 Busy", JSON, body=ERROR), REFUSED),
    both("503-packed", status("503 Busy", PACKED, body=gzip.compress(ERROR)), REFUSED),
    both("599", status("599 ?"), REFUSED),
    both("999", status("999 ?"), REFUSED),
    both("529", status("529 Overloaded", body=ERROR), THROTTLED),
    both("401", status("401 Who", body=b"key sk-secret is unknown"), OURS),
    both("404", status("404 What"), OURS),
    both("400", status("400 No", body=ERROR), CLIENTS_FAULT),
    both("201", status("201 Made", JSON, body=GOOD), BROKEN),
    both("204", answers(b"HTTP/1.1 204 Nothing\r\n\r\n"), BROKEN),
    both("206", status("206 Part", JSON, body=GOOD), BROKEN),
    both("304", answers(b"HTTP/1.1 304 Same\r\n\r\n"), REDIRECTED),
    both("redirect-without-a-place", status("302 Moved"), REDIRECTED),
]
ANSWERS = [
    both("empty", answers(reply(b"", JSON)), BROKEN),
    both("error-in-a-200", answers(reply(ERROR, JSON)), BROKEN),
    both("page", answers(reply(PAGE, HTML)), BROKEN),
    both("packed", answers(reply(gzip.compress(GOOD), JSON, PACKED)), BROKEN),
    both("packed-bomb", answers(reply(BOMB, JSON, PACKED)), BROKEN),
    Case("stream-packed", answers(reply(STREAM, EVENT_STREAM, PACKED)), None, BROKEN),
    Case("stream-for-a-plain-call", says(EVENTS + STREAM), BROKEN, None),
    Case("completion-for-a-stream", answers(reply(GOOD, JSON)), None, BROKEN),
    Case("json-cut-off", answers(reply(GOOD[:-9], JSON)), BROKEN, None),
    Case("json-nested-deeply", answers(reply(b"[" * 100_000, JSON)), BROKEN, None),
    Case("json-of-invalid-utf-8", answers(reply(GOOD.replace(b"hello", b"\xff"))), BROKEN, None),
    Case("null", answers(reply(b"null", JSON)), BROKEN, None),
    Case("list", answers(reply(b"[1]", JSON)), BROKEN, None),
    Case("no-choices", none_of(choices=[]), BROKEN, None),
    Case("choices-an-object", none_of(choices={}), BROKEN, None),
    Case("choices-a-word", none_of(choices="hello"), BROKEN, None),
    Case("choices-of-words", none_of(choices=["hello"]), BROKEN, None),
    Case("choices-missing", none_of(choices=None), BROKEN, None),
    Case("choice-without-a-message", none_of(choices=[{"index": 0}]), BROKEN, None),
]


@pytest.mark.parametrize(("case", "stream"), pairs(STATUSES)[0], ids=pairs(STATUSES)[1])
async def test_a_status_that_is_no_answer(stack: Stack, case: Case, stream: bool) -> None:
    """An error costs nothing; what claims to be a success and brings none may be billed."""
    seen = await check(stack, case, stream)
    assert case.name[:3] in seen.message or case.name[:3] in ("red", "400", "401"), seen


@pytest.mark.parametrize(("case", "stream"), pairs(ANSWERS)[0], ids=pairs(ANSWERS)[1])
async def test_a_200_that_is_no_completion(stack: Stack, case: Case, stream: bool) -> None:
    """It is a failure, whatever its status says; a stream of it is never begun."""
    await check(stack, case, stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_named_and_not_followed(stack: Stack, code: int, stream: bool) -> None:
    """Not one of a hundred: a followed call might be paid for twice."""
    script = status(f"{code} Moved", "location: /v1/chat/completions")
    seen = await check(stack, both("redirect", script, REDIRECTED), stream)
    assert f"{code}: a redirect" in seen.message


BELIEVED: list[Any] = [
    {"prompt_tokens": 5, "completion_tokens": 3},
    {**USAGE, "prompt_tokens_details": {"cached_tokens": 2**63}},
    {**USAGE, "prompt_tokens_details": {"cached_tokens": -7}},
    {**USAGE, "prompt_tokens_details": [1]},
    {**USAGE, "completion_tokens_details": {"reasoning_tokens": 2**62}},
    {**USAGE, "completion_tokens_details": {"reasoning_tokens": "3"}},
]
ABSURD: list[Any] = [
    {"prompt_tokens": 5, "completion_tokens": -3},
    {"prompt_tokens": -5, "completion_tokens": 3},
    {"prompt_tokens": "5", "completion_tokens": "3"},
    {"prompt_tokens": 5, "completion_tokens": 2**62},
    {"prompt_tokens": 1e99, "completion_tokens": 3},
    {"prompt_tokens": 5.0, "completion_tokens": 3.0},
    {"prompt_tokens": 5, "completion_tokens": None},
    {"prompt_tokens": True, "completion_tokens": True},
    {"prompt_tokens": 5},
    {"prompt_tokens": 5, "completion_tokens": []},
    {},
    [],
    "3",
    7,
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("usage", "told"), [(one, WELL) for one in BELIEVED] + [(one, GUESSED) for one in ABSURD]
)
async def test_usage_that_cannot_be_is_not_believed(
    stack: Stack, usage: Any, told: Told, stream: bool
) -> None:
    """The answer is good; its cost is estimated by its bytes. Absurd details are passed over."""
    bill = event({"choices": [], "usage": usage})
    plain = answers(reply(completion(usage=usage), JSON))
    script = says(EVENTS + delta("hello") + bill + DONE) if stream else plain
    await check(stack, both("usage", script, told), stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("asked", "calls", "rest_s"),
    [
        ("-5", 2, 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 2, 0),
        ("soon", 2, 0),
        ("nan", 2, 0),
        ("", 2, 0),
        ("\xff" * 100, 2, 0),
        ("9" * 5000, 2, 0),
        ("1e308", 1, 86_400),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1, 86_400),
        ("Wed, 99 Foo 99999 99:99:99 +9999", 2, 0),
    ],
)
async def test_an_absurd_retry_after(
    stack: Stack, asked: str, calls: int, rest_s: float, stream: bool
) -> None:
    """The past and nonsense are no wait; no rest is over a day, no attempt waits that long."""
    told = Told(502, "provider_error", "throttled", "free", calls)
    script = status("429 Slow", f"retry-after: {asked}", body=ERROR)
    seen = await check(stack, both("retry-after", script, told), stream)
    rests_s = (await breaker_of(stack))["retry_after_ns"] / 1e9
    assert rest_s - 60 < rests_s <= rest_s
    assert "overloaded" in seen.message
