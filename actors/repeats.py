"""Requests that come again under a key that their client chose: each is run once.

A key is *running* from its first request on: repeats of it follow, in order of arrival.
It is *done* when the reply is there: repeats get that reply while it is kept, and are told
that it is Forgotten afterwards. Only a first that leaves (nothing was charged) makes its
key free again, or hands it to the first follower. One whose process died may have been
charged, so at the burial the key is done, and its reply Forgotten.

Replies are not stored: a restart forgets them, but not whose keys they were. The idea is
that of the IETF's draft-ietf-httpapi-idempotency-key-header.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from actors.cache_entries import Bounds, Entries, Entry, Stored
from actors.cache_flights import Unanswered
from actors.errors import IdempotencyMismatch, Overloaded
from actors.holders import Holders
from actors.mechanism import Bookkeeping, Pending, Row, owner_of
from actors.repeat_followers import TABLE as FOLLOWERS
from actors.repeat_followers import Followers

REPEATS = "repeats"
TABLES = (REPEATS, FOLLOWERS)

KEEP_NS = 24 * 3600 * 1_000_000_000
"""How long a key is remembered once it is done."""

MAX_KEYS = 100_000
"""Keys at once; past it those go first that have been done for longest."""

MAX_FOLLOWERS = 10_000
"""Repeats that wait at once; past it another one raises Overloaded."""

MAX_BYTES = 64 * 1024 * 1024
"""Sizes of all replies kept; past it the least recently asked for is forgotten."""

_SECOND_NS = 1_000_000_000


class Begun(NamedTuple):
    """The request with this id is the one that runs. It ends in `finish` or in `leave`."""

    id: str


class Repeated(NamedTuple):
    """The reply that the first request got."""

    entry: Entry


class Forgotten(NamedTuple):
    """The first request may have been charged, and its reply is not kept (any more)."""


RepeatReply = Begun | Repeated | Forgotten | Unanswered | Pending


@dataclass(slots=True)
class _Key:
    """digest: of the request. holder: the id of who may still finish it, "" for nobody.

    owner: of the holder; None: it does not run. until_ns: when it is dropped, once it is done.
    """

    digest: bytes
    holder: str = ""
    owner: str | None = None
    done: bool = False
    until_ns: int = 0


class Repeats:
    """All keys. Each change of one is noted in `books` as one row, late replies too."""

    def __init__(
        self,
        books: Bookkeeping,
        max_keys: int = MAX_KEYS,
        max_followers: int = MAX_FOLLOWERS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._books = books
        self._max_keys = max_keys
        self._max_followers = max_followers
        self._keys: dict[str, _Key] = {}
        self._done: dict[str, None] = {}
        self._bodies = Entries(Bounds(max_bytes, max_keys, max_bytes))
        self._followers = Followers(books)
        self._runners = Holders()
        self._last_until_ns = 0

    def begin(
        self, now: int, caller: str, id: str, key: str, digest: bytes, max_wait_ns: int
    ) -> RepeatReply:
        """Ask whether to run. PENDING is followed by late news of the first request.

        id: minted by the caller, new per request.
        key: names tenant, endpoint and the client's key; digest: of what is asked for.
        max_wait_ns: patience as a follower, after which it is Unanswered; 0 does not wait.
        Raises IdempotencyMismatch for a key that came with another digest (and for an id
        that follows another key), Overloaded.
        """
        known, follower = self._keys.get(key), self._followers.find(id)
        if known is not None and known.digest != digest:
            raise IdempotencyMismatch(
                "This idempotency-key came before with another request; take a new key.",
                param="idempotency-key",
                should_retry=False,
            )
        if follower is not None and follower.key != key:
            raise IdempotencyMismatch(f"The request {id} follows another key")
        if known is None:
            self._make_room()
            self._keys[key] = known = _Key(digest)
            self._run(key, known, id, caller)
            return Begun(id)
        if known.done:
            return self._reply(key)
        if known.holder == id:
            self._run(key, known, id, caller)
            return Begun(id)
        if follower is not None:
            self._followers.readdress(follower, caller)
            return Pending()
        if max_wait_ns <= 0:
            return Unanswered("max_wait")
        if len(self._followers) >= self._max_followers:
            raise Overloaded("Too many repeats wait for their first request", retry_after_s=1.0)
        self._followers.add(id, key, caller, now + max_wait_ns)
        return Pending()

    def finish(self, now: int, key: str, id: str, entry: Entry | None) -> None:
        """The first request's reply; None: it may have been charged, and there is none to keep.

        Followers get it even if it is too large to be kept. A no-op for who does not run it;
        one who was buried and lives after all may still bring what it has.
        """
        known = self._keys.get(key)
        if known is None or known.holder != id:
            return
        known.holder = ""
        if entry is not None:
            self._bodies.put(key, Stored.at(now, "", "", entry, KEEP_NS, 0, 0))
        if known.done:
            self._note(key, known)
        else:
            self._end(key, known, now, Forgotten() if entry is None else Repeated(entry))

    def leave(self, now: int, key: str, id: str) -> None:
        """Let go, nothing was charged: of a first request the first follower runs instead.

        A no-op for what is not held (any more).
        """
        follower = self._followers.find(id)
        if follower is not None and follower.key == key:
            self._followers.remove(follower)
            return
        known = self._keys.get(key)
        if known is None or known.holder != id:
            return
        waiting = self._followers.of(key)
        if not waiting:
            self._remove(key)
            return
        heir = waiting[0]
        self._followers.remove(heir)
        self._run(key, known, heir.id, heir.caller)
        self._books.answer(heir.caller, heir.id, Begun(heir.id))

    def owners(self) -> Iterable[str]:
        """Who runs a key, or follows one."""
        return {*self._runners, *self._followers.holders}

    def bury(self, now: int, owner: str) -> int:
        """End what a dead owner runs, as Forgotten, and what it follows; how much that was."""
        following, running = self._followers.holders.of(owner), self._runners.of(owner)
        for id in following:
            if (follower := self._followers.find(id)) is not None:
                self._followers.remove(follower)
        # In an order that a restart keeps, as they are forgotten in the order of their ends.
        for key in sorted(running):
            self._end(key, self._keys[key], now, Forgotten())
        return len(following) + len(running)

    def catch_up(self, now: int) -> None:
        """End what is over: followers' patience, the memory of keys."""
        while (follower := self._followers.due(now)) is not None:
            self._books.answer(follower.caller, follower.id, Unanswered("max_wait"))
        while self._done and self._keys[oldest := next(iter(self._done))].until_ns <= now:
            self._remove(oldest)

    def next_ns(self) -> int | None:
        """When `catch_up` has something to do; keys leave at whole seconds, not one by one."""
        times = [] if (end_ns := self._followers.next_ns()) is None else [end_ns]
        if self._done:
            until_ns = self._keys[next(iter(self._done))].until_ns
            times.append(-(-until_ns // _SECOND_NS) * _SECOND_NS)
        return min(times, default=None)

    def status(self) -> dict[str, Any]:
        """keys: known; running and followers: now; replies, bytes: kept in memory."""
        return {
            "keys": len(self._keys),
            "running": len(self._keys) - len(self._done),
            "followers": len(self._followers),
            "replies": len(self._bodies),
            "bytes": self._bodies.bytes,
        }

    def load(self, rows: Iterable[Row], followers: Iterable[Row]) -> None:
        """Take keys and followers from their rows. There are no replies among them."""
        keys = [(row.key, _Key(*row.value)) for row in rows]
        for key, known in sorted(keys, key=lambda pair: pair[1].until_ns):
            self._keys[key] = known
            if known.done:
                self._done[key] = None
                self._last_until_ns = known.until_ns
            elif known.owner is not None:
                self._runners.add(known.owner, key)
        self._followers.load(followers)

    def _reply(self, key: str) -> Repeated | Forgotten:
        stored = self._bodies.get(key)
        if stored is None:
            return Forgotten()
        self._bodies.use(key)
        return Repeated(stored.entry)

    def _run(self, key: str, known: _Key, id: str, caller: str) -> None:
        """Make this request, of this caller's, the one that runs."""
        self._stop(key, known)
        known.holder, known.owner = id, owner_of(caller)
        self._runners.add(known.owner, key)
        self._note(key, known)

    def _stop(self, key: str, known: _Key) -> None:
        if known.owner is not None:
            self._runners.remove(known.owner, key)
            known.owner = None

    def _end(self, key: str, known: _Key, at_ns: int, reply: Repeated | Forgotten) -> None:
        """Make a running key done, and tell its followers."""
        self._stop(key, known)
        # No two are equal, so that a restart knows the order in which they ended.
        self._last_until_ns = max(at_ns + KEEP_NS, self._last_until_ns + 1)
        known.done, known.until_ns = True, self._last_until_ns
        self._done[key] = None
        self._note(key, known)
        for follower in self._followers.of(key):
            self._followers.remove(follower)
            self._books.answer(follower.caller, follower.id, reply)

    def _make_room(self) -> None:
        if len(self._keys) < self._max_keys:
            return
        if not self._done:
            raise Overloaded("Too many idempotency keys are running", retry_after_s=1.0)
        self._remove(next(iter(self._done)))

    def _remove(self, key: str) -> None:
        self._stop(key, self._keys.pop(key))
        self._done.pop(key, None)
        self._bodies.remove(key)
        self._books.drop(REPEATS, key)

    def _note(self, key: str, known: _Key) -> None:
        row = [known.digest, known.holder, known.owner, known.done, known.until_ns]
        self._books.put(REPEATS, key, row)
