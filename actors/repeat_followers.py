"""Who waits for the first request under its idempotency key to end."""

from collections.abc import Iterable
from dataclasses import dataclass

from actors.holders import Holders
from actors.mechanism import Bookkeeping, Row, owner_of
from actors.timetable import Timetable

TABLE = "followers"


@dataclass(slots=True)
class Follower:
    """One repeat that waits. ends_ns: of its patience. order: of arrival."""

    id: str
    key: str
    caller: str
    ends_ns: int
    order: int


class Followers:
    """All of them, each in the queue of its key. Each change of one is a row in `books`."""

    def __init__(self, books: Bookkeeping) -> None:
        self._books = books
        self._followers: dict[str, Follower] = {}
        self._queues: dict[str, dict[str, Follower]] = {}
        self._ends = Timetable()
        self.holders = Holders()
        self._order = 0

    def __len__(self) -> int:
        return len(self._followers)

    def find(self, id: str) -> Follower | None:
        """The follower with this id."""
        return self._followers.get(id)

    def of(self, key: str) -> list[Follower]:
        """Who follows this key, in order of arrival."""
        return list(self._queues.get(key, {}).values())

    def add(self, id: str, key: str, caller: str, ends_ns: int) -> None:
        """Put a new one at the end of its key's queue."""
        follower = Follower(id, key, caller, ends_ns, self._order + 1)
        self._enter(follower)
        self._note(follower)

    def readdress(self, follower: Follower, caller: str) -> None:
        """It asks again, perhaps by another name; its place in the queue stays."""
        self.holders.remove(owner_of(follower.caller), follower.id)
        self.holders.add(owner_of(caller), follower.id)
        follower.caller = caller
        self._note(follower)

    def remove(self, follower: Follower) -> None:
        """It waits no longer."""
        del self._followers[follower.id]
        queue = self._queues[follower.key]
        del queue[follower.id]
        if not queue:
            del self._queues[follower.key]
        self.holders.remove(owner_of(follower.caller), follower.id)
        self._ends.cancel(follower.id)
        self._books.drop(TABLE, follower.id)

    def due(self, now: int) -> Follower | None:
        """Take out one whose patience is over, the earliest first."""
        id = self._ends.due(now)
        if id is None:
            return None
        follower = self._followers[id]
        self.remove(follower)
        return follower

    def next_ns(self) -> int | None:
        """When the next one's patience is over."""
        return self._ends.next_ns()

    def load(self, rows: Iterable[Row]) -> None:
        """Take them from their rows."""
        followers = [Follower(row.key, *row.value) for row in rows]
        for follower in sorted(followers, key=lambda follower: follower.order):
            self._enter(follower)

    def _enter(self, follower: Follower) -> None:
        self._order = follower.order
        self._followers[follower.id] = follower
        self._queues.setdefault(follower.key, {})[follower.id] = follower
        self.holders.add(owner_of(follower.caller), follower.id)
        self._ends.set(follower.id, follower.ends_ns, follower.order)

    def _note(self, one: Follower) -> None:
        self._books.put(TABLE, one.id, [one.key, one.caller, one.ends_ns, one.order])
