"""A rate limiter of several shards in virtual time, and one process that asks it.

Whatever takes time on the way (a batch, a watch) takes it until the test says so.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

from actors.consultant import Consultant
from actors.errors import RaygateError
from actors.limiter_shards import LimiterShards
from actors.limits import NORMAL, Admitted, Take
from actors.mechanism import Pending
from actors.rate_limiter import RateLimiter
from tests.actors.rate_limiter_world import S, ns

ME = "owner.caller"


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is set by hand."""

    now_ns = 0

    def time(self) -> float:
        """See `asyncio.AbstractEventLoop`."""
        return self.now_ns / 1e9


class Desk:
    """A consultant of one shard.

    queue: what is to go with its next batch. news: what its next watch brings.
    ran: the commands that the host has run.
    """

    def __init__(self, number: int, loop: VirtualLoop) -> None:
        self.name = f"rate_limiter-{number}"
        self.limiter = RateLimiter()
        self.on_view: Callable[[], None] | None = None
        self.view: dict[str, Any] = {}
        self.queue: list[tuple[str, tuple[Any, ...], Any, Any]] = []
        self.news: list[tuple[str, Any]] = []
        self.ran: list[str] = []
        self._waiting: dict[str, Any] = {}
        self._loop = loop

    @property
    def pending(self) -> int:
        """See `Consultant`."""
        return len(self._waiting)

    def submit(self, command: str, *args: Any, on_pending: Any = None) -> asyncio.Future[Any]:
        """See `Consultant`."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.queue.append((command, args, future, on_pending))
        return future

    report = submit

    def tell(self, command: str, *args: Any) -> None:
        """See `Consultant`."""
        self.queue.append((command, args, None, None))

    def deliver(self) -> None:
        """Run the next batch, and hand out its replies."""
        queue, self.queue = self.queue, []
        now = self._loop.now_ns
        for command, args, future, on_pending in queue:
            if future is not None and future.cancelled():
                continue
            self.ran.append(command)
            try:
                reply = getattr(self.limiter, command)(now, ME, *args)
            except RaygateError as error:
                reply = error
            if future is None or future.done():
                assert not isinstance(reply, RaygateError), reply
            elif isinstance(reply, RaygateError):
                future.set_exception(reply)
            elif isinstance(reply, Pending):
                self._waiting[args[0]] = future
                future.add_done_callback(lambda _, id=args[0]: self._waiting.pop(id, None))
                if on_pending is not None:
                    on_pending()
            else:
                future.set_result(reply)
        self.tick()

    def tick(self) -> None:
        """Do what time brings; the watch has yet to bring it here."""
        self.limiter.advance(self._loop.now_ns)
        self.news += [(one.id, one.reply) for one in self.limiter.take_changes().results]

    def hear(self) -> None:
        """Have a watch return."""
        news, self.news = self.news, []
        for id, reply in news:
            if id in self._waiting:
                self._waiting.pop(id).set_result(reply)


class Asked(NamedTuple):
    """One take of the process."""

    id: str
    takes: tuple[Take, ...]
    future: "asyncio.Future[Any]"


class World:
    """`shards` desks, and all limits in force at each."""

    def __init__(self, shards: int, *limits: dict[str, Any]) -> None:
        self.loop = VirtualLoop()
        self.desks = [Desk(number, self.loop) for number in range(shards)]
        self.limiter = LimiterShards(cast("list[Consultant]", self.desks))
        self.ids = 0
        self.waits: list[str] = []
        self.do(self.limiter.tell, "configure", "1", {"limits": list(limits)})
        self.settle()

    def do(self, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call within the loop, and let what follows from it happen."""

        async def within() -> Any:
            result = call(*args, **named)
            for _ in range(10):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(within())

    def ask(
        self, takes: Iterable[tuple[str, str, int]], wait: float = 0.0, priority: int = NORMAL
    ) -> Asked:
        """Begin to take; `takes` are (limit, subject, quantity)."""
        self.ids += 1
        id = f"take-{self.ids}"
        wanted = tuple(Take(*take) for take in takes)
        future = self.do(
            self.limiter.submit,
            "acquire",
            id,
            wanted,
            priority,
            ns(wait),
            on_pending=lambda: self.waits.append(id),
        )
        return Asked(id, wanted, future)

    def now_of(self, asked: Asked) -> Any:
        """The reply, once all is delivered and heard; None where there is none yet."""
        self.settle()
        return asked.future.result() if asked.future.done() else None

    def cancel(self, asked: Asked) -> None:
        """As a request does whose client has gone."""

        def gone() -> None:
            asked.future.cancel()
            self.limiter.tell("undo", asked.id)

        self.do(gone)

    def end(self, asked: Asked, command: str, *args: Any) -> None:
        """Settle it, or undo it."""
        self.do(self.limiter.tell, command, asked.id, *args)

    def settle(self) -> None:
        """Deliver and hear until nothing is under way, at this very moment."""
        while any(desk.queue or desk.news for desk in self.desks):
            for desk in self.desks:
                self.do(desk.deliver)
                self.do(desk.hear)

    def pass_time(self, seconds: float) -> None:
        """Let time pass; what it brings is news."""
        self.loop.now_ns += round(seconds * S)
        for desk in self.desks:
            self.do(desk.tick)

    def ask_now(self, command: str, *args: Any) -> Any:
        """The reply to a command, delivered at once."""
        future = self.do(self.limiter.submit, command, *args)
        self.settle()
        return future.result()

    def left(self, limit: str, subject: str = "") -> int:
        """What is left of a limit now."""
        left: int = self.ask_now("look", (Take(limit, subject, 0),))[0].remaining
        return left

    def close(self) -> None:
        """Let go of the loop, and of what still waits."""
        for task in asyncio.all_tasks(self.loop):
            self.do(task.cancel)
        self.loop.close()


def over(
    admitted: Iterable[tuple[Admitted, tuple[Take, ...]]], limits: list[dict[str, Any]]
) -> Any:
    """Windows, by stamps, in which more units were admitted than a limit allows (I1)."""
    bounds = {limit["name"]: limit for limit in limits if limit["unit"] != "concurrent"}
    stamps: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for reply, takes in admitted:
        for limit, subject, quantity in takes:
            if limit in bounds:
                stamps[limit, subject].append((reply.at_ns, quantity))
    found = []
    for (limit, subject), taken in stamps.items():
        rate, burst = bounds[limit]["rate"], bounds[limit]["burst"]
        for begin, _ in taken:
            for end, _ in taken:
                units = sum(quantity for at, quantity in taken if begin <= at <= end)
                if begin <= end and units * S > burst * S + rate * (end - begin):
                    found.append((limit, subject, begin, end, units))
    return found
