"""The first level of the cache: this replica's own small copy of what is asked for often.

It is filled by hits only, and good while the singleton's view says that nothing was purged.
"""

import time
from collections import OrderedDict
from typing import NamedTuple

from actors.cache_entries import Entry
from actors.cache_flights import Hit
from actors.consultant import Consultant

_MAX_BYTES = 32 * 2**20
_MAX_ENTRIES = 10_000
_MAX_ENTRY_BYTES = 2**20
# An answer that is fetched anew elsewhere before its time shows here within this time.
_LONGEST_NS = 10_000_000_000
_OVERHEAD_BYTES = 500


class _Copy(NamedTuple):
    """filled_ns: when the answer was fetched; until_ns: when it is asked for again (both ours)."""

    entry: Entry
    filled_ns: int
    until_ns: int


class FirstLevel:
    """See the module's docstring. cache: whose view tells of purges."""

    def __init__(self, cache: Consultant) -> None:
        self._cache = cache
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._bytes = 0
        self._generation = -1
        self._hits: dict[str, int] = {}

    def find(self, key: str, max_age_ns: int | None) -> Hit | None:
        """A fresh copy, or None: ask the singleton."""
        # First what was purged goes.
        copy = self._copies.get(key) if self._good() else None
        if copy is None:
            return None
        now_ns = time.monotonic_ns()
        age_ns = now_ns - copy.filled_ns
        if now_ns >= copy.until_ns:
            self._drop(key)
            return None
        if max_age_ns is not None and age_ns > max_age_ns:
            return None
        self._copies.move_to_end(key)
        self._hits[key] = self._hits.get(key, 0) + 1
        return Hit(copy.entry, age_ns, False, None, copy.until_ns - now_ns)

    def keep(self, key: str, hit: Hit, asked_generation: int) -> None:
        """Copy a hit. asked_generation: `generation()` when it was asked for."""
        size = len(hit.entry.body) + _OVERHEAD_BYTES
        if hit.stale or hit.fresh_ns <= 0 or size > _MAX_ENTRY_BYTES or key in self._copies:
            return
        if not self._good() or asked_generation != self._generation:
            return
        now_ns = time.monotonic_ns()
        until_ns = now_ns + min(hit.fresh_ns, _LONGEST_NS)
        self._copies[key] = _Copy(hit.entry, now_ns - hit.age_ns, until_ns)
        self._bytes += size
        while self._bytes > _MAX_BYTES or len(self._copies) > _MAX_ENTRIES:
            self._drop(next(iter(self._copies)))

    def generation(self) -> int:
        """How many purges are known of; -1 while that can't be known."""
        return self._generation if self._good() else -1

    def report(self) -> None:
        """Tell the singleton what was used here, for its statistics and its order of use."""
        if self._hits:
            hits, self._hits = self._hits, {}
            self._cache.tell("seen", tuple(hits.items()))

    def _good(self) -> bool:
        """Whether the copies may be used; drops them where a purge has come between."""
        if not self._cache.fresh():
            return False
        said = self._cache.view.get("purges")
        if said is None:
            return False
        if said["generation"] != self._generation:
            self._copies.clear()
            self._bytes = 0
            self._generation = said["generation"]
        return True

    def _drop(self, key: str) -> None:
        self._bytes -= len(self._copies.pop(key).entry.body) + _OVERHEAD_BYTES
