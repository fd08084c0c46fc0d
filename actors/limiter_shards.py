"""The rate limiter on several hosts: a limit's subject decides which of them has its bucket."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from actors.consultant import Consultant
from actors.limits import Refused
from actors.rendezvous import limit_key, shard_of
from actors.shards import Part, Shards, log, total
from actors.spread_take import SpreadTake

_MAX_TAKES = 100_000
"""Takes whose shards are remembered; of older ones every shard is told the end."""


class LimiterShards(Shards):
    """A rate limiter of K shards.

    A take of limits that live on one shard is asked there like any other. One of limits on
    several is still all or nothing; see `SpreadTake` for how, and for its stamps.
    """

    def __init__(self, consultants: Sequence[Consultant]) -> None:
        super().__init__(consultants)
        # In the order of their asking.
        self._takes: dict[str, int | SpreadTake] = {}

    def parts(self, command: str, args: tuple[Any, ...]) -> Sequence[Part]:
        """See `Shards`."""
        if command in ("settle", "undo"):
            return self._ends(*args)
        if command in ("look", "exchange"):
            by_shard = self._by_shard(args[0])
            return [(shard, (mine, *args[1:])) for shard, mine in by_shard.items()] or [(0, args)]
        return super().parts(command, args)

    def joined(
        self, command: str, args: tuple[Any, ...], parts: Sequence[Part], replies: list[Any]
    ) -> Any:
        """See `Shards`. What was asked in parts is answered in the order of the question."""
        if command == "look":
            states = {(state.limit, state.subject): state for reply in replies for state in reply}
            return tuple(states[one[:2]] for one in args[0] if one[:2] in states)
        if command == "exchange":
            lent = {shard: iter(reply) for (shard, _), reply in zip(parts, replies, strict=True)}
            # Whoever reckons from this time on is behind none of the grants.
            at_ns = max(one.at_ns for reply in replies for one in reply)
            ordered = (next(lent[self._shard(*wish[:2])]) for wish in args[0])
            return tuple(one._replace(at_ns=at_ns) for one in ordered)
        if command == "status":
            return total(replies) | {"limits": self._listing(replies)}
        return super().joined(command, args, parts, replies)

    def submit(
        self, command: str, *args: Any, on_pending: Callable[[], None] | None = None
    ) -> "asyncio.Future[Any]":
        """See `Shards.submit`."""
        if command != "acquire":
            return super().submit(command, *args, on_pending=on_pending)
        id, takes, *more = args
        known = self._takes.get(id)
        if isinstance(known, SpreadTake):
            # It holds, or waits, already.
            return known.start()
        by_shard = self._by_shard(takes)
        future: asyncio.Future[Any]
        if len(by_shard) > 1:
            spread = SpreadTake(self.consultants, id, takes, by_shard, *more, on_pending=on_pending)
            future, self._takes[id] = spread.start(), spread
        else:
            shard = next(iter(by_shard), 0)
            future = self.consultants[shard].submit("acquire", *args, on_pending=on_pending)
            self._takes[id] = shard
        future.add_done_callback(partial(self._answered, id))
        if len(self._takes) > _MAX_TAKES:
            del self._takes[next(iter(self._takes))]
        return future

    async def _join(
        self,
        command: str,
        args: tuple[Any, ...],
        parts: Sequence[Part],
        sent: Sequence["asyncio.Future[Any]"],
    ) -> Any:
        if command != "exchange":
            return await super()._join(command, args, parts, sent)
        # What one shard has done is done: that another one broke must not hide it.
        replies = await asyncio.gather(*sent, return_exceptions=True)
        good = next((reply for reply in replies if not isinstance(reply, BaseException)), None)
        if good is None:
            raise next(reply for reply in replies if isinstance(reply, BaseException))
        for index, ((shard, (wishes,)), reply) in enumerate(zip(parts, replies, strict=True)):
            if isinstance(reply, BaseException):
                log.error("%s: nothing was exchanged: %s", self.consultants[shard].name, reply)
                replies[index] = tuple(_nothing(wish, good[0]) for wish in wishes)
        return self.joined(command, args, parts, replies)

    def _answered(self, id: str, future: Any) -> None:
        """Forget a take that took nothing; one that was cancelled is yet to be undone."""
        if not future.cancelled() and (
            future.exception() is not None or isinstance(future.result(), Refused)
        ):
            self._takes.pop(id, None)

    def _ends(self, id: str, *more: Any) -> Sequence[Part]:
        """Who is to hear that a take is settled or undone, under which id."""
        where = self._takes.pop(id, None)
        if isinstance(where, SpreadTake):
            return [(shard, (held, *more)) for shard, held in where.end().items()]
        if where is None:
            return super().parts("", (id, *more))
        return [(where, (id, *more))]

    def _shard(self, limit: str, subject: str) -> int:
        return shard_of(limit_key(limit, subject), len(self.consultants))

    def _by_shard(self, named: Sequence[Any]) -> dict[int, tuple[Any, ...]]:
        """Takes or wishes, which begin with limit and subject, by the shard they belong to."""
        found: dict[int, tuple[Any, ...]] = {}
        for one in named:
            shard = self._shard(one[0], one[1])
            found[shard] = (*found.get(shard, ()), one)
        return found

    def _listing(self, statuses: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Each limit as the shard sees it that has it: every shard lists the cluster's."""
        every = [limit for status in statuses for limit in status["limits"]]
        mine = {
            (limit["name"], limit["subject"]): limit
            for shard, status in enumerate(statuses)
            for limit in status["limits"]
            if self._shard(limit["name"], limit["subject"]) == shard
        }
        keys = dict.fromkeys((limit["name"], limit["subject"]) for limit in every)
        return [mine[key] for key in keys if key in mine]


def _nothing(wish: Any, like: Any) -> Any:
    """The answer to a wish that was not heard: nothing lent, nothing debited."""
    state = like.state._replace(limit=wish[0], subject=wish[1], burst=0, remaining=0, reset_ns=0)
    return like._replace(granted=0, mark=0, state=state)
