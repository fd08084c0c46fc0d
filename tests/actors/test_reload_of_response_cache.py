"""The response cache: but for its bodies, one that was reloaded is the one that lived."""

import copy
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from actors.cache_entries import Entry
from actors.cache_flights import Hit, Lead
from actors.repeats import Begun
from actors.response_cache import ResponseCache
from tests.actors.reloading import Twin
from tests.actors.response_cache_world import MODELS, POLICY, TENANTS, T, keys, purges, spans

callers = st.sampled_from(["a.1", "a.2", "b.1"])
digests = st.sampled_from([b"one", b"one", b"two"])
waits = st.sampled_from([0, T, 12 * T])
entries = st.builds(
    Entry,
    st.binary(max_size=3) | st.just(b"." * 300),
    st.sampled_from(["json", "sse"]),
    st.just({}),
)


def hand_over(lived: ResponseCache, loaded: ResponseCache) -> None:
    """Bodies are not stored, nor how often they were asked for; arrivals are counted anew.

    Of ends at one moment the later one is remembered a nanosecond longer, if not after a restart.
    """
    loaded._entries = copy.deepcopy(lived._entries)
    loaded._lookups = copy.deepcopy(lived._lookups)
    loaded._repeats._bodies = copy.deepcopy(lived._repeats._bodies)
    loaded._repeats._last_until_ns = lived._repeats._last_until_ns
    loaded._flights._order = lived._flights._order
    loaded._repeats._followers._order = lived._repeats._followers._order


class Cache(RuleBasedStateMachine):
    """Leaders, waiters and repeats whose processes die, and a cache that does."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.twin = Twin(ResponseCache, hand_over)
        self.leads: list[tuple[str, Lead]] = []
        self.runs: list[tuple[str, str]] = []
        self.claimed: list[tuple[str, str]] = []
        self.revision = 0
        self.ids = 0
        self.configure(2)

    def do(self, command: str, *args: Any, by: str = "c") -> Any:
        reply = self.twin.do(self.now, command, *args, by=by)
        self.hear()
        return reply

    def hear(self) -> None:
        """Remember who leads and who runs; what else is said late has been compared."""
        places = dict(self.claimed)
        for result in self.twin.heard:
            self.learn(places[result.id], result.reply)
        self.twin.heard.clear()

    def learn(self, key: str, reply: Any) -> None:
        if isinstance(reply, Hit) and reply.lead is not None:
            self.leads.append((key, reply.lead))
        elif isinstance(reply, Lead):
            self.leads.append((key, reply))
        elif isinstance(reply, Begun):
            self.runs.append((key, reply.id))

    def id(self, data: st.DataObject, key: str, again: bool) -> str:
        """A new id, or one of before, on that key or another."""
        if again and self.claimed:
            return data.draw(st.sampled_from(self.claimed[-5:]))[0]
        self.ids += 1
        self.claimed.append((f"i{self.ids}", key))
        return f"i{self.ids}"

    @rule(entries=st.integers(0, 3))
    def configure(self, entries: int) -> None:
        self.revision += 1
        self.do("configure", str(self.revision), {**POLICY, "max_entries": entries})

    @rule(
        data=st.data(),
        key=keys,
        by=callers,
        wait=waits,
        lookup=st.sampled_from([True, True, False]),
        age=st.none() | spans,
        again=st.sampled_from([False, False, False, True]),
    )
    def claim(
        self,
        data: st.DataObject,
        key: str,
        by: str,
        wait: int,
        lookup: bool,
        age: int | None,
        again: bool,
    ) -> None:
        id = self.id(data, key, again)
        asked = (id, key, TENANTS[key], MODELS[key], wait, lookup, age)
        self.learn(key, self.do("claim", *asked, by=by))

    @precondition(lambda self: self.leads)
    @rule(data=st.data(), entry=entries, ttl=spans, swr=spans, sie=spans)
    def fill(self, data: st.DataObject, entry: Entry, ttl: int, swr: int, sie: int) -> None:
        key, lead = data.draw(st.sampled_from(self.leads[-4:]))
        self.do("fill", key, *lead, entry, ttl, swr, sie)

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), command=st.sampled_from(["leave", "repeat_leave"]))
    def leave(self, data: st.DataObject, command: str) -> None:
        id, key = data.draw(st.sampled_from(self.claimed[-5:]))
        self.do(command, key, id)

    @rule(key=keys, stale_ok=st.booleans(), age=st.none() | spans)
    def look(self, key: str, stale_ok: bool, age: int | None) -> None:
        self.do("lookup", key, stale_ok, age, TENANTS[key])
        self.do("waiting", key)
        self.do("status")

    @rule(key=keys)
    def seen(self, key: str) -> None:
        self.do("seen", ((key, 2),))

    @rule(purge=purges | st.just(("color", "red")))
    def purge(self, purge: tuple[str, str]) -> None:
        self.do("purge", *purge)

    @rule(
        data=st.data(),
        key=keys,
        digest=digests,
        by=callers,
        wait=waits,
        again=st.sampled_from([False, False, True]),
    )
    def begin(
        self, data: st.DataObject, key: str, digest: bytes, by: str, wait: int, again: bool
    ) -> None:
        id = self.id(data, key, again)
        self.learn(key, self.do("repeat_begin", id, key, digest, wait, by=by))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), entry=st.none() | entries)
    def finish(self, data: st.DataObject, entry: Entry | None) -> None:
        key, id = data.draw(st.sampled_from(self.runs[-4:]))
        self.do("repeat_finish", key, id, entry)

    @rule(owner=st.sampled_from("ab"), lost=st.booleans())
    def bury(self, owner: str, lost: bool) -> None:
        self.do("bury", owner, lost)

    @rule(steps=st.sampled_from([1, 2, 4, 13, 24 * 3600 * 4]))
    def wait(self, steps: int) -> None:
        self.now += steps * T
        self.twin.until(self.now)
        self.hear()

    @rule(steps=st.integers(1, 20))
    def oversleep(self, steps: int) -> None:
        self.now += steps * T

    @rule()
    def crash(self) -> None:
        self.twin.crash(self.now)
        self.hear()


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=settings.default.max_examples, stateful_step_count=40)
