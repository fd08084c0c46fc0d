"""The response cache: one answer per question, one provider call per missing answer.

Exact keys, bounded, least recently used goes first (`actors/cache_entries.py`). Of all that miss
the same key one is the leader, who fetches and fills; the others wait (`actors/cache_flights.py`;
the idea is golang.org/x/sync/singleflight's, across processes). Stale answers: RFC 5861. Whole
replies under keys that clients choose: `actors/repeats.py`. A restart loses bodies and counts; it
remembers leaders, waiters, purges and the policy.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal

from actors import repeats
from actors.cache_entries import Bounds, Entries, Entry, Lookups, Stored
from actors.cache_flights import TABLE, Flights, Hit, Lead, Role, Unanswered, purged_by
from actors.errors import IdempotencyMismatch, InvalidRequest, Overloaded
from actors.mechanism import Bookkeeping, Gone, Pending, Row
from actors.repeats import Repeated, RepeatReply, Repeats

MAX_CLAIMS = 100_000  # Leaders and waiters at once; past it a claim raises Overloaded.
_META = "meta"


class ResponseCache(Bookkeeping):
    """See the module's docstring, and `Mechanism` for the parts that all mechanisms have."""

    NAME: ClassVar[str] = "response_cache"
    DURABLE: ClassVar[bool] = False
    MIRRORED: ClassVar[bool] = False
    CLOCK: ClassVar[Literal["steady", "wall"]] = "steady"
    TABLES: ClassVar[Mapping[str, Literal["live", "archive"]]] = dict.fromkeys(
        (TABLE, _META, *repeats.TABLES), "live"
    )
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"configure", "claim", "fill", "leave", "lookup", "waiting", "seen", "purge", "status"}
        | {"repeat_begin", "repeat_finish", "repeat_leave", "bury"}
    )
    READS: ClassVar[frozenset[str]] = frozenset({"lookup", "waiting", "seen", "status"})

    def __init__(self) -> None:
        super().__init__()
        self._bounds, self._revision = Bounds(), ""
        self._entries = Entries(self._bounds)
        self._flights = Flights(self)
        self._repeats = Repeats(self)
        self._lookups = Lookups()
        self._caught_up_ns = -1

    # Commands.

    def configure(self, now: int, caller: str, revision: str, policy: dict[str, Any]) -> None:
        """Apply bounds (see `Bounds.of`), to which the replies kept for repeats don't count.

        Entries that no longer fit go at once. The revision in force again changes nothing.
        """
        if revision == self._revision:
            return
        self._bounds, self._revision = Bounds.of(policy), revision
        self._entries.resize(self._bounds)
        self.put(_META, "policy", [revision, self._bounds._asdict()])

    def claim(
        self,
        now: int,
        caller: str,
        lead_id: str,
        key: str,
        tenant: str,
        model: str,
        max_wait_ns: int,
        lookup: bool = True,
        max_age_ns: int | None = None,
    ) -> Hit | Lead | Pending | Unanswered:
        """Look up an answer; on a miss become its leader, or wait for the one there is.

        lead_id: minted by the caller, new per request. PENDING is followed by a late Hit,
            by a late Lead (the leader failed: this caller leads now), or Unanswered.
        max_wait_ns: patience as a waiter; 0 does not wait (Unanswered at once).
        lookup: False skips the entries and waits for nobody; beside a leader the reply is
            a Lead that displaces nobody, and whose fill is kept like any other.
        max_age_ns: an entry of this age or above is a miss.
        Raises InvalidRequest for a key under which another tenant's answer is known,
        IdempotencyMismatch for an id that is held on another key, Overloaded.
        """
        self._check_tenant(key, tenant)
        held = self._flights.find(lead_id)
        if held is not None and held.key != key:
            raise IdempotencyMismatch(f"The lead {lead_id} is held on another key")
        self._catch_up(now)
        lead: Lead | None = None
        if (held := self._flights.find(lead_id)) is not None:
            self._flights.readdress(held, caller)
            if held.role == Role.WAIT:
                return Pending()
            lead = Lead(lead_id, held.generation)
        leader = self._flights.leader(key)
        room = len(self._flights) < MAX_CLAIMS

        def take(role: Role, ends_ns: int = 0) -> Lead:
            return self._flights.open(lead_id, role, key, tenant, model, caller, ends_ns)

        stored = self._entries.younger(key, now, max_age_ns) if lookup else None
        if stored is not None and now < max(stored.fresh_until_ns, stored.revalidate_until_ns):
            # A stale answer is better than Overloaded: without room it goes unrefreshed.
            if now >= stored.fresh_until_ns and leader is None and lead is None and room:
                lead = take(Role.LEAD)
            return self._hit(key, stored, now, lead)
        if lead is not None:
            return lead
        if not room:
            raise Overloaded("Too many requests wait for the cache", retry_after_s=1.0)
        if leader is None or not lookup:
            self._lookups.misses += lookup
            return take(Role.LEAD if leader is None else Role.BYPASS)
        self._lookups.waits += 1
        if max_wait_ns <= 0:
            return Unanswered("max_wait")
        take(Role.WAIT, now + max_wait_ns)
        return Pending()

    def fill(
        self,
        now: int,
        caller: str,
        key: str,
        lead_id: str,
        generation: int,
        entry: Entry,
        ttl_ns: int,
        swr_ns: int,
        sie_ns: int,
    ) -> bool:
        """Close a lead with its answer; whether the answer was kept.

        ttl_ns: how long it is fresh; 0 keeps nothing.
        swr_ns, sie_ns: how long after that it may serve stale, while it is refreshed and
            instead of an error.
        Dropped is what comes from a lead that ended, from before a purge, or is too large. Waiters
        get the answer even if it is not kept, except those who asked after a purge that it
        predates: the first of these leads now.
        """
        if entry.kind not in ("json", "sse"):
            raise InvalidRequest(f"An entry is json or sse, not {entry.kind}", param="kind")
        self._catch_up(now)
        lead = self._flights.leading(lead_id, key, generation)
        if lead is None:
            return False
        kept = ttl_ns > 0 and not lead.purged
        self._flights.land(lead, Hit(entry, 0, False, None, ttl_ns if kept else 0))
        stored = Stored.at(now, lead.tenant, lead.model, entry, ttl_ns, swr_ns, sie_ns)
        return kept and self._entries.put(key, stored)

    def leave(self, now: int, caller: str, key: str, lead_id: str) -> None:
        """Let go: a leader that failed hands over to the next waiter, a waiter just goes.

        A no-op for what is not held (any more).
        """
        self._catch_up(now)
        claim = self._flights.find(lead_id)
        if claim is not None and claim.key == key:
            self._flights.leave(claim)

    def lookup(
        self,
        now: int,
        caller: str,
        key: str,
        stale_ok: bool,
        max_age_ns: int | None = None,
        tenant: str | None = None,
    ) -> Hit | None:
        """Only look: no claim, no waiting.

        stale_ok: whether an expired answer is better than none (stale-if-error).
        tenant: when given, another tenant's answer is none.
        """
        self._catch_up(now)
        stored = self._entries.younger(key, now, max_age_ns)
        if (
            stored is not None
            and tenant in (None, stored.tenant)
            and now < (stored.dead_ns if stale_ok else stored.fresh_until_ns)
        ):
            return self._hit(key, stored, now, None)
        self._lookups.misses += not stale_ok  # The claim before a failure has counted its own.
        return None

    def waiting(self, now: int, caller: str, key: str) -> int:
        """How many wait for this key's leader, who goes on for them when its client is gone."""
        self._catch_up(now)
        return self._flights.waiting(key)

    def seen(self, now: int, caller: str, keys: tuple[tuple[str, int], ...]) -> None:
        """These keys' answers were given so many times from copies: that is a use of them."""
        for key, hits in keys:
            self._lookups.hits += hits
            if self._entries.get(key) is not None:
                self._entries.use(key)

    def purge(self, now: int, caller: str, by: str, value: str = "") -> int:
        """Drop the entries of a "key", "model" or "tenant" (`value`), or "all"; how many.

        What is being fetched for them is not kept when it comes.
        """
        matches = purged_by(by, value)
        self._catch_up(now)
        self.put(_META, "generation", self._flights.purge(matches))
        self.show("purges")
        return self._entries.remove_where(matches)

    def repeat_begin(
        self, now: int, caller: str, id: str, key: str, digest: bytes, wait_ns: int
    ) -> RepeatReply:
        """See `Repeats.begin`."""
        self._catch_up(now)
        return self._repeats.begin(now, caller, id, key, digest, wait_ns)

    def repeat_finish(self, now: int, caller: str, key: str, id: str, entry: Entry | None) -> None:
        """See `Repeats.finish`."""
        self._catch_up(now)
        self._repeats.finish(now, key, id, entry)

    def repeat_leave(self, now: int, caller: str, key: str, id: str) -> None:
        """See `Repeats.leave`."""
        self._catch_up(now)
        self._repeats.leave(now, key, id)

    def bury(self, now: int, caller: str, owner: str, lost: bool) -> int:
        """A dead owner's leads go to the next waiters, its waiters go; see `Repeats.bury`."""
        self._catch_up(now)
        return self._flights.bury(owner) + self._repeats.bury(now, owner)

    def status(self, now: int, caller: str) -> dict[str, Any]:
        """For health and admin: what is kept, how it was asked for, who leads and who waits."""
        self._catch_up(now)
        return {
            **self._entries.status(),
            **self._lookups.status(),
            **self._flights.status(),
            "repeats": self._repeats.status(),
        }

    # What a host needs.

    def load(self, rows: Iterable[Row]) -> None:
        """See `Mechanism`. There are no entries among the rows."""
        by_table: dict[str, list[Row]] = {table: [] for table in self.TABLES}
        for row in rows:
            by_table[row.table].append(row)
        meta = {row.key: row.value for row in by_table[_META]}
        if "policy" in meta:
            self._revision, self._bounds = meta["policy"][0], Bounds(**meta["policy"][1])
            self._entries.resize(self._bounds)
        self._flights.load(by_table[TABLE], meta.get("generation", 0))
        self._repeats.load(*(by_table[table] for table in repeats.TABLES))

    def advance(self, now: int) -> int | None:
        """See `Mechanism`: refuses waiters whose time is over, drops dead entries."""
        self._catch_up(now)
        due = (self._flights.next_ns(), self._entries.next_ns(), self._repeats.next_ns())
        return min((at_ns for at_ns in due if at_ns is not None), default=None)

    def view(self, key: str, now: int) -> Any:
        """See `Mechanism`. "purges": copies made in an earlier generation are to be dropped."""
        return {"generation": self._flights.generation} if key == "purges" else None

    def view_keys(self) -> Iterable[str]:
        """See `Mechanism`."""
        return ("purges",)

    def owners(self) -> Collection[str]:
        """See `Mechanism`: who leads, waits, or runs what comes again."""
        return {*self._flights.owners(), *self._repeats.owners()}

    def keep(self, reply: Any) -> Any:
        """See `Mechanism`. Bodies are not stored: whoever gets Gone claims again."""
        return Gone() if isinstance(reply, Hit | Repeated) else reply

    # Inside.

    def _catch_up(self, now: int) -> None:
        """Have everything as it is at `now`, however late `advance` is."""
        if now == self._caught_up_ns:
            return  # A batch has one time, and nothing ends when it begins.
        self._caught_up_ns = now
        self._flights.catch_up(now)
        self._entries.sweep(now)
        self._repeats.catch_up(now)

    def _hit(self, key: str, stored: Stored, now: int, lead: Lead | None) -> Hit:
        self._lookups.hits += 1
        self._entries.use(key)
        fresh_ns = max(0, stored.fresh_until_ns - now)
        return Hit(stored.entry, now - stored.stored_ns, fresh_ns == 0, lead, fresh_ns)

    def _check_tenant(self, key: str, tenant: str) -> None:
        """Keys are digests over the tenant; one that two tenants share is a caller's mistake."""
        known = self._entries.get(key) or self._flights.leader(key)
        if known is not None and known.tenant != tenant:
            raise InvalidRequest("This cache key belongs to another tenant", param="key")
