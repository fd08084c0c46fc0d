"""Gateway keys: how they look, how one is made, and what is kept of it.

A key is `rg-` and at least 32 URL-safe characters. Only its SHA-256 is ever sent to a
singleton or stored: a key made here has 256 random bits, so that a fast hash is enough.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field

from actors.errors import InvalidRequest

PREFIX = "rg-"
_SHAPE = re.compile(r"rg-[A-Za-z0-9_\-]{32,200}\Z")


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A new key, to be shown to its owner once and then forgotten.

    id: the first 8 hex digits of the hash; may be shown.
    hash: SHA-256 of the secret, hex; what `key_store` keeps.
    secret: the key itself; not part of the repr.
    """

    id: str
    hash: str
    secret: str = field(repr=False)


def hash_of(secret: str) -> str:
    """SHA-256 of a key, hex. Any string will do, so that a lookup needs no check before it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def id_of(hash: str) -> str:
    """The id of the key with this hash: its first 8 hex digits."""
    return hash[:8]


def is_key(secret: str) -> bool:
    """Whether a string has the shape of a gateway key."""
    return _SHAPE.match(secret) is not None


def mint() -> MintedKey:
    """Make a new random key."""
    return adopt(PREFIX + secrets.token_urlsafe(32))


def adopt(secret: str) -> MintedKey:
    """Take a key that an operator chose.

    Raises InvalidRequest, without quoting it, when it has not the shape of a key.
    """
    if not is_key(secret):
        raise InvalidRequest(
            f"A key must be `{PREFIX}` and 32 to 200 letters, digits, `_` or `-`, "
            "and be hard to guess.",
            param="key",
        )
    digest = hash_of(secret)
    return MintedKey(id_of(digest), digest, secret)
