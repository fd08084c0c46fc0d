"""Counting tokens before a call: offline, in linear time, safe from any thread.

The two vocabularies that today's OpenAI models use travel with the package, so nothing is
downloaded. A model of another family is counted with `o200k_base`: an estimate, like every
number here. What a call really used is what the provider says at its end.

`count_chat` would rather be a little high than low: a reservation that is too small lets
a budget be overrun.
"""

import base64
import gzip
import hashlib
import threading
import types
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final

from tiktoken import Encoding
from tiktoken.model import encoding_name_for_model
from tiktoken_ext import openai_public

LONG_TEXT_BYTES: Final = 100_000
"""Counting more than this takes milliseconds: do it in a thread, not on the event loop.

Measured: 3 to 30 ms per 100 KB, by how repetitive the text is. The encoder releases the GIL.
"""

MESSAGE_TOKENS: Final = 4
"""Framing of one message, its role included."""
NAME_TOKENS: Final = 1
"""Added to the tokens of a message's `name`."""
REPLY_TOKENS: Final = 3
"""Framing of the reply that the model is about to write."""
TOOLS_TOKENS: Final = 16
"""Framing of the list of tools, once."""
TOOL_TOKENS: Final = 8
"""Framing of one tool, or of one call of a tool."""

IMAGE_TOKENS: Final = {
    "gpt-4o-mini": (2_833, 48_169),
    "": (640, 3_800),
}
"""Allowance for one image (detail low, any other detail) by the start of the model's name.

The most that OpenAI documents for an image of any size (8 tiles, or 1,536 patches times the
model's factor). Images are not opened to be measured.
"""
AUDIO_BYTES_PER_TOKEN: Final = {"wav": 250, "": 100}
"""By format; 32 tokens a second for 8 kHz mono PCM or for 26 kbit/s compressed."""
FILE_TOKENS: Final = 4_000
"""The least that is allowed for an attached file; else a token for four of its bytes."""

_DEFAULT_VOCABULARY: Final = "o200k_base"
_VOCABULARIES: Final = ("cl100k_base", "o200k_base")

# Pieces bound the worst cases: one long run of letters costs more than linear time, and a
# million spaces overflow the stack of the encoder's regex. A cut adds at most a few tokens.
_PIECE_CHARS: Final = 4_000
# Beyond this a text is sampled: 10 MB cannot hold a replica's core for seconds.
_EXACT_CHARS: Final = 1_000_000
_SAMPLING_MARGIN: Final = 1.05

# Counting 100 characters takes 5 µs and 1 KB 50 µs, recalling either 1.5 µs.
_REMEMBER_CHARS: Final = 100
_REMEMBERED_TEXTS: Final = 20_000

_loading = threading.Lock()


def encoding_for(model: str) -> Encoding:
    """The tokenizer for a model's name; a provider prefix (`simulated/gpt-4o`) is skipped.

    Unknown models get `o200k_base`. The first use of a vocabulary takes about 0.3 s: do it
    when a replica starts.
    """
    return _encoding(_vocabulary_for(model))


def count_text(model: str, text: str) -> int:
    """Tokens of one text; what looks like a special token (`<|endoftext|>`) counts as text.

    Exact up to a million characters (but for a few tokens at each 4,000th character), an
    estimate from evenly spaced samples beyond.
    """
    name = _vocabulary_for(model)
    if len(text) < _REMEMBER_CHARS:
        return len(_encoding(name).encode_ordinary(text))
    return _memory.count(name, text)


def count_chat(model: str, body: dict[str, Any]) -> int:
    """Input tokens of a chat completions body: messages, names, tool calls, tools, schema.

    Never raises on a body of the wrong shape; what it does not know it counts as text.
    """
    total = REPLY_TOKENS
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        total += MESSAGE_TOKENS
        if isinstance(message, dict):
            total += _count_message(model, message)
        else:
            total += _count_json(model, message)
    tools = body.get("tools") or body.get("functions")
    if isinstance(tools, list) and tools:
        total += TOOLS_TOKENS
        for tool in tools:
            total += TOOL_TOKENS + _count_json(model, tool)
    response_format = body.get("response_format")
    if isinstance(response_format, dict):
        total += _count_json(model, response_format)
    return total


def _count_message(model: str, message: dict[str, Any]) -> int:
    total = 0
    for field, value in message.items():
        if value is None or field in ("role", "tool_call_id"):
            continue
        if isinstance(value, str):
            total += count_text(model, value)
            if field == "name":
                total += NAME_TOKENS
        elif field == "content" and isinstance(value, list):
            total += sum(_count_part(model, part) for part in value)
        else:
            total += TOOL_TOKENS + _count_json(model, value)
    return total


