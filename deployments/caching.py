"""Step 5: an answer from the cache, or the lead for fetching it, or the wait for a leader."""

import asyncio
from typing import Any

from actors.cache_entries import Entry
from actors.cache_flights import Hit, Lead, Unanswered
from actors.charges import Usage
from actors.errors import DeadlineExceeded, ProviderTimeout, RaygateError, StorageFull
from deployments.absence import Away, heard, note, without
from deployments.cache_key import cache_key
from deployments.policy import ns
from deployments.replay import completion_of, restream, stream_of
from deployments.request import CacheWord, Reply, Request
from deployments.services import Services

SHARED = "shared"


class CacheStep:
    """One request's dealings with the cache. word: what `x-raygate-cache` will say."""

    def __init__(self, services: Services, request: Request) -> None:
        assert services.policy is not None
        assert request.route is not None
        self._services = services
        self._request = request
        self._rules = services.policy.policy.cache
        wishes = request.cache
        self._on = request.route.cache and not (wishes.no_cache and wishes.no_store)
        self._tenant = SHARED if self._rules.shared else request.tenant
        self._key = ""
        self._id = request.id
        self._asked: asyncio.Future[Any] | None = None
        self._copy: Hit | None = None
        self._generation = -1
        self.lead: Lead | None = None
        self.word: CacheWord = "MISS" if self._on else "BYPASS"

    def ask(self) -> None:
        """Put the lookup, and the claim, into the next batch."""
        if not self._on:
            return
        request, wishes = self._request, self._request.cache
        self._key = cache_key(self._tenant, request.model, "chat", request.body)
        if not wishes.no_cache:
            self._copy = self._services.first_level.find(self._key, wishes.max_age_ns)
            if self._copy is not None:
                return
        if without(self._services, request, "response_cache"):
            self.word = "BYPASS"
            return
        self._generation = self._services.first_level.generation()
        if wishes.no_store or wishes.only_if_cached:
            self._asked = self._services.cache.submit(
                "lookup", self._key, False, wishes.max_age_ns, self._tenant
            )
            return
        left_s = max(request.deadline - asyncio.get_running_loop().time(), 0.0)
        self._asked = self._services.cache.submit(
            "claim",
            self._id,
            self._key,
            self._tenant,
            request.model,
            round(left_s * 1e9),
            not wishes.no_cache,
            wishes.max_age_ns,
            on_pending=self._wait,
        )

    def _wait(self) -> None:
        self.word = "WAIT"

    def ask_again(self) -> None:
        """After a wait elsewhere, during which nobody was to wait for this request."""
        if self._copy is not None:
            return
        self.leave()
        self._id = self._services.mint()
        self.word = "MISS" if self._on else "BYPASS"
        self.ask()

    async def found(self) -> Hit | None:
        """A hit, or None: fetch it (as the leader where `lead` is set).

        Raises DeadlineExceeded when the leader took longer than this request has, and
        ProviderTimeout where only a cached answer was wanted and there is none.
        """
        if self._copy is not None:
            self.word = "HIT"
            return self._copy
        reply = await self._answer() if self._asked is not None else None
        if isinstance(reply, Hit):
            self._services.first_level.keep(self._key, reply, self._generation)
            self.lead = reply.lead
            self.word = "STALE" if reply.stale else ("WAIT" if self.word == "WAIT" else "HIT")
            return reply
        if isinstance(reply, Unanswered):
            raise DeadlineExceeded(
                "Another request is fetching this answer and took longer than this one had.",
                should_retry=False,
            )
        if isinstance(reply, Lead):
            self.lead = reply
            self.word = "MISS"
        elif self._request.cache.only_if_cached:
            raise ProviderTimeout(
                "Nothing is cached for this request, and it asked for only-if-cached.",
                code="not_cached",
                should_retry=False,
            )
        return None

    async def _answer(self) -> Any:
        assert self._asked is not None
        try:
            return await heard(
                self._services, "response_cache", self._asked, self._request.deadline
            )
        except Away as away:
            note(self._services, self._request, str(away))
            self.leave()
            self.word = "BYPASS"
            return None
        except StorageFull:
            # It can't lead, nor be waited for, and needs neither to be right.
            self._asked, self.word = None, "BYPASS"
            return None

    def keep(self, body: bytes | None, usage: Usage, kind: str) -> None:
        """The leader's answer (None: there is none to keep)."""
        if self.lead is None:
            return
        if body is None:
            self.leave()
            return
        lead, self.lead, self._asked = self.lead, None, None
        entry = Entry(body, "sse" if kind == "sse" else "json", {"usage": list(usage)})
        rules = self._rules
        self._services.cache.tell(
            "fill",
            self._key,
            lead.lead_id,
            lead.generation,
            entry,
            ns(rules.ttl_s),
            ns(rules.stale_while_revalidate_s),
            ns(rules.stale_if_error_s),
        )

    def leave(self) -> None:
        """Nothing comes of this: the next waiter leads, or nobody waits for us any more."""
        if self._asked is not None:
            # It must not be asked again behind what gives it back.
            self._asked.cancel()
            self._services.cache.tell("leave", self._key, self._id)
            self.lead, self._asked = None, None

    async def stale(self) -> Hit | None:
        """An answer past its time, for when there is nothing better."""
        if not self._on:
            return None
        key = self._key or cache_key(self._tenant, self._request.model, "chat", self._request.body)
        try:
            found = await self._services.cache.ask("lookup", key, True, None, self._tenant)
        except RaygateError:
            return None
        return found if isinstance(found, Hit) else None


def fill_in(reply: Reply, hit: Hit, request: Request) -> bool:
    """Answer with a stored entry, in the form that this client asked for.

    False where that can't be had of it (a stream that never said why it ended is no completion).
    """
    entry = hit.entry
    try:
        if request.stream:
            replay = restream if entry.kind == "sse" else stream_of
            body = replay(entry.body, request.include_usage)
        else:
            body = completion_of(entry.body) if entry.kind == "sse" else entry.body
    except ValueError:
        return False
    usage = entry.meta.get("usage")
    reply.usage = Usage(*usage) if usage else None
    reply.body, reply.kind = body, "sse" if request.stream else "json"
    return True
