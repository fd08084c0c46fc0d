"""Which of several hosts a key lives on, agreed upon without asking anybody.

Rendezvous (highest random weight) hashing, after Thaler and Ravishankar, "Using name-based
mappings to increase hit rates", 1998: each host has a weight of its own for each key, and
the heaviest has the key. With one host more, only the keys for which it is the heaviest
move, one in so many as there are hosts then.
"""

from functools import lru_cache
from hashlib import blake2b

_REMEMBERED = 20_000


@lru_cache(_REMEMBERED)
def shard_of(key: str, shards: int) -> int:
    """The number, from 0, of the shard that has this key; the same in every process."""
    word = key.encode(errors="surrogatepass")
    return max(range(shards), key=lambda shard: _weight(word, shard))


def limit_key(limit: str, subject: str) -> str:
    """The key of one limit for one subject (a limit's name has no space)."""
    return f"{limit} {subject}"


def _weight(word: bytes, shard: int) -> bytes:
    return blake2b(word, digest_size=8, salt=b"%d" % shard).digest()
