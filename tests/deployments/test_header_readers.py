"""Headers, bodies and queries as anybody may send them: an error of ours, or what is meant."""

import string
from collections.abc import Callable
from typing import Any

import pytest
from anyio import to_thread
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.errors import InvalidRequest
from deployments.api import reading
from deployments.api.http import parse_object
from deployments.telemetry.trace import new_trace
from tests.deployments.raw_http import Fuzzer
from tests.stack import Stack

digits = st.text("0123456789²٣.,-+eE_x nainf", max_size=12)
words = st.sampled_from(["no-cache", "no-store", "max-age", "only-if-cached", "=", ",", " ", ";"])
wishes = st.lists(words | digits, max_size=6).map("".join)


def read(reader: Callable[..., Any], *args: Any) -> tuple[Any, str | None]:
    """What it found, or the field that it names as wrong."""
    try:
        return reader(*args), None
    except InvalidRequest as error:
        return None, error.param


def latin(text: str) -> bytes:
    """As a header brings it."""
    return text.encode("latin-1", "replace")


@given(given=wishes.map(latin) | st.binary(max_size=20))
@example(given=b"max-age=\xb2")
def test_cache_wishes_are_read_or_refused(given: bytes) -> None:
    """An age is a whole number of seconds; everything else is told off by name."""
    found, wrong = read(reading._cache_wishes, given)
    assert wrong in (None, "x-raygate-cache")
    assert wrong or found.max_age_ns is None or 0 <= found.max_age_ns < 10**18


@given(given=digits.map(latin) | st.binary(max_size=20))
def test_seconds_are_read_or_refused(given: bytes) -> None:
    """A finite number of seconds, 0 or more."""
    header = b"x-raygate-timeout"
    found, wrong = read(reading._seconds, {header: given}, header, 1.0)
    assert wrong in (None, header.decode())
    assert wrong or 0 <= found < 1e9


@given(given=st.text("ab=, \x00\ud800", max_size=40) | st.text(max_size=40))
def test_tags_are_read_or_refused(given: str) -> None:
    """Few, short, and each with a name."""
    found, wrong = read(reading.tags_of, given)
    assert wrong in (None, "x-raygate-tags")
    assert wrong or 0 < len(found) <= 20
    assert wrong or all(name and "," not in name + value for name, value in found.items())


parents = st.lists(
    st.sampled_from(["00", "-", "0" * 32, "a" * 32, "b" * 16, "A" * 32, "01", "é"]), max_size=7
).map("".join)


@given(parent=parents.map(latin) | st.binary(max_size=60), name=st.binary(max_size=140))
def test_a_trace_always_has_a_name(parent: bytes, name: bytes) -> None:
    """The caller's where it is one, else one of ours; nothing else goes into our headers."""
    trace = new_trace({b"traceparent": parent, b"x-request-id": name})
    assert len(trace.id) == 32
    assert set(trace.id) <= set(string.hexdigits.lower())
    assert trace.request_id.isascii()
    assert all(letter.isprintable() for letter in trace.request_id)


@given(body=st.binary(max_size=60))
@example(body=b"[" * 100_000)
@example(body=b'{"a":' * 1_000 + b"1" + b"}" * 1_000)
def test_a_body_is_an_object_or_refused(body: bytes) -> None:
    """Never anything else, however deep."""
    found, _ = read(parse_object, body)
    assert found is None or isinstance(found, dict)


@pytest.mark.anyio
async def test_the_gateway_answers_whatever_the_bytes_are(stack: Stack) -> None:
    """Over a real socket: paths, queries, headers and bodies; a documented status, never a 500."""
    fuzzer = Fuzzer(stack.url, {"admin": stack.admin, "user": stack.user})
    examples = 3 * settings.default.max_examples
    await to_thread.run_sync(fuzzer.run, examples)
    assert sum(fuzzer.counts.values()) >= examples
    assert fuzzer.counts.keys() <= {200, 400, 401, 403, 404, 408, 409, 413, 422, 429, 502, 503, 504}
    assert (await stack.chat("still here"))[0] == 200
