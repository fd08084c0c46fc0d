"""A program that uses the gateway as any OpenAI user would; prints what it got, as JSON.

Runs in the clients' own environment: `python openai_client.py BASE_URL KEY WHAT
[CASES]`.
"""

import json
import sys
from typing import Any

import openai

MESSAGES: Any = [{"role": "user", "content": "Say something."}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
MODEL = "gpt-4o-mini"


def chat(client: openai.OpenAI) -> Any:
    """A plain completion."""
    done = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=12)
    assert done.usage is not None
    return {"text": done.choices[0].message.content, "tokens": done.usage.completion_tokens}


def stream(client: openai.OpenAI) -> Any:
    """A stream with usage at its end."""
    text, tokens = "", 0
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    ):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return {"text": text, "tokens": tokens}


def tools(client: openai.OpenAI) -> Any:
    """A call of a tool, plain and streamed, with the client's own accumulation."""
    done = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice="required"
    )
    call: Any = (done.choices[0].message.tool_calls or [None])[0]
    json.loads(call.function.arguments)
    with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice="required"
    ) as coming:
        streamed: Any = coming.get_final_completion()
    return {
        "name": call.function.name,
        "streamed": streamed.choices[0].message.tool_calls[0].function.name,
    }


def models(client: openai.OpenAI) -> Any:
    """The models of this key."""
    return [model.id for model in client.models.list()]


def raw(client: openai.OpenAI) -> Any:
    """The headers, by the client's own way to them."""
    reply = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    return {
        "cache": reply.headers["x-raygate-cache"],
        "request_id": reply.parse()._request_id == reply.headers["x-request-id"],
    }


def errors(client: openai.OpenAI) -> Any:
    """The class, code and number of tries of the error that each case meets."""
    return [
        error(client.copy(api_key=key or None), asked) for key, asked in json.loads(sys.argv[4])
    ]


def error(client: openai.OpenAI, asked: dict[str, Any]) -> Any:
    """What one case meets, None where it succeeds. asked: what is not as usual."""
    tried = 0

    def count(_: Any) -> None:
        nonlocal tried
        tried += 1

    client._client.event_hooks = {"request": [count]}
    try:
        events = client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES} | asked)
        if asked.get("stream"):
            list(events)
    except openai.APIError as caught:
        return {"class": type(caught).__name__, "code": caught.code, "tried": tried}
    return None


if __name__ == "__main__":
    asker = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=1, timeout=20)
    print(json.dumps([globals()[what](asker) for what in sys.argv[3].split(",")]))
