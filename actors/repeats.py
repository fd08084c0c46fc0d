"""Requests that come again under a key that their client chose: each is run once.

A key is *running* from its first request on: repeats of it follow, in order of arrival.
It is *done* when the reply is there: repeats get that reply while it is kept, and are told
that it is Forgotten afterwards. Only a first that leaves (nothing was charged) makes its
key free again, or hands it to the first follower. One that neither finishes nor leaves may
have been charged, so at the end of its lifetime the key is done, and its reply Forgotten.

Replies are not stored: a restart forgets them, but not whose keys they were. The idea is
that of the IETF's draft-ietf-httpapi-idempotency-key-header.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from actors.cache_entries import Bounds, Entries, Entry, Stored
from actors.cache_flights import Unanswered
from actors.errors import IdempotencyMismatch, Overloaded
from actors.mechanism import Bookkeeping, Pending, Row
from actors.timetable import Timetable

REPEATS = "repeats"
FOLLOWERS = "followers"

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
    """digest: of the request. holder: who may still finish it, "" for nobody.

    until_ns: where its lifetime ends while it runs; where it is dropped once it is done.
    """

    digest: bytes
    holder: str
    done: bool
    until_ns: int


@dataclass(slots=True)
class _Follower:
    """lifetime_ns: how long it may run, should it have to. order: of arrival."""

    id: str
    key: str
    caller: str
    ends_ns: int
    lifetime_ns: int
    order: int


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
        self._followers: dict[str, _Follower] = {}
        self._queues: dict[str, dict[str, _Follower]] = {}
        self._ends = Timetable()
        self._order = self._last_until_ns = 0

    def begin(
        self,
        now: int,
        caller: str,
        id: str,
        key: str,
        digest: bytes,
        max_wait_ns: int,
        lifetime_ns: int,
    ) -> RepeatReply:
        """Ask whether to run. PENDING is followed by late news of the first request.

        id: minted by the caller, new per request.
        key: names tenant, endpoint and the client's key; digest: of what is asked for.
        max_wait_ns: patience as a follower, after which it is Unanswered; 0 does not wait.
        lifetime_ns: how long this request may run, from when it does.
        Raises IdempotencyMismatch for a key that came with another digest (and for an id
        that follows another key), Overloaded.
        """
        known, follower = self._keys.get(key), self._followers.get(id)
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
            self._run(key, _Key(digest, id, False, 0), now + lifetime_ns)
            return Begun(id)
        if known.done:
            return self._reply(key)
        if known.holder == id:
            return Begun(id)
        if follower is not None:
            follower.caller = caller
            self._note_follower(follower)
            return Pending()
        if max_wait_ns <= 0:
            return Unanswered("max_wait")
        if len(self._followers) >= self._max_followers:
            raise Overloaded("Too many repeats wait for their first request", retry_after_s=1.0)
        ends_ns, order = now + max_wait_ns, self._order + 1
        follower = _Follower(id, key, caller, ends_ns, lifetime_ns, order)
        self._follow(follower)
        self._note_follower(follower)
        return Pending()

    def finish(self, now: int, key: str, id: str, entry: Entry | None) -> None:
        """The first request's reply; None: it may have been charged, and there is none to keep.

        Followers get it even if it is too large to be kept. A no-op for who does not run it;
        one whose lifetime is over may still bring what it has.
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
        follower = self._followers.get(id)
        if follower is not None and follower.key == key:
            self._unfollow(follower)
            return
        known = self._keys.get(key)
        if known is None or known.holder != id:
            return
        heir = next(iter(self._queues.get(key, {}).values()), None)
        if heir is None:
            self._remove(key)
            return
        self._unfollow(heir)
        known.holder = heir.id
        self._run(key, known, now + heir.lifetime_ns)
        self._books.answer(heir.caller, heir.id, Begun(heir.id))

    def catch_up(self, now: int) -> None:
        """End what is over: lifetimes, followers' patience, the memory of keys."""
        while (due := self._ends.due(now)) is not None:
            what, name = due[0], due[1:]
            if what == "k":
                known = self._keys[name]
                self._end(name, known, known.until_ns, Forgotten())
            else:
                follower = self._followers[name]
                self._unfollow(follower)
                self._books.answer(follower.caller, name, Unanswered("max_wait"))
        while self._done and self._keys[oldest := next(iter(self._done))].until_ns <= now:
            self._remove(oldest)

    def next_ns(self) -> int | None:
        """When `catch_up` has something to do; keys leave at whole seconds, not one by one."""
        times = [] if (end_ns := self._ends.next_ns()) is None else [end_ns]
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
            else:
                self._ends.set("k" + key, known.until_ns)
        asked = [_Follower(row.key, *row.value) for row in followers]
        for follower in sorted(asked, key=lambda follower: follower.order):
            self._follow(follower)

    def _reply(self, key: str) -> Repeated | Forgotten:
        stored = self._bodies.get(key)
        if stored is None:
            return Forgotten()
        self._bodies.use(key)
        return Repeated(stored.entry)

    def _run(self, key: str, known: _Key, until_ns: int) -> None:
        known.until_ns = until_ns
        self._keys[key] = known
        self._ends.set("k" + key, until_ns)
        self._note(key, known)

    def _end(self, key: str, known: _Key, at_ns: int, reply: Repeated | Forgotten) -> None:
        """Make a running key done, and tell its followers."""
        self._ends.cancel("k" + key)
        # No two are equal, so that a restart knows the order in which they ended.
        self._last_until_ns = max(at_ns + KEEP_NS, self._last_until_ns + 1)
        known.done, known.until_ns = True, self._last_until_ns
        self._done[key] = None
        self._note(key, known)
        for follower in list(self._queues.get(key, {}).values()):
            self._unfollow(follower)
            self._books.answer(follower.caller, follower.id, reply)

    def _make_room(self) -> None:
        if len(self._keys) < self._max_keys:
            return
        if not self._done:
            raise Overloaded("Too many idempotency keys are running", retry_after_s=1.0)
        self._remove(next(iter(self._done)))

    def _remove(self, key: str) -> None:
        del self._keys[key]
        self._done.pop(key, None)
        self._ends.cancel("k" + key)
        self._bodies.remove(key)
        self._books.drop(REPEATS, key)

    def _follow(self, follower: _Follower) -> None:
        self._order = follower.order
        self._followers[follower.id] = follower
        self._queues.setdefault(follower.key, {})[follower.id] = follower
        self._ends.set("f" + follower.id, follower.ends_ns, follower.order)

    def _unfollow(self, follower: _Follower) -> None:
        del self._followers[follower.id]
        queue = self._queues[follower.key]
        del queue[follower.id]
        if not queue:
            del self._queues[follower.key]
        self._ends.cancel("f" + follower.id)
        self._books.drop(FOLLOWERS, follower.id)

    def _note(self, key: str, known: _Key) -> None:
        self._books.put(REPEATS, key, [known.digest, known.holder, known.done, known.until_ns])

    def _note_follower(self, one: _Follower) -> None:
        row = [one.key, one.caller, one.ends_ns, one.lifetime_ns, one.order]
        self._books.put(FOLLOWERS, one.id, row)
