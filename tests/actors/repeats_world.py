"""What the tests of repeats share: callers in virtual time, and a store."""

from typing import Any

import msgspec

from actors.cache_entries import Entry
from actors.mechanism import Bookkeeping, Row
from actors.repeats import FOLLOWERS, KEEP_NS, REPEATS, Repeats

S = 1_000_000_000
DAY = KEEP_NS
WAIT = 10 * S
REPLY = Entry(b"reply", "json", {})


class World:
    """Callers and a store, in virtual time; times are in seconds. late: since the last batch."""

    def __init__(self, **bounds: int) -> None:
        self.bounds = bounds
        self.live: dict[tuple[str, str], bytes] = {}
        self.late: dict[str, Any] = {}
        self.start()

    def start(self) -> None:
        """A new mechanism, over the rows that there are."""
        self.books = Bookkeeping()
        self.repeats = Repeats(self.books, **self.bounds)
        tables: dict[str, list[Row]] = {REPEATS: [], FOLLOWERS: []}
        for (table, key), value in sorted(self.live.items(), reverse=True):
            tables[table].append(Row(table, key, msgspec.msgpack.decode(value)))
        self.repeats.load(tables[REPEATS], tables[FOLLOWERS])

    def settle(self) -> None:
        """End the batch."""
        changes = self.books.take_changes()
        for table, key, value in changes.rows:
            if value is None:
                self.live.pop((table, key), None)
            else:
                self.live[table, key] = msgspec.msgpack.encode(value)
        self.late = {result.id: result.reply for result in changes.results}

    def begin(
        self,
        at: float,
        id: str,
        key: str = "k",
        digest: bytes = b"d",
        wait: float = 10,
        caller: str = "c",
    ) -> Any:
        """One request."""
        self.repeats.catch_up(ns(at))
        try:
            return self.repeats.begin(ns(at), caller, id, key, digest, ns(wait))
        finally:
            self.settle()

    def finish(self, at: float, id: str, entry: Entry | None = REPLY, key: str = "k") -> None:
        """Its reply."""
        self.repeats.catch_up(ns(at))
        self.repeats.finish(ns(at), key, id, entry)
        self.settle()

    def leave(self, at: float, id: str, key: str = "k") -> None:
        """It lets go."""
        self.repeats.catch_up(ns(at))
        self.repeats.leave(ns(at), key, id)
        self.settle()

    def bury(self, at: float, owner: str) -> int:
        """A process is found dead; how much it ran and followed."""
        self.repeats.catch_up(ns(at))
        try:
            return self.repeats.bury(ns(at), owner)
        finally:
            self.settle()

    def pass_to(self, at: float) -> None:
        """Time goes on."""
        self.repeats.catch_up(ns(at))
        self.settle()


def ns(seconds: float) -> int:
    """Seconds as integer nanoseconds."""
    return round(seconds * S)
