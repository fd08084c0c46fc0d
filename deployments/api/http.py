"""Reading requests and writing replies, on plain ASGI: this is the hot path."""

import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from actors.errors import InvalidRequest, RaygateError, RequestTooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
EVENTS: tuple[bytes, bytes] = (b"content-type", b"text/event-stream; charset=utf-8")

log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client left before it had sent its whole request."""


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The request's headers, names in lower case; of a repeated one the last."""
    return dict(scope["headers"])


async def read_body(headers: dict[bytes, bytes], receive: Receive, at_most: int) -> bytes:
    """The whole body. Raises RequestTooLarge as soon as that is known."""
    told = headers.get(b"content-length")
    if told is not None and told.isdigit() and int(told) > at_most:
        raise _too_large(at_most)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > at_most:
            raise _too_large(at_most)
        if not message.get("more_body", False):
            return part if not parts else b"".join([*parts, part])
        parts.append(part)


def _too_large(at_most: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The body is over {at_most:,} bytes, the most that this gateway takes. Send less, or "
        "raise max_body_bytes in its configuration.",
        should_retry=False,
    )


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return found


async def send_bytes(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A complete reply."""
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, content: Any, status: int = 200) -> None:
    """A complete JSON reply (keys sorted as given; integers, floats, strings, lists, ...)."""
    await send_bytes(send, status, [JSON], orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS))


def error_object(error: RaygateError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        }
    }


def error_headers(error: RaygateError) -> Headers:
    """`retry-after` and `x-should-retry`, where they apply."""
    headers: Headers = [JSON]
    after_s = error.retry_after_s
    if after_s is None and error.status == 503:
        after_s = 1.0
    if after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(after_s))).encode()))
        headers.append((b"retry-after-ms", str(math.ceil(after_s * 1000)).encode()))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    return headers


async def send_error(send: Send, error: BaseException, extra: Headers | None = None) -> None:
    """Any error as a client may see it; what is not a RaygateError is logged, not shown."""
    if not isinstance(error, RaygateError):
        log.error("a request broke", exc_info=error)
        error = RaygateError("Something broke within the gateway; it has been logged.")
    headers = error_headers(error) + (extra or [])
    await send_bytes(send, error.status, headers, orjson.dumps(error_object(error)))
