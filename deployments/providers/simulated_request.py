"""Reading a chat request as strictly as OpenAI does, and answering errors in its shape."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from .simulated_knobs import MAX_OUTPUT_TOKENS

MAX_CHOICES = 16


class Refusal(Exception):
    """An error reply.

    status, kind, code, param: as in OpenAI's error object.
    headers: sent along.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, kind, code, param, headers)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The error object as JSON."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return orjson.dumps({"error": error})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request that can be answered.

    raw: the body as it came.
    choices: how many answers are wanted (`n`).
    max_tokens: the most output tokens of each, None for as many as it takes.
    include_usage: whether a stream ends with a usage chunk.
    """

    raw: dict[str, Any]
    model: str
    stream: bool
    include_usage: bool
    choices: int
    max_tokens: int | None


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object, or a 400."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(raw, dict):
        raise Refusal(400, "The body must be a JSON object.")
    return raw


def check_chat(raw: dict[str, Any], models: Mapping[str, object]) -> ChatRequest:
    """Check what we act upon; everything else is let through unread. Raises `Refusal`."""
    model = raw.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "You must provide a model parameter.", param="model")
    if model not in models:
        raise Refusal(
            404, f"The model `{model}` does not exist.", code="model_not_found", param="model"
        )
    messages = raw.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages must be a list with at least one message.", param="messages")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal(400, "A message is an object with a role.", param=f"messages.{i}")
    stream = _boolean(raw, "stream")
    options = raw.get("stream_options")
    if options is not None and not (stream and isinstance(options, dict)):
        raise Refusal(400, "stream_options is an object, for streams only.", param="stream_options")
    _check_tools(raw)
    most = _integer(raw, "max_completion_tokens", MAX_OUTPUT_TOKENS)
    if most is None:
        most = _integer(raw, "max_tokens", MAX_OUTPUT_TOKENS)
    return ChatRequest(
        raw=raw,
        model=model,
        stream=stream,
        include_usage=bool(options and options.get("include_usage")),
        choices=_integer(raw, "n", MAX_CHOICES) or 1,
        max_tokens=most,
    )


def _check_tools(raw: dict[str, Any]) -> None:
    tools = raw.get("tools")
    if tools is not None:
        if not isinstance(tools, list) or not tools:
            raise Refusal(400, "tools must be a list with at least one tool.", param="tools")
        for i, tool in enumerate(tools):
            function = tool.get("function") if isinstance(tool, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                text = "A tool is an object with a function that has a name."
                raise Refusal(400, text, param=f"tools.{i}")
    elif raw.get("tool_choice") not in (None, "none"):
        text = "tool_choice is only allowed when tools are specified."
        raise Refusal(400, text, param="tool_choice")
    shape = raw.get("response_format")
    if shape is not None and not isinstance(shape, dict):
        raise Refusal(400, "response_format must be an object.", param="response_format")


def _boolean(raw: dict[str, Any], name: str) -> bool:
    value = raw.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise Refusal(400, f"{name} must be true or false, not {_shown(value)}.", param=name)


def _integer(raw: dict[str, Any], name: str, most: int) -> int | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        text = f"{name} must be an integer from 1 to {most}, not {_shown(value)}."
        raise Refusal(400, text, param=name)
    return value


def _shown(value: object) -> str:
    return json.dumps(value)[:100]
