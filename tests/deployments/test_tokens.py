import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from deployments import tokens

JARGON = [
    ("system", None, "You are a helpful, pattern-following assistant that translates corporate "
                     "jargon into plain English."),
    ("system", "example_user", "New synergies will help drive top-line growth."),
    ("system", "example_assistant", "Things working well together will increase revenue."),
    ("system", "example_user", "Let's circle back when we have more bandwidth to touch base on "
                               "opportunities for increased leverage."),
    ("system", "example_assistant", "Let's talk later when we're less busy about how to do "
                                    "better."),
    ("user", None, "This late pivot means we don't have time to boil the ocean for the client "
                   "deliverable."),
]  # fmt: skip

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {
                    "type": "string",
                    "description": "The city and state, e.g. San Francisco, CA",
                },
                "unit": {
                    "type": "string",
                    "description": "The unit of temperature to return",
                    "enum": ["celsius", "fahrenheit"],
                },
            },
            "required": ["location"],
        },
    },
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


def user(content: Any, **more: Any) -> dict[str, Any]:
    """A chat body with one message."""
    return {"messages": [{"role": "user", "content": content}], **more}


@pytest.mark.parametrize(
    ("model", "vocabulary"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("o3", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("simulated/gpt-4", "cl100k_base"),
        ("gpt-oss-120b", "o200k_base"),
        ("davinci", "o200k_base"),
        ("claude-sonnet-4", "o200k_base"),
        ("", "o200k_base"),
    ],
)
def test_a_model_is_counted_with_its_family_s_vocabulary(model: str, vocabulary: str) -> None:
    """Known OpenAI names get their own vocabulary, prefix or not; all others o200k_base."""
    assert tokens.encoding_for(model).name == vocabulary


@pytest.mark.parametrize(
    ("model", "text", "ids"),
    [
        ("gpt-4", "hello world", [15339, 1917]),
        ("gpt-4o", "hello world", [24912, 2375]),
        ("gpt-4", "tiktoken is great!", [83, 1609, 5963, 374, 2294, 0]),
    ],
)
def test_encodings_give_the_published_ids(model: str, text: str, ids: list[int]) -> None:
    """The shipped vocabularies are OpenAI's: ids agree with the published examples."""
    assert tokens.encoding_for(model).encode(text) == ids
    assert tokens.count_text(model, text) == len(ids)


@pytest.mark.parametrize(
    ("model", "published"), [("gpt-4-0613", 129), ("gpt-3.5-turbo", 129), ("gpt-4o", 124)]
)
def test_a_conversation_counts_as_the_api_counted_it(model: str, published: int) -> None:
    """The example of OpenAI's cookbook: the API's own prompt_tokens for these messages."""
    messages = [
        {"role": role, "content": content} | ({"name": name} if name else {})
        for role, name, content in JARGON
    ]
    assert tokens.count_chat(model, {"messages": messages}) == published


@pytest.mark.parametrize(("model", "published"), [("gpt-4", 105), ("gpt-4o", 101)])
def test_tools_are_never_counted_low(model: str, published: int) -> None:
    """The cookbook's weather tool: not below the API's count, and not twice as high."""
    messages = [
        {
            "role": "system",
            "content": "You are a helpful assistant that can answer to questions about the "
            "weather.",
        },
        {"role": "user", "content": "What's the weather like in San Francisco?"},
    ]
    counted = tokens.count_chat(model, {"messages": messages, "tools": [WEATHER_TOOL]})
    assert published <= counted < 2 * published


def test_a_schema_costs_about_what_its_json_costs() -> None:
    """Tools and response formats are counted without writing JSON, yet stay close to it."""
    written = len(
        tokens.encoding_for("gpt-4o").encode(json.dumps(WEATHER_TOOL, separators=(",", ":")))
    )
    empty = tokens.count_chat("gpt-4o", user(""))
    counted = tokens.count_chat("gpt-4o", user("", response_format=WEATHER_TOOL)) - empty
    assert 0.9 * written <= counted <= 1.5 * written


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|endofprompt|>", "<|fim_prefix|>"])
def test_special_tokens_count_as_text(special: str) -> None:
    """A user who writes a special token neither gets an error nor pays for only one token."""
    assert tokens.count_text("gpt-4", special) > 3


@pytest.mark.parametrize(
    ("part", "allowance"),
    [
        ({"type": "text", "text": "hello world"}, 2),
        ({"type": "image_url", "image_url": {"url": "https://x/y.png"}}, 3_800),
        ({"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}, 640),
        ({"type": "input_audio", "input_audio": {"format": "wav", "data": "A" * 40_000}}, 121),
        ({"type": "input_audio", "input_audio": {"format": "mp3", "data": "A" * 40_000}}, 301),
        ({"type": "file", "file": {"file_id": "f1"}}, 4_000),
        ({"type": "file", "file": {"file_data": "A" * 80_000}}, 15_000),
    ],
    ids=["text", "image", "image low", "wav", "mp3", "file by id", "file"],
)
def test_parts_have_their_documented_allowance(part: dict[str, Any], allowance: int) -> None:
    """Images, audio and files are allowed for by kind and size, never counted as base64 text."""
    bare = tokens.count_chat("gpt-4o", user([]))
    assert tokens.count_chat("gpt-4o", user([part])) - bare == allowance


def test_an_image_for_gpt_4o_mini_is_dearer() -> None:
    """gpt-4o-mini charges many more tokens for an image than its siblings."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert tokens.count_chat("simulated/gpt-4o-mini", user([image])) > 48_000


def test_calls_of_tools_are_counted() -> None:
    """The arguments of an assistant's tool calls are input when they are sent back."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "x " * 100}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert tokens.count_chat("gpt-4o", {"messages": [message]}) > 100


@given(messages=json_values, tools=json_values, content=json_values)
def test_no_shape_of_a_body_raises(messages: Any, tools: Any, content: Any) -> None:
    """Invariant: a body of any JSON shape has a count, and it is not negative."""
    assert tokens.count_chat("gpt-4o", {"messages": messages, "tools": tools}) >= 0
    assert tokens.count_chat("gpt-4o", user(content)) > 0


def test_a_deep_schema_does_not_exhaust_the_stack() -> None:
    """A schema nested deeper than Python recurses is counted like any other."""
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"a": deep}
    assert tokens.count_chat("gpt-4o", user("", tools=[deep])) > 5_000


@given(text=st.text(max_size=300))
def test_short_texts_count_exactly(text: str) -> None:
    """Invariant: a short text counts as many tokens as tiktoken makes of it."""
    expected = len(tokens.encoding_for("gpt-4").encode(text, disallowed_special=()))
    assert tokens.count_text("gpt-4", text) == expected


@given(unit=st.text(min_size=1, max_size=30), seed=st.integers(1, 400))
def test_pieces_and_memory_change_next_to_nothing(unit: str, seed: int) -> None:
    """Invariant: a long text counts the same twice, within 1 % and a few tokens of exact."""
    text = unit * (12_000 // len(unit) + seed)
    exact = len(tokens.encoding_for("gpt-4o").encode_ordinary(text))
    counted = tokens.count_text("gpt-4o", text)
    assert counted == tokens.count_text("gpt-4o", text)
    assert abs(counted - exact) <= exact * 0.01 + 8 * (len(text) // 4_000 + 1)


def test_the_vocabulary_is_part_of_what_is_remembered() -> None:
    """The same long text has another count for a model of another family."""
    text = "¿Cuántos días faltan para el próximo eclipse? " * 40
    assert tokens.count_text("gpt-4", text) != tokens.count_text("gpt-4o", text)


@pytest.mark.parametrize(
    "text",
    ["a" * 1_000_000, " " * 1_000_000, " " * 1_000_000 + "x", "\n" * 1_000_000, "!" * 1_000_000,
     "é" * 1_000_000, "\ud800" * 100_000, "ab" * 5_000_000],
    ids=["letter", "spaces", "spaces before a letter", "newlines", "signs", "accents",
         "lone surrogates", "ten megabytes"],
)  # fmt: skip
def test_pathological_texts_take_bounded_time(text: str) -> None:
    """One long run neither crashes the encoder nor holds a core for seconds."""
    tokens.encoding_for("gpt-4o")
    started = time.process_time()
    counted = tokens.count_text("gpt-4o", text)
    assert time.process_time() - started < 3
    assert 0 < counted <= len(text.encode(errors="replace"))


def test_a_sampled_text_is_not_counted_low() -> None:
    """Beyond a million characters the estimate stays above the exact count, by under 10 %."""
    sentence = "The budget of this team resets at midnight, and 1,250 tokens are left. "
    text = sentence * 40_000
    exact = 40_000 * len(tokens.encoding_for("gpt-4o").encode(" " + sentence[:-1]))
    assert exact <= tokens.count_text("gpt-4o", text) <= 1.1 * exact


def test_memory_is_bounded_and_holds_no_text() -> None:
    """The oldest counts are forgotten, and only digests are kept."""
    memory = tokens._Memory(size=3)
    for letter in "abcdef":
        memory.count("o200k_base", letter * 600)
    assert len(memory._counts) == 3
    assert all(len(key) == 32 for key in memory._counts)


def test_threads_build_one_encoding() -> None:
    """Replicas count in threads: all of them get the same object."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(tokens.encoding_for, ["gpt-4"] * 32))
    assert all(one is found[0] for one in found)


def test_counting_needs_no_network_and_writes_no_cache(tmp_path: Any) -> None:
    """In a fresh process without sockets both vocabularies load, and no file is left behind."""
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from deployments import tokens\n"
        "print(tokens.count_text('gpt-4', 'hello world'), tokens.count_text('o3', 'hello world'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["2", "2"], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary whose sha256 is wrong is an error at load, never a wrong count."""
    monkeypatch.setattr(tokens.gzip, "decompress", lambda _: b"aGVsbG8= 0\n")
    with pytest.raises(ValueError, match="o200k_base is damaged"):
        tokens._load.__wrapped__("o200k_base")


def test_tiktoken_itself_is_left_as_it_was() -> None:
    """Nothing of tiktoken's is replaced: other users of it in the process see no change."""
    tokens.encoding_for("gpt-4")
    assert tiktoken.load.load_tiktoken_bpe.__module__ == "tiktoken.load"
