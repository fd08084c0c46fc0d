"""The caller's half of a singleton: coalesces, resends, watches.

One consultant per process and singleton. At most one consult is in flight; what arrives
meanwhile is the next batch. Batches are numbered, so that a resend after a lost reply is
answered from the host's memory and nothing runs twice.
"""

import asyncio
import contextlib
import logging
import pickle
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from actors.batches import Item, packed
from actors.departure import Departure
from actors.errors import Overloaded, SingletonUnavailable, StorageFull
from actors.life import Life
from actors.mechanism import Gone, Pending
from actors.put_off import PutOff
from actors.replies import OutOfStep
from actors.transport import Transport, TransportError
from actors.viewer import Viewer, call_back
from actors.watchers import News
from actors.wire import unpack_reply

_MAX_QUEUED = 50_000
_MAX_BATCH = 2_000
TELL_LINGER_S = 0.03
# A call to an actor costs either side about half a millisecond, whatever is in it. Alone, a
# request should not wait for company; in a crowd, company is what keeps the crowd moving.
_ASK_LINGER_S = 0.0004
_MAX_ASK_LINGER_S = 0.012
_RETRY_S = (0.02, 0.05, 0.1, 0.2)
_RECALL = "recall "
_new = tuple.__new__

log = logging.getLogger(__name__)


