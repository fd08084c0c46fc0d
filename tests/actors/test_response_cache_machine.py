"""The response cache under any sequence of commands, restarts included."""

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.cache_entries import Entry
from actors.cache_flights import Hit, Lead, Unanswered
from actors.errors import InvalidRequest
from actors.mechanism import Changes, Pending
from actors.response_cache import ResponseCache
from tests.actors.response_cache_world import (
    KEYS,
    MODELS,
    POLICY,
    TENANTS,
    Rows,
    T,
    keys,
    owners,
    purged,
    purges,
    spans,
)


@dataclass
class Asked:
    """What a caller knows of its claim.

    leading: it was told that it leads, and does still, as far as anybody can tell.
    """

    id: str
    key: str
    tenant: str
    asked_at: int
    max_wait: int
    owner: str
    purges_before: int
    beside: bool = False
    waiting: bool = False
    leading: bool = False
    lead: Lead | None = None
    purges_at_lead: int = 0


class Cache(RuleBasedStateMachine):
    """Callers that believe what they are told, and check that it can be true."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.store = Rows()
        self.cache = ResponseCache()
        self.cache.configure(0, "c", "1", POLICY)
        self.claims: list[Asked] = []
        self.purges: list[tuple[str, str]] = []
        self.bodies: dict[bytes, tuple[Asked, int, int, int, int]] = {}
        self.settle()

    # Bookkeeping of the callers.

    def settle(self) -> None:
        """End the batch: commit, and deliver the late replies in order."""
        changes = self.cache.take_changes()
        self.store.commit(changes)
        for caller, id, reply in changes.results:
            claim = next(claim for claim in self.claims if claim.id == id)
            assert caller == f"{claim.owner}.{id}"
            assert claim.waiting, "a late reply to somebody who does not wait"
            claim.waiting = False
            self.learn(claim, reply, late=True)

    def learn(self, claim: Asked, reply: Any, late: bool = False) -> None:
        if isinstance(reply, Hit):
            self.check_hit(claim, reply, late)
            if reply.lead is not None:
                self.start_leading(claim, reply.lead)
        elif isinstance(reply, Lead):
            if late:
                earlier = [
                    other
                    for other in self.claims
                    if other.waiting and other.key == claim.key and other.id != claim.id
                ]
                order = self.claims.index
                assert all(order(other) > order(claim) for other in earlier), "out of turn"
            self.start_leading(claim, reply)
        elif isinstance(reply, Unanswered):
            assert self.now >= claim.asked_at + claim.max_wait
        else:
            assert reply == Pending()
            assert not late
            claim.waiting = True

    def start_leading(self, claim: Asked, lead: Lead) -> None:
        assert lead == Lead(claim.id, len(self.purges))
        claim.lead, claim.leading = lead, True
        claim.purges_at_lead = len(self.purges)

    def check_hit(self, claim: Asked, hit: Hit, late: bool) -> None:
        maker, filled_at, ttl, swr, _ = self.bodies[hit.entry.body]
        assert (maker.tenant, maker.key) == (claim.tenant, claim.key), "I6"
        since = self.purges[maker.purges_at_lead : claim.purges_before]
        assert not any(purged(*purge, claim.key, claim.tenant) for purge in since), "purged"
        assert hit.age_ns == self.now - filled_at
        if not late:
            assert hit.stale == (hit.age_ns >= ttl)
            assert hit.age_ns < ttl + swr
        assert hit.lead is None or hit.stale
        if hit.fresh_ns:
            assert not hit.stale
            assert hit.fresh_ns == ttl - hit.age_ns
            # A copy of it would be made now: no purge since may have meant it.
            since = self.purges[maker.purges_at_lead :]
            assert not any(purged(*purge, claim.key, claim.tenant) for purge in since), "purged"
        else:
            assert late or hit.stale

    # Rules.

    @rule(
        key=keys,
        wait=spans,
        owner=owners,
        lookup=st.sampled_from([True, True, True, False]),
        max_age=st.none() | spans,
        tenant=st.sampled_from(["own", "own", "own", "t1", "t2"]),
    )
    def claim(
        self, key: str, wait: int, owner: str, lookup: bool, max_age: int | None, tenant: str
    ) -> None:
        tenant = TENANTS[key] if tenant == "own" else tenant
        id = f"r{len(self.claims)}"
        claim = Asked(id, key, tenant, self.now, wait, owner, len(self.purges))
        claim.beside = not lookup and self.led(key) > 0
        try:
            caller = f"{owner}.{id}"
            reply = self.cache.claim(
                self.now, caller, id, key, tenant, MODELS[key], wait, lookup, max_age
            )
        except InvalidRequest:
            # Another tenant holds this key, which no digest over the tenant allows.
            return
        self.claims.append(claim)
        self.learn(claim, reply)
        self.settle()

    @precondition(lambda self: any(claim.lead for claim in self.claims))
    @rule(data=st.data(), size=st.integers(0, 300), ttl=spans, swr=spans, sie=spans)
    def fill(self, data: st.DataObject, size: int, ttl: int, swr: int, sie: int) -> None:
        led = [claim for claim in self.claims if claim.lead]
        now = [claim for claim in led if claim.leading]
        claim = data.draw(st.sampled_from(led) | st.sampled_from(now or led))
        assert claim.lead is not None
        body = f"{claim.tenant}/{claim.key}/{len(self.bodies)}/".encode().ljust(size, b".")
        self.bodies[body] = claim, self.now, ttl, swr, sie
        entry = Entry(body, "json", {})
        spans = (ttl, swr, sie)
        kept = self.cache.fill(self.now, "c", claim.key, *claim.lead, entry, *spans)
        since = self.purges[claim.purges_at_lead :]
        stopped = any(purged(*purge, claim.key, claim.tenant) for purge in since)
        fits = len(body) + len(claim.key) + len("{}") <= POLICY["max_entry_bytes"]
        assert kept == (claim.leading and ttl > 0 and fits and not stopped)
        if kept:
            found = self.cache.lookup(self.now, "c", claim.key, False)
            assert found == Hit(entry, 0, False, None, ttl)
        claim.leading = False
        self.settle()

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        held = [claim for claim in self.claims if claim.leading or claim.waiting]
        claim = data.draw(st.sampled_from(self.claims) | st.sampled_from(held or self.claims))
        self.cache.leave(self.now, "c", claim.key, claim.id)
        claim.leading = claim.waiting = False
        self.settle()

    @rule(owner=owners)
    def bury(self, owner: str) -> None:
        """A process is found dead: it leads nothing, and whoever waited for it goes on."""
        mine = [one for one in self.claims if one.owner == owner and (one.leading or one.waiting)]
        assert self.cache.bury(self.now, "c", owner, False) == len(mine)
        for claim in mine:
            claim.leading = claim.waiting = False
        self.settle()

    @rule(seen=st.lists(st.tuples(keys, st.integers(1, 3)), max_size=3))
    def seen(self, seen: list[tuple[str, int]]) -> None:
        """Copies were served: that is counted, and changes what goes first only."""
        before = self.cache.status(self.now, "c")
        self.cache.seen(self.now, "c", tuple(seen))
        after = self.cache.status(self.now, "c")
        assert after["hits"] == before["hits"] + sum(hits for _, hits in seen)
        assert {**after, "hits": 0, "hit_rate": 0} == {**before, "hits": 0, "hit_rate": 0}

    @rule(key=keys, stale_ok=st.booleans())
    def lookup(self, key: str, stale_ok: bool) -> None:
        hit = self.cache.lookup(self.now, "c", key, stale_ok)
        if hit is not None:
            maker, filled_at, ttl, swr, sie = self.bodies[hit.entry.body]
            assert maker.key == key
            assert hit.age_ns == self.now - filled_at
            assert hit.age_ns < ttl + (max(swr, sie) if stale_ok else 0)
            since = self.purges[maker.purges_at_lead :]
            assert not any(purged(*purge, key, maker.tenant) for purge in since)

    @rule(purge=purges)
    def purge(self, purge: tuple[str, str]) -> None:
        self.cache.purge(self.now, "c", *purge)
        self.purges.append(purge)
        self.settle()

    @rule(steps=st.integers(1, 4))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.now += T
            self.cache.advance(self.now)
            self.settle()

    @rule(steps=st.integers(1, 4))
    def time_jumps(self, steps: int) -> None:
        """The timer is late: the next command finds everything overdue."""
        self.now += steps * T
        self.cache.waiting(self.now, "c", "k1")
        self.settle()

    @rule()
    def restart(self) -> None:
        self.cache = self.store.restart()

    # What always holds.

    def led(self, key: str) -> int:
        return sum(claim.leading and not claim.beside for claim in self.claims if claim.key == key)

    @invariant()
    def one_leader(self) -> None:
        """I5: at most one of those who were told to lead does, and whoever waits has a leader."""
        for key in KEYS:
            waiting = sum(claim.waiting for claim in self.claims if claim.key == key)
            assert self.cache.waiting(self.now, "c", key) == waiting
            assert self.led(key) <= 1
            assert self.led(key) == 1 or not waiting

    @invariant()
    def bounds_hold(self) -> None:
        """Bytes and entries stay within policy, and every hold is somebody's."""
        status = self.cache.status(self.now, "c")
        assert status["bytes"] <= status["max_bytes"] == POLICY["max_bytes"]
        assert status["size"] <= status["max_size"] == POLICY["max_entries"]
        assert (status["bytes"] == 0) == (status["size"] == 0)
        assert status["leaders"] == sum(claim.leading for claim in self.claims)
        assert status["waiters"] == sum(claim.waiting for claim in self.claims)
        assert status["generation"] == len(self.purges)
        holding = {claim.owner for claim in self.claims if claim.leading or claim.waiting}
        assert set(self.cache.owners()) == holding
        assert self.cache.take_changes() == Changes([], [], set(), [])

    def teardown(self) -> None:
        """I12: when all have left or are buried, and all entries are dead, nothing is left."""
        for claim in self.claims:
            if claim.owner != "dead":
                self.cache.leave(self.now, "c", claim.key, claim.id)
        self.cache.bury(self.now, "c", "dead", True)
        self.cache.advance(self.now + 1000 * T)
        self.store.commit(self.cache.take_changes())
        status = self.cache.status(self.now + 1000 * T, "c")
        assert [status[name] for name in ("leaders", "waiters", "size", "bytes")] == [0] * 4
        assert self.cache.advance(self.now + 1000 * T) is None
        assert {table for table, _ in self.store.live} == {"meta"}


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
