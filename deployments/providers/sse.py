"""Following a stream of server-sent events while it is relayed byte by byte.

What passes is searched for a few words, and only where one of them is found are events told apart
and looked at; JSON is parsed once, at the end. Quotes within a JSON string are always escaped, so
a pattern that begins with an unescaped `"name":` never matches inside somebody's text.

Source: WHATWG HTML, "Server-sent events"; lines may end in LF or CRLF.
"""

import re
from typing import Any

import orjson

MAX_EVENT_BYTES = 256 * 1024
"""A longer event is relayed unseen: no usage is looked for in it, and all of it is content."""

SAMPLE_BYTES = 64 * 1024
"""Of a longer stream, this much is searched for text, and the rest is taken to be like it."""

# Up to the first blank line. Those before an event are no part of it: they can be relayed before
# it is known.
_EVENT = re.compile(rb"[\r\n]*+((?:[^\n]*+\n(?!\r?\n))*+[^\n]*+\n\r?\n)")
_BOUNDARY = re.compile(rb"\n\r?\n")
# In a string that stands in its line as a whole, so that it does not matter how many events are
# searched at once.
_TEXT = re.compile(
    rb'"(?:content|reasoning_content|reasoning|refusal|arguments|text)"[ \t]*+:[ \t]*+'
    rb'"([^"\\\n]*+(?:\\.[^"\\\n]*+)*+)"'
)
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_DATA = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)
_DONE = (b"data: [DONE]", b"data:[DONE]")