class Consultant(Viewer):
    """Asks one singleton.

    name: for messages. transport: how to reach it. life: of this process; needed by who holds anything there.
    linger_s: how long what is told may wait for company.

    reachable: whether it answered last time; trouble: why not, when it did not.
    on_recall: called with each recall of something that this process was lent; more than once
        where its arrival was not noticed.
    crowd: how many requests this process is working on; the more, the longer a command
        waits for others to share its batch (12 ms at most; alone, not at all).
    put_off: what was told, and can't be written down there at present.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        life: Life | None = None,
        linger_s: float = TELL_LINGER_S,
    ) -> None:
        super().__init__()
        self.name = name
        self.crowd: Callable[[], int] = lambda: 1
        self.reachable, self.trouble = False, "nobody has asked it yet"
        self.incarnation = (0, 0)
        self.on_recall: Callable[[Any], None] | None = None
        self._transport = transport
        self._life = life
        self._linger_s = linger_s
        self._caller = self._new_caller()
        self._number = 0
        self._queue: deque[Item] = deque()
        self._in_flight: tuple[Item, ...] = ()
        self._waiting: dict[str, Item] = {}
        self._early: dict[str, Any] = {}
        self._departure = Departure()
        self.put_off = PutOff(self._queue, self._departure)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pending(self) -> int:
        """How many commands wait for their turn at the singleton, or for somebody's answer."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to send and to watch."""
        self._tasks = [
            asyncio.create_task(self._send(), name=f"consult {self.name}"),
            asyncio.create_task(self._watch(), name=f"watch {self.name}"),
        ]

    async def close(self, patience_s: float = 5.0) -> None:
        """Deliver what was told, as far as the host can be reached, and stop."""
        self._departure.within(0.0)
        await self._delivered(give_up := time.monotonic() + patience_s)
        if self._life is not None and self._number > 0:
            self.put_off.tell(Item("goodbye", ()), 0.0)
            await self._delivered(give_up)
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        end = SingletonUnavailable(f"{self.name} is not asked any more")
        for item in (*self._in_flight, *self.put_off, *self._queue, *self._waiting.values()):
            item.fail(end)
        self._queue.clear()
        self.put_off.close()

    async def _delivered(self, give_up: float) -> None:
        while (self._queue or self._in_flight or self.put_off) and time.monotonic() < give_up:  # noqa: ASYNC110
            # Once in a process's life: not worth an event on the way of every batch.
            await asyncio.sleep(0.005)

    def submit(
        self, command: str, *args: Any, on_pending: Callable[[], None] | None = None
    ) -> "asyncio.Future[Any]":
        """Put a command into the next batch; the future has its reply.

        A command that is answered PENDING resolves when its result comes by watch; its
        first argument is the id under which it comes. The future raises what the command
        raised. Cancelling it takes the command out of the queue where it was not sent yet;
        else the caller gives back what it may have taken (a `tell` cannot overtake it).
        on_pending: called when the command has to wait for its result.
        Raises Overloaded when too much is queued already.
        """
        if len(self._queue) + len(self.put_off) >= _MAX_QUEUED:
            raise Overloaded(f"{self.name} can't keep up with its callers", retry_after_s=1.0)
        future = asyncio.get_running_loop().create_future()
        self._queue.append(_new(Item, (command, args, future, on_pending, None)))
        crowd = self.crowd()
        # Half of them are company enough: who comes at the same time waits for nobody else.
        enough = 2 * len(self._queue) >= crowd
        linger_s = 0.0 if enough else min(_ASK_LINGER_S * (crowd - 1), _MAX_ASK_LINGER_S)
        self._departure.within(linger_s)
        return future

    async def ask(self, command: str, *args: Any) -> Any:
        """Submit and wait."""
        return await self.submit(command, *args)

    def tell(self, command: str, *args: Any) -> None:
        """Put a command into a batch some milliseconds from now, without waiting for it.

        Never refused: what is told gives back what was taken, or says what was spent. Where
        the singleton can't write it down, it is told again after a pause, in its order.
        """
        self.put_off.tell(_new(Item, (command, args, None, None, None)), self._linger_s)

    def report(self, heard: Callable[[Any], None], command: str, *args: Any) -> None:
        """Tell, and have `heard` called with the reply, or with the error in its place.

        Not for commands that may be answered PENDING.
        """
        self.put_off.tell(_new(Item, (command, args, None, None, heard)), self._linger_s)

    async def _send(self) -> None:
        while True:
            await self._departure.due()
            await self._deliver(self._next_batch())
            if len(self._queue) >= _MAX_BATCH:
                self._departure.within(0.0)

    def _next_batch(self) -> tuple[Item, ...]:
        batch: list[Item] = []
        while self._queue and len(batch) < _MAX_BATCH:
            item = self._queue.popleft()
            if item.future is None or not item.future.cancelled():
                batch.append(item)
        if self._queue:
            # What is left has lost its timer, and waits for the batch before it only.
            self._departure.within(0.0)
        return tuple(batch)

    async def _deliver(self, batch: tuple[Item, ...]) -> None:
        """Send one batch until it is answered, and hand out the replies."""
        if not batch:
            return
        self._number += 1
        payload = self._pack(batch)
        attempt = 0
        while True:
            try:
                _, _, replies = unpack_reply(await self._transport.consult(payload))
            except TransportError as error:
                if attempt == 0:
                    log.warning("%s does not answer, asking again: %s", self.name, error)
                self._unreachable(error)
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1
                continue
            self.reachable = True
            if not isinstance(replies, OutOfStep):
                break
            # Its memory of us is gone (a store that was purged): every id is idempotent.
            log.warning("%s does not know us; starting anew", self.name)
            self._caller, self._number = self._new_caller(), 1
            payload = self._pack(self._in_flight)
            self._ask_again(tuple(self._waiting.values()))
        batch, self._in_flight = self._in_flight, ()
        for item, reply in zip(batch, replies, strict=True):
            self._hand_out(item, reply)
        self.put_off.settle()
        self._early.clear()

    def _unreachable(self, why: TransportError) -> None:
        self.reachable, self.trouble = False, str(why)

    def _new_caller(self) -> str:
        """A name that no host has heard of."""
        owner = f"{self._life.owner}." if self._life is not None else secrets.token_hex(8)
        return owner + secrets.token_hex(8)

    def _pack(self, batch: tuple[Item, ...]) -> bytes:
        """Make these the batch in flight, as far as they fit; the rest comes next."""
        if self._life is not None and self._number == 1:
            batch = (Item("hello", tuple(self._life)), *batch)
        # From here on it is this batch and no other, whoever changes what was given to us.
        payload, self._in_flight, rest = packed(self._caller, self._number, batch)
        if rest:
            self._queue.extendleft(reversed(rest))
            self._departure.within(0.0)
        return payload

    def _ask_again(self, items: Iterable[Item]) -> None:
        """The results that these wait for will not come: the host has forgotten the question."""
        for item in items:
            self._waiting.pop(item.args[0], None)
            self._queue.append(item)
            self._departure.within(0.0)

    def _hand_out(self, item: Item, reply: Any) -> None:
        """Give one item its reply, or let it wait for its late result."""
        command, args, future, on_pending, heard = item
        if isinstance(reply, Gone) and (future is None or not future.done()):
            self._queue.append(item)
            self._departure.within(0.0)
        elif future is None and isinstance(reply, StorageFull):
            self.put_off.refused(item)
        elif heard is not None:
            call_back(heard, reply)
        elif future is None:
            if isinstance(reply, BaseException):
                log.error("%s refused %s: %s", self.name, command, reply)
        elif future.done():
            pass
        elif isinstance(reply, BaseException):
            future.set_exception(reply)
        elif not isinstance(reply, Pending):
            future.set_result(reply)
        elif args[0] in self._early:
            self._hand_out(item, self._early.pop(args[0]))
        else:
            if on_pending is not None:
                call_back(on_pending)
            self._waiting[args[0]] = item
            future.add_done_callback(lambda _: self._waiting.pop(args[0], None))

    async def _watch(self) -> None:
        incarnation, cursor = (0, 0), 0
        attempt = 0
        while True:
            asked_ns = time.monotonic_ns()
            payload = pickle.dumps((self._caller, incarnation, cursor), 5)
            try:
                news: News = pickle.loads(await self._transport.watch(payload))
            except TransportError as error:
                self._unreachable(error)
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1
                continue
            attempt = 0
            self.reachable = True
            if news.incarnation != incarnation:
                # Barriers are not stored: they fell with the host.
                waiting = tuple(self._waiting.values())
                self._ask_again(item for item in waiting if item.command == "everywhere")
            self.incarnation = incarnation = news.incarnation
            cursor = news.cursor
            self._take_views(news, asked_ns)
            for id, reply in news.results:
                self._take_result(id, reply)

    def _take_result(self, id: str, reply: Any) -> None:
        if id.startswith(_RECALL):
            if self.on_recall is not None:
                call_back(self.on_recall, reply)
            return
        waiting = self._waiting.pop(id, None)
        if waiting is not None:
            self._hand_out(waiting, reply)
        elif self._in_flight:
            # Perhaps it has overtaken the reply that says PENDING.
            self._early[id] = reply
