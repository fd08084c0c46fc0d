"""One take from limits that live on several shards: all of them, or none.

All shards are asked at once, and none of them to wait. Where each of them says yes, the take
is done: that is the rule. Where one says that it is too early, what the others gave goes back
at once, and the take stands in line there, holding nothing meanwhile: nobody is refused for
units that somebody else only keeps while he waits elsewhere, and no two takes can wait for
each other. When its turn has come the others are asked again, and so on until its patience
is over. At each shard order of arrival holds as ever; but a take whose limits are used up on
several shards stands in one line after another, and may lose to those who need only one.

Stamps, and why no limit ever gives more than it may (I1). The hosts of one limiter share one
clock (`actors/resharding.py`), and what a shard gives is *held* there until `use` comes:
taken from everybody at once, but not refilled yet. The stamp of the whole is that of the last
grant. It lies between the grant and the `use` of every shard; so, whatever the order and the
delays, at each shard and for every window, takes by stamp are at most what was debited within
the window plus what was held at its end, and the gate never lets both be more than burst +
debt + rate × window. What is undone before its `use` was never debited, and comes back whole.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from actors.consultant import Consultant
from actors.errors import Overloaded
from actors.limits import Admitted, LimitState, Refused, Take

Reply = Admitted | Refused


class _Question(NamedTuple):
    """What one shard was asked.

    id: under which it may hold something for us since. answer: its reply. word: done when
    the reply is there, or known to take a while.
    """

    id: str
    answer: "asyncio.Future[Reply]"
    word: "asyncio.Future[None]"


class SpreadTake:
    """See the module's docstring.

    shards: the consultants of all shards. id: of the take; its parts have ids of their own,
    new with each question, so that no late word is taken for another's.
    takes: what is wanted, and `parts` of it, by shard. priority, patience_ns: as
    `RateLimiter.acquire` has them. on_pending: called when it has to wait.
    """

    def __init__(
        self,
        shards: Sequence[Consultant],
        id: str,
        takes: tuple[Take, ...],
        parts: Mapping[int, tuple[Take, ...]],
        priority: int,
        patience_ns: int,
        *,
        on_pending: Callable[[], None] | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._shards = shards
        self._id = id
        self._parts = parts
        self._priority = priority
        self._until_s = self._loop.time() + patience_ns / 1e9
        self._on_pending = on_pending
        self._questions = 0
        self._open: dict[int, _Question] = {}
        self._states: dict[tuple[str, str], LimitState | None] = {take[:2]: None for take in takes}
        self._task: asyncio.Task[Reply] | None = None

    def start(self) -> "asyncio.Future[Reply]":
        """Ask; the future has the reply to the whole take. Again: the same one.

        Raises Overloaded.
        """
        if self._task is None:
            self._ask(self._parts)
            self._task = asyncio.create_task(self._take(), name=f"take {self._id}")
        return self._task

    def end(self) -> dict[int, str]:
        """Let go of it: by shard, the id which is to be settled or undone there."""
        if self._task is not None:
            self._task.cancel()
        ended, self._open = self._open, {}
        for question in ended.values():
            question.answer.cancel()
        return {shard: question.id for shard, question in ended.items()}

    async def _take(self) -> Reply:
        try:
            while True:
                replies = await self._heard()
                refused = {n: reply for n, reply in replies.items() if isinstance(reply, Refused)}
                waits = [n for n, reply in replies.items() if reply is None]
                if not refused and not waits:
                    return self._done()
                for shard in refused:
                    del self._open[shard]
                place = max(refused, key=lambda n: _badness(refused[n])) if refused else waits[0]
                if refused and self._in_vain(refused[place]):
                    return self._refusal(refused[place])
                reply = await self._line_up(place)
                if isinstance(reply, Refused):
                    return self._refusal(reply)
                self._ask([shard for shard in self._parts if shard not in self._open])
        except (Exception, asyncio.CancelledError):
            self._give_back()
            raise

    async def _heard(self) -> dict[int, Reply | None]:
        """What each shard says, None where it takes a while."""
        await asyncio.gather(*(question.word for question in self._open.values()))
        answers = {shard: question.answer for shard, question in self._open.items()}
        replies = {n: answer.result() if answer.done() else None for n, answer in answers.items()}
        for reply in replies.values():
            self._learn(reply)
        return replies

    async def _line_up(self, shard: int) -> Reply:
        """Stand in line at one shard, and hold nothing at the others meanwhile."""
        self._give_back(but=shard)
        if shard in self._open:
            # It does already, for as long as it takes to have back what others were lent.
            reply = await self._open[shard].answer
            self._learn(reply)
            if isinstance(reply, Admitted) or self._in_vain(reply):
                return reply
        reply = await self._acquire(shard, self._left_ns())
        self._learn(reply)
        return reply

    def _ask(self, shards: Iterable[int]) -> None:
        """Ask these shards, none of them to wait. Raises Overloaded, and nothing is held."""
        try:
            for shard in shards:
                self._acquire(shard, 0)
        except Exception:
            self._give_back()
            raise

    def _acquire(self, shard: int, patience_ns: int) -> "asyncio.Future[Reply]":
        self._questions += 1
        id = f"{self._id}/{self._questions}"
        word: asyncio.Future[None] = self._loop.create_future()

        def known(_: object = None) -> None:
            if not word.done():
                word.set_result(None)

        def waits() -> None:
            known()
            if self._on_pending is not None:
                on_pending, self._on_pending = self._on_pending, None
                on_pending()

        args = (id, self._parts[shard], self._priority, patience_ns, True)
        answer = self._shards[shard].submit("acquire", *args, on_pending=waits)
        answer.add_done_callback(known)
        self._open[shard] = _Question(id, answer, word)
        return answer

    def _done(self) -> Admitted:
        for shard, question in self._open.items():
            try:
                # At once: what is held is not refilled.
                self._shards[shard].submit("use", question.id).add_done_callback(_ignore)
            except Overloaded:
                self._shards[shard].tell("use", question.id)
        granted = (question.answer.result() for question in self._open.values())
        at_ns = max(reply.at_ns for reply in granted if isinstance(reply, Admitted))
        return Admitted(at_ns, self._standing())

    def _refusal(self, worst: Refused) -> Refused:
        self._give_back()
        return worst._replace(states=self._standing())

    def _give_back(self, but: int | None = None) -> None:
        for shard in [shard for shard in self._open if shard != but]:
            question = self._open.pop(shard)
            question.answer.cancel()
            _ignore(question.answer)
            self._shards[shard].tell("undo", question.id)

    def _left_ns(self) -> int:
        return max(0, round((self._until_s - self._loop.time()) * 1e9))

    def _in_vain(self, refused: Refused) -> bool:
        """Whether it is not worth waiting for."""
        left_ns = self._left_ns()
        never = refused.quantity > refused.burst
        return never or not left_ns or (refused.retry_after_ns or 0) > left_ns

    def _learn(self, reply: Reply | None) -> None:
        for state in reply.states if reply is not None else ():
            self._states[state.limit, state.subject] = state

    def _standing(self) -> tuple[LimitState, ...]:
        """Each limit as last heard of, in the order in which they were asked for."""
        return tuple(state for state in self._states.values() if state is not None)


def _badness(refused: Refused) -> tuple[bool, int]:
    """Greatest for what can never be had, then for what takes longest."""
    return refused.quantity > refused.burst, refused.retry_after_ns or 0


def _ignore(future: "asyncio.Future[Any]") -> None:
    """Whatever it comes to is nobody's concern any more."""
    if future.done() and not future.cancelled():
        future.exception()
