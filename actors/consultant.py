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
from actors.errors import Overloaded, SingletonUnavailable
from actors.host import VIEW_NS
from actors.mechanism import Gone, Pending
from actors.replies import OutOfStep
from actors.transport import Transport, TransportError
from actors.watchers import News

_MAX_QUEUED = 50_000
_MAX_BATCH = 2_000
_TELL_LINGER_S = 0.03
# A call to an actor costs either side about half a millisecond, whatever is in it. Alone, a
# request should not wait for company; in a crowd, company is what keeps the crowd moving.
_ASK_LINGER_S = 0.0004
_MAX_ASK_LINGER_S = 0.006
_RETRY_S = (0.02, 0.05, 0.1, 0.2)

log = logging.getLogger(__name__)


class Consultant:
    """Asks one singleton.

    name: for messages.
    transport: how to reach it.
    crowd: how many requests this process is working on; the more, the longer a command
        waits for others to share its batch (6 ms at most; alone, not at all).

    `start()` on the event loop before use; `close()` delivers what was told and stops.
    """

    def __init__(self, name: str, transport: Transport) -> None:
        self.name = name
        self.crowd: Callable[[], int] = lambda: 1
        self.view: dict[str, Any] = {}
        self.reachable = False
        self.incarnation = (0, 0)
        self.on_view: Callable[[], None] | None = None
        self._transport = transport
        self._caller = secrets.token_hex(16)
        self._number = 0
        self._queue: deque[Item] = deque()
        self._in_flight: tuple[Item, ...] = ()
        self._waiting: dict[str, Item] = {}
        self._early: dict[str, Any] = {}
        self._urgent = asyncio.Event()
        self._viewed_ns = -VIEW_NS
        self._arrived_ns: dict[str, int] = {}
        self._linger: asyncio.TimerHandle | None = None
        self._leaves = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send and to watch."""
        self._tasks = [
            asyncio.create_task(self._send(), name=f"consult {self.name}"),
            asyncio.create_task(self._watch(), name=f"watch {self.name}"),
        ]

    async def close(self, patience_s: float = 5.0) -> None:
        """Deliver what was told, as far as the host can be reached, and stop."""
        self._urgent.set()
        give_up = time.monotonic() + patience_s
        while (self._queue or self._in_flight) and time.monotonic() < give_up:  # noqa: ASYNC110
            # Once in a process's life: not worth an event on the way of every batch.
            await asyncio.sleep(0.005)
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for item in (*self._in_flight, *self._queue, *self._waiting.values()):
            if item.future is not None and not item.future.done():
                item.future.set_exception(
                    SingletonUnavailable(f"{self.name} is not asked any more")
                )
        self._queue.clear()

    def view_age_ns(self) -> int:
        """How old `view` may be, counted from the sending of the last watch that returned."""
        return time.monotonic_ns() - self._viewed_ns

    def fresh(self) -> bool:
        """Whether `view` may still be used without asking."""
        return self.view_age_ns() < VIEW_NS

    def since_ns(self, key: str) -> int:
        """How long ago this view entry arrived; its durations count from then."""
        return time.monotonic_ns() - self._arrived_ns.get(key, 0)

    def submit(
        self, command: str, *args: Any, on_pending: Callable[[], None] | None = None
    ) -> "asyncio.Future[Any]":
        """Put a command into the next batch; the future has its reply.

        A command that is answered PENDING resolves when its result comes by watch; its
        first argument is the id under which it comes. The future raises what the command
        raised. Cancelling it takes the command out of the queue where it was not sent
        yet; where it was, the caller gives back what it may have taken (by `tell`, which
        cannot overtake it).
        on_pending: called when the command has to wait for its result.
        Raises Overloaded when too much is queued already.
        """
        if len(self._queue) >= _MAX_QUEUED:
            raise Overloaded(f"{self.name} can't keep up with its callers", retry_after_s=1.0)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(Item(command, args, future, on_pending))
        self._send_within(min(_ASK_LINGER_S * (self.crowd() - 1), _MAX_ASK_LINGER_S))
        return future

    async def ask(self, command: str, *args: Any) -> Any:
        """Submit and wait."""
        return await self.submit(command, *args)

    def tell(self, command: str, *args: Any) -> None:
        """Put a command into a batch some milliseconds from now; nobody waits for it.

        Never refused: what is told gives back what was taken, or says what was spent.
        """
        self._queue.append(Item(command, args))
        self._send_within(_TELL_LINGER_S)

    def _send_within(self, delay_s: float) -> None:
        """Have the next batch leave so soon (or sooner, where that is settled already)."""
        if delay_s <= 0.0:
            self._urgent.set()
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        if self._linger is not None:
            if self._leaves <= due:
                return
            self._linger.cancel()
        self._linger, self._leaves = loop.call_at(due, self._urgent.set), due

    # The sending task.

    async def _send(self) -> None:
        while True:
            await self._urgent.wait()
            self._urgent.clear()
            if self._linger is not None:
                self._linger.cancel()
                self._linger = None
            await self._deliver(self._next_batch())
            if len(self._queue) >= _MAX_BATCH:
                self._urgent.set()

    def _next_batch(self) -> tuple[Item, ...]:
        batch: list[Item] = []
        while self._queue and len(batch) < _MAX_BATCH:
            item = self._queue.popleft()
            if item.future is None or not item.future.cancelled():
                batch.append(item)
        if self._queue:
            # What is left has lost its timer, and waits for the batch before it only.
            self._urgent.set()
        return tuple(batch)

    async def _deliver(self, batch: tuple[Item, ...]) -> None:
        """Send one batch until it is answered, and hand out the replies."""
        if not batch:
            return
        self._number += 1
        # From here on it is this batch and no other, whoever changes what was given to us.
        payload, batch, rest = packed(self._caller, self._number, batch)
        if rest:
            self._queue.extendleft(reversed(rest))
            self._urgent.set()
        self._in_flight = batch
        attempt = 0
        while True:
            try:
                _, _, replies = pickle.loads(await self._transport.consult(payload))
            except TransportError as error:
                if attempt == 0:
                    log.warning("%s does not answer, asking again: %s", self.name, error)
                self.reachable = False
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1
                continue
            self.reachable = True
            if not isinstance(replies, OutOfStep):
                break
            # Its memory of us is gone (a store that was purged): every id is idempotent.
            log.warning("%s does not know us; starting anew", self.name)
            self._caller, self._number = secrets.token_hex(16), 1
            payload = packed(self._caller, 1, batch).payload
            self._ask_again(tuple(self._waiting.values()))
        self._in_flight = ()
        for item, reply in zip(batch, replies, strict=True):
            self._hand_out(item, reply)
        self._early.clear()

    def _ask_again(self, items: Iterable[Item]) -> None:
        """The results that these wait for will not come: the host has forgotten the question."""
        for item in items:
            self._waiting.pop(item.args[0], None)
            self._queue.append(item)
            self._urgent.set()

    def _hand_out(self, item: Item, reply: Any) -> None:
        """Give one item its reply, or let it wait for its late result."""
        command, args, future, on_pending = item
        if isinstance(reply, Gone) and (future is None or not future.done()):
            self._queue.append(item)
            self._urgent.set()
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
                _call(on_pending)
            self._waiting[args[0]] = item
            future.add_done_callback(lambda _: self._waiting.pop(args[0], None))

    # The watching task.

    async def _watch(self) -> None:
        incarnation, cursor = (0, 0), 0
        attempt = 0
        while True:
            asked_ns = time.monotonic_ns()
            payload = pickle.dumps((self._caller, incarnation, cursor), 5)
            try:
                news: News = pickle.loads(await self._transport.watch(payload))
            except TransportError:
                self.reachable = False
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
            self._take_views(news)
            self._viewed_ns = asked_ns
            for id, reply in news.results:
                self._take_result(id, reply)

    def _take_views(self, news: News) -> None:
        now = time.monotonic_ns()
        if news.snapshot:
            self.view, self._arrived_ns = {}, {}
        for key, value in news.views:
            if value is None:
                self.view.pop(key, None)
                self._arrived_ns.pop(key, None)
            else:
                self.view[key] = value
                self._arrived_ns[key] = now
        if self.on_view is not None and (news.views or news.snapshot):
            _call(self.on_view)

    def _take_result(self, id: str, reply: Any) -> None:
        waiting = self._waiting.pop(id, None)
        if waiting is not None:
            self._hand_out(waiting, reply)
        elif self._in_flight:
            # Perhaps it has overtaken the reply that says PENDING.
            self._early[id] = reply


def _call(listener: Callable[[], None]) -> None:
    """Call back; what goes wrong there must not end the sending or the watching."""
    try:
        listener()
    except Exception:
        log.exception("%s failed", listener)
