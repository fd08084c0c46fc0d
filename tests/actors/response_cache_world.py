"""What the response cache's tests share: a caller in virtual time, and a store."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from actors.cache_entries import Entry
from actors.cache_flights import Lead
from actors.mechanism import Changes, Row
from actors.response_cache import ResponseCache

S = 1_000_000_000
WAIT = 10 * S


class Caller:
    """A gateway replica in virtual time; `at` is in seconds."""

    def __init__(self, **policy: int) -> None:
        self.cache = ResponseCache()
        self.cache.configure(0, "c", "1", policy)
        self.ids = 0

    def claim(self, at: float, key: str = "k", caller: str = "c", **options: Any) -> Any:
        """Claim with a new id; `options` replace the usual arguments."""
        self.ids += 1
        given: dict[str, Any] = {
            "lead_id": f"r{self.ids}",
            "tenant": "t",
            "model": "m",
            "max_wait_ns": WAIT,
            **options,
        }
        return self.cache.claim(ns(at), caller, key=key, **given)

    def fill(
        self,
        at: float,
        lead: Any,
        key: str = "k",
        body: bytes = b"answer",
        ttl: float = 300,
        swr: float = 0,
        sie: float = 0,
    ) -> bool:
        """Fill a lead."""
        assert isinstance(lead, Lead), lead
        spans = (ns(ttl), ns(swr), ns(sie))
        return self.cache.fill(ns(at), "c", key, *lead, entry(body), *spans)

    def put(self, at: float, key: str, **options: Any) -> bool:
        """Claim, and fill at once."""
        return self.fill(at, self.claim(at, key), key, **options)

    def leave(self, at: float, lead_id: str, key: str = "k") -> None:
        """Let a claim go."""
        self.cache.leave(ns(at), "c", key, lead_id)

    def late(self) -> dict[str, Any]:
        """Late replies since the last time, by id."""
        return {result.id: result.reply for result in self.cache.take_changes().results}

    def lookup(self, at: float, key: str = "k", stale_ok: bool = False, **more: Any) -> Any:
        """Only look."""
        return self.cache.lookup(ns(at), "c", key, stale_ok, **more)

    def status(self, at: float = 0) -> dict[str, Any]:
        """What health says."""
        return self.cache.status(ns(at), "c")


def ns(seconds: float) -> int:
    """Seconds as integer nanoseconds."""
    return round(seconds * S)


def entry(body: bytes = b"answer") -> Entry:
    """A small stored answer."""
    return Entry(body, "json", {})


# For any sequence of commands.

T = 250_000_000
"""One step of time: entries die at whole seconds, claims at any."""

KEYS = ["k1", "k2", "k3"]
TENANTS = {"k1": "t1", "k2": "t1", "k3": "t2"}
MODELS = {"k1": "m1", "k2": "m2", "k3": "m1"}
POLICY = {"max_entries": 2, "max_bytes": 400, "max_entry_bytes": 250}

keys = st.sampled_from(KEYS)
owners = st.sampled_from(["dead", "alive"])
spans = st.integers(0, 12).map(lambda steps: steps * T)
purges = st.sampled_from(
    [("all", ""), ("key", "k1"), ("model", "m1"), ("tenant", "t1"), ("tenant", "t2")]
)


def purged(by: str, value: str, key: str, tenant: str) -> bool:
    """Whether a purge means this key of this tenant."""
    named = {"all": "", "key": key, "model": MODELS[key], "tenant": tenant}
    return named[by] == value


class Rows:
    """A store: what a host would read after a restart, through msgpack as the real one."""

    def __init__(self) -> None:
        self.live: dict[tuple[str, str], bytes] = {}

    def commit(self, changes: Changes) -> None:
        """Apply a batch's rows."""
        for table, key, value in changes.rows:
            if value is None:
                self.live.pop((table, key), None)
            else:
                self.live[table, key] = msgspec.msgpack.encode(value)

    def restart(self) -> ResponseCache:
        """A new mechanism, loaded; a store gives rows back in no order that could help."""
        cache = ResponseCache()
        cache.load(
            Row(table, key, msgspec.msgpack.decode(value))
            for (table, key), value in sorted(self.live.items(), reverse=True)
        )
        return cache
