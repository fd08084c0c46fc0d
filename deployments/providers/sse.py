"""Following a stream of server-sent events while it is relayed byte by byte.

Events are told apart by their blank line and looked at with two regular expressions; JSON is
parsed once, at the end. Quotes within a JSON string are always escaped, so a pattern that begins
with an unescaped `"name":` never matches inside somebody's text.

Source: WHATWG HTML, "Server-sent events"; lines may end in LF or CRLF.
"""

import re
from typing import Any

import orjson

MAX_EVENT_BYTES = 256 * 1024
"""A longer event is relayed unseen: no usage is looked for in it, and all of it is content."""

_BOUNDARY = re.compile(rb"\n\r?\n")
_TEXT = re.compile(
    rb'"(?:content|reasoning_content|reasoning|refusal|arguments|text)"\s*:\s*'
    rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
)
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_DATA = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)


class StreamTail:
    """What a stream has said so far, for settling it at its end.

    keep_usage: False when the client did not ask for usage: the usage-only event that was ordered
        for our own sake is then withheld from it.

    events: events with data that were seen, the final `[DONE]` not counted.
    content_bytes: bytes of generated text, tool arguments and reasoning, as written in JSON.
    saw_content: whether there was any.
    done: whether `[DONE]` came.
    failed: whether an event was an error object: the provider failed in mid-stream.

    However the stream is cut into chunks, the same bytes are relayed and the same is seen. Only
    whole events are relayed, so that an error event of ours may follow at any time; at most
    MAX_EVENT_BYTES are held back, after which a long event passes piece by piece.
    """

    __slots__ = (
        "_held",
        "_keep_usage",
        "_passed",
        "_usage_event",
        "content_bytes",
        "done",
        "events",
        "failed",
        "saw_content",
    )

    def __init__(self, keep_usage: bool) -> None:
        self._keep_usage = keep_usage
        self._held = b""
        self._passed = 0
        self._usage_event: bytes | None = None
        self.events = 0
        self.content_bytes = 0
        self.saw_content = False
        self.done = False
        self.failed = False

    @property
    def mid_event(self) -> bool:
        """Whether what was relayed so far ends within an event (only within a very long one)."""
        return self._passed > 0

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes from upstream; returns what may be relayed now, perhaps nothing.

        The chunk itself comes back, uncopied, when it holds whole events and nothing to withhold.
        """
        held = self._held
        # Two line feeds, both at the end: exactly one event, which is how most servers flush.
        if not held and chunk.endswith(b"\n\n") and chunk.count(b"\n") == 2:
            return b"" if self._see(chunk) else chunk
        data = held + chunk if held else chunk
        # What was held has no boundary in it, but one may lie across its end.
        search_from = max(len(held) - 2, 0)
        start = relayed = 0
        kept: list[bytes] = []
        for boundary in _BOUNDARY.finditer(data, search_from):
            end = boundary.end()
            if self._see(data[start:end]):
                kept.append(data[relayed:start])
                relayed = end
            start = end
        self._held = data[start:]
        if self._passed + len(self._held) > MAX_EVENT_BYTES:
            self._pass_long_event()
            start = len(data) - len(self._held)
        if relayed == 0 and start == len(data):
            return data
        kept.append(data[relayed:start])
        return b"".join(kept)

    def flush(self) -> bytes:
        """What is still held back, when upstream ended by itself (not when it broke off)."""
        held, self._held = self._held, b""
        if not held and not self._passed:
            return b""
        return b"" if self._see(held) else held

    def usage(self) -> dict[str, Any] | None:
        """The usage of the last event that carried one."""
        if self._usage_event is None:
            return None
        event = _parse(self._usage_event)
        found = event.get("usage") if event is not None else None
        return found if isinstance(found, dict) else None

    def _see(self, event: bytes) -> bool:
        """Note one whole event; True when it is to be withheld."""
        if self._passed or len(event) > MAX_EVENT_BYTES:
            self.events += 1
            self.saw_content = True
            self.content_bytes += self._passed + len(event)
            self._passed = 0
            return False
        if not event.startswith(b"data:") and b"data:" not in event:
            return False
        if len(event) < 32 and event.strip() in (b"data: [DONE]", b"data:[DONE]"):
            self.done = True
            return False
        self.events += 1
        if b'"error"' in event:
            # Rare enough to be parsed: the word may stand in an answer's text as well.
            parsed = _parse(event)
            self.failed = self.failed or (parsed is not None and bool(parsed.get("error")))
        # Text comes after "delta" where there is one, so the constant head is passed over.
        for text in _TEXT.findall(event, max(event.find(b'"delta"'), 0)):
            if text:
                self.saw_content = True
                self.content_bytes += len(text)
        usage_at = event.find(b'"usage"')
        if usage_at >= 0 and _USAGE.search(event, usage_at):
            self._usage_event = event
            return (
                not self._keep_usage and _NO_CHOICES.search(event) is not None and _is_bill(event)
            )
        return False

    def _pass_long_event(self) -> None:
        # A boundary may begin in the last two bytes, so these stay.
        keep = self._held[-2:]
        self._passed += len(self._held) - len(keep)
        self._held = keep


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
