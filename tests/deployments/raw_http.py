"""Requests as bytes, made to go wrong, and what came back."""

import json
import socket
from collections import Counter
from http.client import HTTPResponse
from urllib.parse import urlsplit

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deployments.api.openapi import document

_TARGETS = [
    (method.upper(), path) for path, calls in document()["paths"].items() for method in calls
]
# A knob that is turned would decide what comes of all later requests.
_TARGETS.remove(("PUT", "/admin/v1/providers/{name}/{what}"))
_NAMES = [
    "x-raygate-priority", "x-raygate-cache", "x-raygate-timeout", "x-raygate-max-wait",
    "x-raygate-fallback", "x-raygate-tags", "idempotency-key", "traceparent", "x-request-id",
    "content-type", "authorization", "x-api-key", "accept", "expect",
]  # fmt: skip
_LINE = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
_VALUES = st.one_of(
    st.text(_LINE, max_size=30),
    st.sampled_from(
        ["high", "low", "no-cache", "max-age=1", "max-age=\xb2", "0.5", "1e-3", "nan", "off",
         "a=b", "a=b,c=\xe9", "100-continue", "Bearer ", "bearer rg-x", "00-" + "a" * 32 + "-"]
    ),
)  # fmt: skip
_HEADERS = st.lists(st.tuples(st.sampled_from(_NAMES), _VALUES), max_size=4)
_WORDS = st.one_of(
    st.sampled_from(["business_analysis_v1", "simulated", "control", "stats", "log", "daily"]),
    st.text("abc%/.~\\|&=?#é\x00 0", max_size=8),
    st.binary(max_size=6).map(lambda raw: raw.decode("latin-1")),
)
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "id", "a"]), parts, max_size=3
        )
    ),
    max_leaves=6,
)
_FIELDS = sorted(
    {
        name
        for schema in document()["components"]["schemas"].values()
        for name in schema.get("properties", {})
    }
)
_CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
_BODIES = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.dictionaries(st.sampled_from(_FIELDS), _PLAIN, max_size=4).map(
        lambda more: json.dumps(_CHAT | more).encode("utf-8", "surrogatepass")
    ),
    st.dictionaries(st.sampled_from(_FIELDS), _PLAIN, max_size=5).map(
        lambda fields: json.dumps(fields).encode("utf-8", "surrogatepass")
    ),
)
_QUERIES = st.lists(
    st.tuples(
        st.sampled_from(
            ["limit", "cursor", "after", "by", "days", "tags", "stream", "status", "x"]
        ),
        st.sampled_from(["1", "-1", "9" * 19, "day", "1.2", "%D9%A3", "%FF", "a=b", "²", ""])
        | _WORDS,
    ),
    max_size=3,
)


class Fuzzer:
    """keys: secrets by role. counts: how often each status came."""

    def __init__(self, url: str, keys: dict[str, str]) -> None:
        at = urlsplit(url)
        assert at.hostname
        assert at.port
        self._address = (at.hostname, at.port)
        self._keys = keys
        self.counts: Counter[int] = Counter()

    def run(self, examples: int) -> None:
        """Send so many; fails where a reply is not one of ours, or one that must not be."""

        @given(
            target=st.sampled_from(_TARGETS),
            words=st.lists(_WORDS, min_size=2, max_size=2),
            query=_QUERIES,
            headers=_HEADERS,
            role=st.sampled_from(["admin", "admin", "user"]),
            body=_BODIES,
        )
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def one(
            target: tuple[str, str],
            words: list[str],
            query: list[tuple[str, str]],
            headers: list[tuple[str, str]],
            role: str,
            body: bytes,
        ) -> None:
            method, path = target
            for word in words:
                before, brace, rest = path.partition("{")
                path = before + word + rest.partition("}")[2] if brace else path
            if query:
                path += "?" + "&".join(f"{name}={value}" for name, value in query)
            self._send(method, path, headers, role, body)

        one()

    def _send(
        self, method: str, path: str, headers: list[tuple[str, str]], role: str, body: bytes
    ) -> None:
        quoted = "".join(
            letter
            if "!" <= letter <= "~" and letter != "#"
            else "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
            for letter in path
        )
        head = [f"{method} {quoted} HTTP/1.1", "host: gateway", f"content-length: {len(body)}"]
        head += [f"authorization: Bearer {self._keys[role]}", "connection: close"]
        head += [f"{name}: {value}" for name, value in headers]
        sent = "\r\n".join([*head, "", ""]).encode("latin-1") + body
        with socket.create_connection(self._address, timeout=30) as line:
            line.sendall(sent)
            reply = HTTPResponse(line, method=method)
            reply.begin()
            content = reply.read()
        self.counts[reply.status] += 1
        assert reply.status != 500, (sent, content)
        kind = reply.headers.get("content-type", "")
        if reply.status >= 400 and content != b"Invalid HTTP request received.":
            assert kind == "application/json", (sent, reply.status, content)
            assert {"error", "status"} & json.loads(content).keys(), (sent, content)
            assert b"Traceback" not in content