def _count_part(model: str, part: object) -> int:
    if not isinstance(part, dict):
        return _count_json(model, part)
    kind = part.get("type")
    held = part.get(kind) if isinstance(kind, str) else None
    if kind in ("text", "refusal") and isinstance(held, str):
        return count_text(model, held)
    if kind == "image_url":
        low = isinstance(held, dict) and held.get("detail") == "low"
        return _image_allowance(model)[0 if low else 1]
    if kind == "input_audio" and isinstance(held, dict):
        per_token = AUDIO_BYTES_PER_TOKEN["wav" if held.get("format") == "wav" else ""]
        return 1 + _decoded_bytes(held.get("data")) // per_token
    if kind == "file" and isinstance(held, dict):
        return max(FILE_TOKENS, _decoded_bytes(held.get("file_data")) // 4)
    return _count_json(model, part)


def _image_allowance(model: str) -> tuple[int, int]:
    name = _bare(model)
    return next(pair for start, pair in IMAGE_TOKENS.items() if name.startswith(start))


def _decoded_bytes(data: object) -> int:
    return len(data) * 3 // 4 if isinstance(data, str) else 0


def _count_json(model: str, value: object) -> int:
    """As many tokens as compact JSON, or a few more, without a recursion a client could exhaust."""
    return count_text(model, '","'.join(_leaves(value)))


def _leaves(value: object) -> Iterator[str]:
    """Keys, scalars and one brace for each container, in no particular order."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield "{"
            for key, held in item.items():
                yield str(key)
                waiting.append(held)
        elif isinstance(item, list | tuple):
            yield "["
            waiting.extend(item)
        else:
            yield item if isinstance(item, str) else str(item)


def _bare(model: str) -> str:
    return model.rpartition("/")[2]


@lru_cache(maxsize=1024)
def _vocabulary_for(model: str) -> str:
    try:
        name = encoding_name_for_model(_bare(model))
    except KeyError:
        return _DEFAULT_VOCABULARY
    return name if name in _VOCABULARIES else _DEFAULT_VOCABULARY


def _encoding(name: str) -> Encoding:
    # `cache` alone would let two threads build the same vocabulary side by side.
    with _loading:
        return _load(name)


@cache
def _load(name: str) -> Encoding:
    """Build an encoding as tiktoken defines it, from the vocabulary in this package.

    Raises ValueError when the file's sha256 is not the one that tiktoken expects.
    """

    def from_package(_address: str, expected_hash: str) -> dict[bytes, int]:
        packed = resources.files("deployments").joinpath("tokenizers", f"{name}.tiktoken.gz")
        lines = gzip.decompress(packed.read_bytes())
        if hashlib.sha256(lines).hexdigest() != expected_hash:
            raise ValueError(f"the shipped vocabulary {name} is damaged: its sha256 is wrong")
        pairs = (line.split() for line in lines.splitlines() if line)
        return {base64.b64decode(token): int(rank) for token, rank in pairs}

    # The same function with another loader among its globals: tiktoken's own loader would
    # download, and replacing it in the module would do so for every other user of tiktoken.
    define = getattr(openai_public, name)
    offline = types.FunctionType(
        define.__code__, {**define.__globals__, "load_tiktoken_bpe": from_package}
    )
    return Encoding(**offline())


def _count(name: str, text: str) -> int:
    encode = _encoding(name).encode_ordinary
    starts = range(0, len(text), _PIECE_CHARS)
    if len(text) <= _EXACT_CHARS:
        return sum(len(encode(text[start : start + _PIECE_CHARS])) for start in starts)
    sampled = starts[:: -(-len(text) // _EXACT_CHARS)]
    pieces = [text[start : start + _PIECE_CHARS] for start in sampled]
    tokens = sum(len(encode(piece)) for piece in pieces)
    return int(tokens * len(text) / sum(map(len, pieces)) * _SAMPLING_MARGIN) + 1


class _Memory:
    """The counts of texts seen lately (system prompts, long conversations).

    Texts are known by a digest: none of a tenant's words stay in memory.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._counts: OrderedDict[bytes, int] = OrderedDict()

    def count(self, name: str, text: str) -> int:
        known_by = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
        known_by.update(name.encode())
        digest = known_by.digest()
        with self._lock:
            known = self._counts.get(digest)
            if known is not None:
                self._counts.move_to_end(digest)
                return known
        counted = _count(name, text)
        with self._lock:
            self._counts[digest] = counted
            if len(self._counts) > self._size:
                self._counts.popitem(last=False)
        return counted


_memory = _Memory(_REMEMBERED_TEXTS)
