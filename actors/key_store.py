"""The keys of the gateway: who may ask, for what, and since when. Only hashes are kept.

There may be more keys than every replica should know: a view has those that its replica has
asked for with `find`, and all are told which keys have ceased to be usable.
"""

import re
from collections.abc import Iterable, Mapping
from heapq import nsmallest
from typing import Any, ClassVar, Literal, NamedTuple

from actors import fields
from actors.errors import Conflict, InvalidRequest, NotFound, Overloaded
from actors.keys import id_of
from actors.mechanism import Bookkeeping, Gone, Row
from actors.timetable import Timetable

ROLES = ("admin", "user", "viewer")
MAX_KEYS = 200_000
"""As many as the ledger has accounts: each may have a budget of its own."""
MAX_MODELS = 200
MAX_PAGE = 1_000
_FOREVER_NS = 2**63 - 1
_HASH = re.compile(r"[0-9a-f]{64}\Z")


class KeyRecord(NamedTuple):
    """One key, as everybody but its owner knows it.

    id: first 8 hex digits of `hash`.
    name: what its owner calls it.
    team: its tenant; "" means that the key is its own.
    role: "admin", "user" or "viewer" (health and metrics only).
    hash: SHA-256 of the secret, hex.
    models: the models that it may use; empty: all.
    may_be_high: whether it may ask with high priority.
    max_wait_ns: the longest that its requests may queue, nanoseconds.
    created_ns, expires_ns: wall clock, nanoseconds; expires_ns None: never.
    disabled: revoked; stays so.
    """

    id: str
    name: str
    team: str
    role: str
    hash: str
    models: tuple[str, ...] = ()
    may_be_high: bool = False
    max_wait_ns: int = 10_000_000_000
    created_ns: int = 0
    expires_ns: int | None = None
    disabled: bool = False

    def __repr__(self) -> str:
        shown = self._asdict() | {"hash": self.hash[:8] + "…"}
        return "KeyRecord(" + ", ".join(f"{k}={v!r}" for k, v in shown.items()) + ")"

    def usable(self, now: int) -> bool:
        """Neither revoked nor expired at `now` (wall clock, nanoseconds)."""
        return not self.disabled and (self.expires_ns is None or now < self.expires_ns)


