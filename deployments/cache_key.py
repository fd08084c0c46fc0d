"""The cache key: which requests ask the same question of the same model for the same tenant."""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from actors.errors import InvalidRequest

SCHEMA_VERSION = 1
"""Raised whenever what is stored, or how a key is made, changes its meaning."""

TRANSPORT_FIELDS = frozenset(
    {
        # How the answer is delivered: a stored one is replayed either way.
        "stream",
        "stream_options",
        # Who asks, for the provider's abuse checks; the tenant is in the key already.
        "user",
        "safety_identifier",
        # What the provider keeps about the call.
        "metadata",
        "store",
        # How the provider's own prompt cache is used.
        "prompt_cache_key",
        "prompt_cache_retention",
    }
)
"""Fields of a request body that do not shape the answer. All others do, unknown ones too."""

_EXACT = 2**53


def cache_key(tenant: str, model: str, endpoint: str, body: Mapping[str, Any]) -> str:
    """SHA-256, in full and in hex, of everything that shapes the answer to `body`.

    tenant: whose answers these are (a shared cache is one tenant).
    model: as the gateway resolved it; the body's own `model` counts as well.
    endpoint: "chat", "completions", "embeddings", ...
    body: the request as it was parsed; the order of an object's members does not matter,
        and neither does 1 or 1.0 for a number at its top level.
    Raises InvalidRequest for what JSON can say and a provider cannot take: numbers beyond
    64 bits, half a surrogate pair, hundreds of levels of nesting.
    """
    shaping = {
        name: _number(value) if type(value) is float else value
        for name, value in body.items()
        if name not in TRANSPORT_FIELDS
    }
    question = [SCHEMA_VERSION, tenant, endpoint, model, shaping]
    try:
        canonical = orjson.dumps(question, option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError) as error:
        raise InvalidRequest(f"The request has no canonical form: {error}") from error
    return hashlib.sha256(canonical).hexdigest()


def _number(value: float) -> float | int:
    """Write 1.0 as 1; beyond 2**53 a float no longer names one integer."""
    return int(value) if value.is_integer() and abs(value) < _EXACT else value
