"""The response cache on several hosts: the key decides which of them has the entry."""

from collections.abc import Sequence
from typing import Any

from actors.cache_entries import Bounds
from actors.rendezvous import shard_of
from actors.shards import Part, Shards

# Where a command has its key among its arguments.
_KEYS = {
    "claim": 1,
    "fill": 0,
    "leave": 0,
    "lookup": 0,
    "waiting": 0,
    "repeat_begin": 1,
    "repeat_finish": 0,
    "repeat_leave": 0,
}


class CacheShards(Shards):
    """A response cache of K shards, each with a Kth of the room.

    Whoever asks for a key asks the shard that has it, so one leader per key stays one. A purge
    goes to all, and the generation that is shown is the sum of theirs: it changes with every
    purge, and no two states of the whole have the same one.
    """

    def parts(self, command: str, args: tuple[Any, ...]) -> Sequence[Part]:
        """See `Shards`."""
        if command in _KEYS:
            return [(self._shard(args[_KEYS[command]]), args)]
        if command == "seen":
            by_shard: dict[int, list[Any]] = {}
            for seen in args[0]:
                by_shard.setdefault(self._shard(seen[0]), []).append(seen)
            return [(shard, (tuple(mine),)) for shard, mine in by_shard.items()]
        if command == "configure":
            revision, policy = args
            args = (revision, share(policy, len(self.consultants)))
        return super().parts(command, args)

    def joined(
        self, command: str, args: tuple[Any, ...], parts: Sequence[Part], replies: list[Any]
    ) -> Any:
        """See `Shards`."""
        whole = super().joined(command, args, parts, replies)
        if command == "status":
            lookups = whole["hits"] + whole["misses"] + whole["waits"]
            whole["hit_rate"] = whole["hits"] / lookups if lookups else 0.0
        return whole

    def _shard(self, key: str) -> int:
        return shard_of(key, len(self.consultants))


def share(policy: dict[str, Any], shards: int) -> dict[str, Any]:
    """One shard's part of a policy's bounds; what can't be divided stays as it is.

    A bound that is no number of the kind is left for the shard to refuse.
    """
    bounds = Bounds()._asdict() | policy
    for name in ("max_bytes", "max_entries"):
        if type(bounds[name]) is int and bounds[name] > 0:
            bounds[name] = max(1, bounds[name] // shards)
    return bounds