class KeyStore(Bookkeeping):
    """See the module's docstring. View entries: the hash of a usable key → its KeyRecord."""

    NAME: ClassVar[str] = "key_store"
    DURABLE: ClassVar[bool] = True
    MIRRORED: ClassVar[bool] = True
    CLOCK: ClassVar[Literal["steady", "wall"]] = "wall"
    TABLES: ClassVar[Mapping[str, Literal["live", "archive"]]] = {"keys": "live"}
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"create", "bootstrap", "ensure_admin", "find", "revoke", "list", "count", "status"}
    )
    READS: ClassVar[frozenset[str]] = frozenset({"find", "list", "count", "status"})

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, KeyRecord] = {}
        self._by_hash: dict[str, str] = {}
        self._expiries = Timetable()

    def create(self, now: int, caller: str, record: KeyRecord) -> KeyRecord:
        """Keep a new key; `created_ns` and `disabled` of `record` do not count.

        The same record again changes nothing. Raises Conflict when its id is taken,
        InvalidRequest naming a bad field, Overloaded when MAX_KEYS usable keys exist.
        """
        record = _checked(record)
        known = self._keys.get(record.id)
        if known is not None:
            if known._replace(created_ns=0) == record._replace(created_ns=0):
                return known
            raise Conflict(f"Another key has the id {record.id} (or it was revoked).")
        if record.expires_ns is not None and record.expires_ns <= now:
            raise fields.invalid("expires_ns", "in the future, or null")
        self._make_room(now)
        return self._store(record._replace(created_ns=now))

    def bootstrap(self, now: int, caller: str, id: str, hash: str) -> KeyRecord:
        """Make the first admin key. Raises Conflict when a usable admin key exists."""
        known = self._keys.get(id)
        if known is not None and known.hash == hash and _is_admin(known, now):
            return known
        if any(_is_admin(record, now) for record in self._keys.values()):
            raise Conflict("There is an admin key already; make further keys with it.")
        return self.create(now, caller, _admin(id, hash))

    def ensure_admin(self, now: int, caller: str, id: str, hash: str) -> KeyRecord:
        """See to it that the key with this hash exists and is an admin's.

        Raises Conflict when that key was revoked (giving it again does not revive it),
        has expired, or has another role.
        """
        known = self._keys.get(id)
        if known is None:
            return self.create(now, caller, _admin(id, hash))
        if known.hash != hash or not _is_admin(known, now):
            raise Conflict(f"Key {id} exists and is not a usable admin key; choose another.")
        return known

    def find(self, now: int, caller: str, hash: str) -> KeyRecord | None:
        """The usable key with this hash, for whom a view tells too little.

        It is in the caller's view from then on, for as long as it is usable.
        """
        record = self.view(hash, now)
        if record is not None:
            self.show_to(caller, hash)
        return record

    def revoke(self, now: int, caller: str, id: str) -> KeyRecord:
        """End a key for good; again: no effect. Raises NotFound."""
        record = self._keys.get(id)
        if record is None:
            raise NotFound(f"There is no key with the id {str(id)[:20]}.")
        if record.disabled:
            return record
        self.show(record.hash)
        return self._store(record._replace(disabled=True))

    def list(
        self, now: int, caller: str, after: tuple[int, str] = (-1, ""), limit: int = 1_000
    ) -> tuple[KeyRecord, ...]:
        """Keys, oldest first; the next ones after one that was `(created_ns, id)`."""
        place, most = tuple(after), fields.whole(limit, "limit", 1, MAX_PAGE)
        later = (record for record in self._keys.values() if _age(record) > place)
        return tuple(nsmallest(most, later, key=_age))

    def count(self, now: int, caller: str) -> int:
        """How many keys are usable."""
        return sum(record.usable(now) for record in self._keys.values())

    def status(self, now: int, caller: str) -> dict[str, Any]:
        """Counts for health: all, usable, usable admin keys."""
        return {
            "keys": len(self._keys),
            "usable": self.count(now, caller),
            "admins": sum(_is_admin(record, now) for record in self._keys.values()),
        }

    def advance(self, now: int) -> int | None:
        """Take expired keys out of the views."""
        while (hash := self._expiries.due(now)) is not None:
            self.show(hash)
        return self._expiries.next_ns()

    def view(self, key: str, now: int) -> KeyRecord | None:
        """The record of a usable key, by hash."""
        record = self._keys.get(self._by_hash.get(key, ""))
        return record if record is not None and record.usable(now) else None

    def view_keys(self) -> Iterable[str]:
        """The hashes of revoked keys: who has them in view must hear that they are gone."""
        return [record.hash for record in self._keys.values() if record.disabled]

    def keep(self, reply: Any) -> Any:
        """All but the list, which is simply asked for again."""
        listed = isinstance(reply, tuple) and not isinstance(reply, KeyRecord)
        return Gone() if listed else reply

    def load(self, rows: Iterable[Row]) -> None:
        """See `Mechanism`."""
        for row in rows:
            record = KeyRecord(**row.value)
            self._remember(record._replace(models=tuple(record.models)))

    def _store(self, record: KeyRecord) -> KeyRecord:
        self._remember(record)
        self.put("keys", record.id, record._asdict() | {"models": [*record.models]})
        return record

    def _remember(self, record: KeyRecord) -> None:
        if record.expires_ns is not None and not record.disabled:
            self._expiries.set(record.hash, record.expires_ns)
        else:
            self._expiries.cancel(record.hash)
        self._keys[record.id] = record
        self._by_hash[record.hash] = record.id

    def _make_room(self, now: int) -> None:
        """Forget the oldest unusable key when there are too many: unknown ones are refused too.

        Admin keys stay, so that `ensure_admin` never revives a revoked one.
        """
        if len(self._keys) < MAX_KEYS:
            return
        unusable = [
            record
            for record in self._keys.values()
            if record.role != "admin" and not record.usable(now)
        ]
        if not unusable:
            raise Overloaded(f"There are {MAX_KEYS:,} keys; revoke one first.")
        oldest = min(unusable, key=lambda record: record.created_ns)
        del self._keys[oldest.id], self._by_hash[oldest.hash]
        self._expiries.cancel(oldest.hash)
        self.drop("keys", oldest.id)
        self.show(oldest.hash)


def _admin(id: str, hash: str) -> KeyRecord:
    return KeyRecord(id, "admin", "", "admin", hash, may_be_high=True)


def _is_admin(record: KeyRecord, now: int) -> bool:
    return record.role == "admin" and record.usable(now)


def _checked(record: Any) -> KeyRecord:
    if not isinstance(record, KeyRecord):
        raise InvalidRequest("A key is created from a KeyRecord.", param="record")
    if not _HASH.match(fields.text(record.hash, "hash", 64)):
        raise fields.invalid("hash", "a SHA-256 as 64 lower-case hex digits")
    if record.id != id_of(record.hash):
        raise fields.invalid("id", "the first 8 digits of the hash")
    if record.role not in ROLES:
        raise fields.invalid("role", "one of " + ", ".join(ROLES))
    models = fields.sequence(record.models, "models", 0, MAX_MODELS)
    if record.expires_ns is not None:
        fields.whole(record.expires_ns, "expires_ns", 1, _FOREVER_NS)
    return record._replace(
        name=fields.text(record.name, "name", 200, least=1),
        team=fields.text(record.team, "team", 100),
        models=tuple(
            fields.text(model, f"models[{i}]", 200, least=1) for i, model in enumerate(models)
        ),
        may_be_high=fields.truth(record.may_be_high, "may_be_high"),
        max_wait_ns=fields.whole(record.max_wait_ns, "max_wait_ns", 0, _FOREVER_NS),
        created_ns=0,
        disabled=False,
    )


def _age(record: KeyRecord) -> tuple[int, str]:
    """Their order in a list."""
    return (record.created_ns, record.id)
