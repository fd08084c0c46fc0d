"""The stored answers of the response cache: bounded, least recently used goes first."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from actors.errors import InvalidRequest
from actors.timetable import Timetable

_SWEEP_NS = 1_000_000_000
"""Dead entries leave at whole seconds, so that a full cache does not wake its host per entry."""


class Entry(NamedTuple):
    """An answer as the provider gave it.

    body: the JSON body, or the complete stream with its last event.
    kind: which of the two.
    meta: what else belongs to it (content type, tokens, ...); small, msgpack-able.
    """

    body: bytes
    kind: Literal["json", "sse"]
    meta: dict[str, Any]


class Stored(NamedTuple):
    """An entry with the times (host's clock, ns) until which it may be served.

    fresh_until_ns: as it is.
    revalidate_until_ns: stale, while one refresh runs.
    error_until_ns: stale, when there is nothing better to give.
    """

    entry: Entry
    tenant: str
    model: str
    stored_ns: int
    fresh_until_ns: int
    revalidate_until_ns: int
    error_until_ns: int

    @classmethod
    def at(
        cls, now: int, tenant: str, model: str, entry: Entry, ttl_ns: int, swr_ns: int, sie_ns: int
    ) -> "Stored":
        """An entry filled `now`, with its spans of life."""
        fresh_ns = now + ttl_ns
        return cls(entry, tenant, model, now, fresh_ns, fresh_ns + swr_ns, fresh_ns + sie_ns)

    @property
    def dead_ns(self) -> int:
        """From when on nothing may serve it."""
        return max(self.fresh_until_ns, self.revalidate_until_ns, self.error_until_ns)


class Bounds(NamedTuple):
    """How much may be kept: the sum of sizes, the number of entries, the size of one."""

    max_bytes: int = 256 * 1024 * 1024
    max_entries: int = 10_000
    max_entry_bytes: int = 4 * 1024 * 1024

    @classmethod
    def of(cls, policy: dict[str, Any]) -> "Bounds":
        """What a policy says; what is absent is default.

        Raises InvalidRequest for an unknown name or anything but an integer from 0 up.
        """
        for name, value in policy.items():
            if name not in cls._fields:
                known = ", ".join(cls._fields)
                raise InvalidRequest(f"The cache policy has {name}; known are {known}", param=name)
            if type(value) is not int or not 0 <= value < 2**63:
                raise InvalidRequest(f"{name} must be an integer from 0 up", param=name)
        return cls(**policy)


@dataclass(slots=True)
class Lookups:
    """How often an answer was there, was not, or was being fetched by another."""

    hits: int = 0
    misses: int = 0
    waits: int = 0

    def status(self) -> dict[str, float]:
        """The counts. hit_rate: hits among all of them."""
        lookups = self.hits + self.misses + self.waits
        rate = self.hits / lookups if lookups else 0.0
        return {"hits": self.hits, "misses": self.misses, "waits": self.waits, "hit_rate": rate}


def size_of(key: str, entry: Entry) -> int:
    """Bytes that an entry counts for: body, key, and its meta as text."""
    return len(entry.body) + len(key) + len(repr(entry.meta))


class Entries:
    """Entries by key. Neither the bytes nor the number ever exceed the bounds."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._stored: OrderedDict[str, tuple[Stored, int]] = OrderedDict()
        self._deaths = Timetable()
        self.bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._stored)

    def get(self, key: str) -> Stored | None:
        """The entry of this key, whatever its age."""
        found = self._stored.get(key)
        return found[0] if found else None

    def younger(self, key: str, now: int, max_age_ns: int | None) -> Stored | None:
        """The entry of this key, if it is younger than that."""
        stored = self.get(key)
        if stored is None or (max_age_ns is not None and now - stored.stored_ns >= max_age_ns):
            return None
        return stored

    def use(self, key: str) -> None:
        """Note that the entry was served: it is now the last to go."""
        self._stored.move_to_end(key)

    def put(self, key: str, stored: Stored) -> bool:
        """Keep an entry in place of the key's earlier one; False when it is too large."""
        size = size_of(key, stored.entry)
        if (
            size > min(self._bounds.max_entry_bytes, self._bounds.max_bytes)
            or not self._bounds.max_entries
        ):
            return False
        self.remove(key)
        self._stored[key] = stored, size
        self.bytes += size
        self._deaths.set(key, -(-stored.dead_ns // _SWEEP_NS) * _SWEEP_NS)
        self._shrink()
        return True

    def remove(self, key: str) -> bool:
        """Drop one entry; False when there was none."""
        found = self._stored.pop(key, None)
        if found is None:
            return False
        self.bytes -= found[1]
        self._deaths.cancel(key)
        return True

    def remove_where(self, matches: Callable[[str, Stored], bool]) -> int:
        """Drop all entries of which this is true; how many."""
        doomed = [key for key, (stored, _) in self._stored.items() if matches(key, stored)]
        return sum(self.remove(key) for key in doomed)

    def resize(self, bounds: Bounds) -> None:
        """Apply other bounds; what no longer fits goes now."""
        self._bounds = bounds
        largest = bounds.max_entry_bytes
        for key in [key for key, (_, size) in self._stored.items() if size > largest]:
            self.remove(key)
            self.evictions += 1
        self._shrink()

    def sweep(self, now: int) -> None:
        """Drop what nothing may serve any more."""
        while (key := self._deaths.due(now)) is not None:
            self.remove(key)

    def next_ns(self) -> int | None:
        """When `sweep` has something to do."""
        return self._deaths.next_ns()

    def status(self) -> dict[str, int]:
        """What is kept, and what may be."""
        return {
            "size": len(self._stored),
            "max_size": self._bounds.max_entries,
            "bytes": self.bytes,
            "max_bytes": self._bounds.max_bytes,
            "evictions": self.evictions,
        }

    def _shrink(self) -> None:
        while len(self._stored) > self._bounds.max_entries or self.bytes > self._bounds.max_bytes:
            self.remove(next(iter(self._stored)))
            self.evictions += 1
