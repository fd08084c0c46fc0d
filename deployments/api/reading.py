"""From HTTP to a `Request`: headers and bodies, checked."""

import asyncio
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.errors import InvalidRequest, NotAllowed
from actors.key_store import KeyRecord
from deployments.api.auth import PRIORITIES
from deployments.request import NO_WISHES, CacheWishes, PromptCall, Request
from deployments.services import Services
from deployments.telemetry.trace import Trace

_NUMBER = (int, float)
_CHAT_FIELDS: dict[str, tuple[type, ...]] = {
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "seed": (int,),
    "user": (str,),
    "tools": (list,),
    "stop": (str, list),
    "response_format": (dict,),
    "stream_options": (dict,),
    "metadata": (dict,),
    "logit_bias": (dict,),
    "stream": (bool,),
    "n": (int,),
    "max_tokens": (int,),
    "max_completion_tokens": (int,),
}
_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    bool: "true or false",
}
_MAX_TAGS = 20
_NO_TAGS: dict[str, str] = {}
_MAX_USER = 256


class ExecuteBody(BaseModel):
    """The body of `POST /v1/prompts/{id}/execute`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: dict[str, Any]
    user_id: str = Field(default="", max_length=_MAX_USER)
    experiment_id: str | None = Field(default=None, max_length=200)
    priority: str | None = None
    version: int | None = Field(default=None, ge=1)
    label: str | None = Field(default=None, max_length=200)
    stream: bool = False


def chat_request(
    services: Services,
    key: KeyRecord,
    headers: dict[bytes, bytes],
    body: dict[str, Any],
    trace: Trace,
    size: int,
) -> Request:
    """A chat completion as its client asks for it. Raises InvalidRequest and NotAllowed."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model must be given, as a string.", param="model")
    _check_messages(body.get("messages"))
    for name, value in body.items():
        kinds = _CHAT_FIELDS.get(name)
        if (
            kinds is not None
            and value is not None
            and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds))
        ):
            words = " or ".join(
                _WORDS[kind] for kind in kinds if kind is not int or kinds == (int,)
            )
            raise InvalidRequest(f"{name} must be {words}.", param=name)
    stream = bool(body.get("stream"))
    options = body.get("stream_options") or {}
    user = body.get("user") or ""
    if len(user) > _MAX_USER:
        raise InvalidRequest(f"user must have at most {_MAX_USER} characters.", param="user")
    trace.facts["bytes"] = size
    return _request(
        services,
        key,
        headers,
        trace,
        endpoint="chat",
        model=model,
        body=body,
        stream=stream,
        include_usage=bool(options.get("include_usage")),
        user=user,
    )


def prompt_request(
    services: Services,
    key: KeyRecord,
    headers: dict[bytes, bytes],
    body: dict[str, Any],
    trace: Trace,
    template_id: str,
) -> Request:
    """A prompt to be executed. Raises InvalidRequest and NotAllowed."""
    try:
        asked = ExecuteBody.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{path}: {first['msg']}.", param=path) from None
    return _request(
        services,
        key,
        headers,
        trace,
        endpoint="prompt",
        model="",
        body={},
        stream=asked.stream,
        include_usage=False,
        user=asked.user_id,
        priority=asked.priority,
        prompt=PromptCall(
            template_id, asked.inputs, asked.version, asked.label, asked.experiment_id
        ),
    )


def _request(
    services: Services,
    key: KeyRecord,
    headers: dict[bytes, bytes],
    trace: Trace,
    *,
    priority: str | None = None,
    **fields: Any,
) -> Request:
    args = services.args
    word = priority or headers.get(b"x-raygate-priority", b"normal").decode("latin-1").lower()
    rank = PRIORITIES.get(word)
    if rank is None:
        raise InvalidRequest("priority must be high, normal or low.", param="priority")
    if rank == 0 and not key.may_be_high:
        raise NotAllowed("This key may not ask with high priority.", param="priority")
    timeout_s = _seconds(headers, b"x-raygate-timeout", args.default_timeout_s)
    if not 0 < timeout_s <= args.max_timeout_s:
        raise InvalidRequest(
            f"x-raygate-timeout must be over 0 and at most {args.max_timeout_s:g} seconds.",
            param="x-raygate-timeout",
        )
    wait_s = min(10.0, key.max_wait_ns / 1e9)
    if b"x-raygate-max-wait" in headers:
        wait_s = min(_seconds(headers, b"x-raygate-max-wait", wait_s), key.max_wait_ns / 1e9)
    # A header per request is rare enough: the common request has none of these.
    rare = headers.keys() & {b"x-raygate-cache", b"x-raygate-tags", b"x-raygate-fallback"}
    id = services.mint()
    trace.request_id = trace.request_id or id
    tags = _NO_TAGS
    if b"x-raygate-tags" in rare:
        tags = tags_of(headers[b"x-raygate-tags"].decode("utf-8", "replace"))
    trace.facts |= {
        "endpoint": fields["endpoint"],
        "key": key.id,
        "team": key.team,
        "user": fields["user"],
        "priority": rank,
        "stream": fields["stream"],
        "tags": tags,
    }
    return Request(
        id=id,
        key=key,
        priority=rank,
        max_wait_ns=round(min(wait_s, timeout_s) * 1e9),
        deadline=asyncio.get_running_loop().time() + timeout_s,
        trace=trace,
        cache=_cache_wishes(headers[b"x-raygate-cache"])
        if b"x-raygate-cache" in rare
        else NO_WISHES,
        tags=tags,
        fallback_allowed=b"x-raygate-fallback" not in rare
        or headers[b"x-raygate-fallback"].strip().lower() != b"off",
        **fields,
    )


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list with at least one message.", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest(
                f"messages.{index} must be an object with a role.", param=f"messages.{index}.role"
            )
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise InvalidRequest(
                f"messages.{index}.content must be a string or a list of parts.",
                param=f"messages.{index}.content",
            )


def _seconds(headers: dict[bytes, bytes], name: bytes, default: float) -> float:
    given = headers.get(name)
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        word = name.decode()
        raise InvalidRequest(f"{word} must be a number of seconds.", param=word)
    return seconds


def _cache_wishes(given: bytes) -> CacheWishes:
    wishes: dict[str, Any] = {}
    for word in given.decode("latin-1").lower().split(","):
        name, _, value = word.strip().partition("=")
        if name in ("no-cache", "no-store", "only-if-cached"):
            wishes[name.replace("-", "_")] = True
        elif name == "max-age" and value.isascii() and value.isdigit() and len(value) < 10:
            wishes["max_age_ns"] = int(value) * 1_000_000_000
        else:
            raise InvalidRequest(
                "x-raygate-cache takes no-cache, no-store, max-age=SECONDS and only-if-cached.",
                param="x-raygate-cache",
            )
    return CacheWishes(**wishes)


def tags_of(given: str) -> dict[str, str]:
    """The pairs in `a=b,c=d`. Raises InvalidRequest."""
    tags: dict[str, str] = {}
    for word in given.split(","):
        name, equals, value = word.strip().partition("=")
        if not equals or not name or len(name) > 64 or len(value) > 256 or len(tags) >= _MAX_TAGS:
            raise InvalidRequest(
                f"x-raygate-tags takes up to {_MAX_TAGS} pairs a=b, separated by commas.",
                param="x-raygate-tags",
            )
        tags[name] = value
    return tags