class StreamTail:
    """What a stream has said so far, for settling it at its end.

    keep_usage: False when the client did not ask for usage: the usage-only event that was ordered
        for our own sake is then withheld from it.

    done: whether `[DONE]` came.
    failed: whether an event was an error object: the provider failed in mid-stream.

    However the stream is cut into chunks, the same bytes are relayed and the same is seen. Only
    whole events are relayed, so that an error event of ours may follow at any time; at most
    MAX_EVENT_BYTES are held back, after which a long event passes piece by piece.
    """

    __slots__ = (
        "_held",
        "_keep_usage",
        "_long",
        "_passed",
        "_sample",
        "_seen",
        "_usage_event",
        "done",
        "failed",
    )

    def __init__(self, keep_usage: bool) -> None:
        self._keep_usage = keep_usage
        self._held = b""
        self._passed = 0
        self._usage_event: bytes | None = None
        self._long = 0
        self._seen = 0
        self._sample: list[bytes] = []
        self.done = False
        self.failed = False

    @property
    def content_bytes(self) -> int:
        """Bytes of generated text, tool arguments and reasoning, as written in JSON."""
        sample = b"".join(self._sample)[:SAMPLE_BYTES]
        text = sum(map(len, _TEXT.findall(sample)))
        if self._seen > SAMPLE_BYTES:
            text = text * self._seen // SAMPLE_BYTES
        return text + self._long

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes from upstream; returns what may be relayed now, perhaps nothing.

        The chunk itself comes back, uncopied, when it holds whole events and nothing to withhold.
        """
        held = self._held
        whole = held + chunk if held else chunk
        if whole.endswith(b"\n\n"):
            self._held = b""
            return self._take(whole)
        # What was held has no boundary in it, but one may lie across its end.
        end = self._end(whole, max(len(held) - 2, 0))
        self._held = whole[end:]
        relayed = self._take(whole[:end]) if end else b""
        if self._passed + len(self._held) > MAX_EVENT_BYTES:
            relayed += self._pass_on()
        return relayed

    def flush(self) -> bytes:
        """What is still held back, when upstream ended by itself (not when it broke off)."""
        held, self._held = self._held, b""
        if self._passed:
            self._long += self._passed + len(held)
            self._passed = 0
            return held
        return b"" if held and self._look(held) else held

    def usage(self) -> dict[str, Any] | None:
        """The usage of the last event that carried one."""
        if self._usage_event is None:
            return None
        event = _parse(self._usage_event)
        found = event.get("usage") if event is not None else None
        return found if isinstance(found, dict) else None

    def _end(self, data: bytes, begin: int) -> int:
        """Where the last whole event ends, and the blank lines after it; 0 without one."""
        lf, crlf = data.rfind(b"\n\n", begin), data.rfind(b"\n\r\n", begin)
        end = max(lf + 2 if lf >= 0 else 0, crlf + 3 if crlf >= 0 else 0)
        if end or not self._passed:
            while end < len(data) and data[end] in b"\r\n":
                end += 1
        return end

    def _take(self, whole: bytes) -> bytes:
        """Whole events; returns those that are relayed."""
        # Long words first: the longer one is, the faster it is not found.
        if (
            b'"prompt_tokens"' in whole
            or b"data: [DONE]" in whole
            or b"data:[DONE]" in whole
            or b'"error"' in whole
            or self._passed
            or (len(whole) > MAX_EVENT_BYTES and _has_long_event(whole))
        ):
            return self._look_at_each(whole)
        self._note(whole)
        return whole

    def _note(self, events: bytes) -> None:
        if self._seen < SAMPLE_BYTES:
            self._sample.append(events)
        self._seen += len(events)

    def _look_at_each(self, whole: bytes) -> bytes:
        """Events one by one; returns those that are relayed."""
        at = relayed = 0
        if self._passed and (boundary := _BOUNDARY.search(whole)):
            at = boundary.end()
            self._long += self._passed + at
            self._passed = 0
        kept: list[bytes] = []
        for event in _EVENT.finditer(whole, at):
            start, end = event.span(1)
            self._note(whole[at:start])
            if self._look(event[1]):
                kept.append(whole[relayed:start])
                relayed = end
            at = end
        self._note(whole[at:])
        if not relayed:
            return whole
        kept.append(whole[relayed:])
        return b"".join(kept)

    def _look(self, event: bytes) -> bool:
        """Note one whole event; True when it is to be withheld."""
        if len(event) > MAX_EVENT_BYTES:
            self._long += len(event)
            return False
        self._note(event)
        if b"data:" not in event:
            return False
        if len(event) < 32 and event.strip() in _DONE:
            self.done = True
            return False
        if b'"error"' in event:
            # Rare enough to be parsed: the word may stand in an answer's text as well.
            parsed = _parse(event)
            self.failed = self.failed or (parsed is not None and bool(parsed.get("error")))
        if b'"prompt_tokens"' not in event or not _USAGE.search(event):
            return False
        self._usage_event = event
        return not self._keep_usage and _NO_CHOICES.search(event) is not None and _is_bill(event)

    def _pass_on(self) -> bytes:
        """The beginning of a very long event."""
        # A boundary may begin in the last two bytes, so these stay.
        passed, self._held = self._held[:-2], self._held[-2:]
        self._passed += len(passed)
        return passed


def has_event(data: bytes) -> bool:
    """Whether the beginning of a stream holds a whole event (or a blank line before one)."""
    return b"\n\n" in data or b"\n\r\n" in data


def opening_error(data: bytes) -> bytes:
    """The JSON of a stream's first event, comments passed over, where it is an error object."""
    for event in _EVENT.finditer(data):
        if b"data:" in event[1]:
            parsed = _parse(event[1])
            failed = parsed is not None and bool(parsed.get("error"))
            return b"\n".join(_DATA.findall(event[1])) if failed else b""
    return b""


def _has_long_event(whole: bytes) -> bool:
    """Whether there may be one of more than MAX_EVENT_BYTES."""
    at = 0
    while len(whole) - at > MAX_EVENT_BYTES:
        found = whole.rfind(b"\n\n", at, at + MAX_EVENT_BYTES)
        if found < 0:
            return True
        at = found + 2
    return False


def _is_bill(event: bytes) -> bool:
    parsed = _parse(event)
    return (
        parsed is not None and parsed.get("choices") == [] and isinstance(parsed.get("usage"), dict)
    )


def _parse(event: bytes) -> dict[str, Any] | None:
    try:
        parsed = orjson.loads(b"\n".join(_DATA.findall(event)))
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None
