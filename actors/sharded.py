"""Which singletons can have several hosts, and how these are asked as one."""

from collections.abc import Sequence
from typing import cast

from actors.cache_shards import CacheShards
from actors.consultant import Consultant
from actors.limiter_shards import LimiterShards
from actors.shards import Shards

KINDS: dict[str, type[Shards]] = {"rate_limiter": LimiterShards, "response_cache": CacheShards}


def as_one(singleton: str, consultants: Sequence[Consultant]) -> Consultant:
    """A singleton's one consultant, or all of its shards' as if they were one.

    consultants: one per host, in the order of `shard_names`.
    """
    if len(consultants) == 1:
        return consultants[0]
    return cast(Consultant, KINDS[singleton](consultants))


def shard_names(singleton: str, shards: int) -> list[str]:
    """The names of a singleton's hosts. The first keeps the singleton's own."""
    return [singleton, *(f"{singleton}-{number}" for number in range(1, shards))]


def singleton_of(name: str) -> str:
    """The singleton that a host of this name belongs to, or is."""
    base, _, number = name.rpartition("-")
    return base if number.isdigit() and base in KINDS else name
