"""One singleton on several hosts, each with the keys that are its own.

`Shards` is asked like a `Consultant`, and whoever asks can't tell: it knows where a command
belongs, sends it there (or in parts, or everywhere), and joins the replies. Which commands
those are is the business of its two kinds, `LimiterShards` and `CacheShards`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from actors.consultant import Consultant

Part = tuple[int, tuple[Any, ...]]
"""The number of a shard, and the arguments of what it is asked."""

log = logging.getLogger(__name__)


class Shards:
    """Asks K hosts that are one singleton.

    consultants: one per host, in the order of their numbers; started and closed with this.
    view: the entries of all of them, joined by `total`.
    crowd, on_view, on_recall: as of a `Consultant`.
    """

    def __init__(self, consultants: Sequence[Consultant]) -> None:
        self.consultants = tuple(consultants)
        self.name = self.consultants[0].name
        self.view: dict[str, Any] = {}
        self.on_view: Callable[[], None] | None = None
        for one in self.consultants:
            one.on_view = self._join_views

    # Where a command belongs.

    def parts(self, command: str, args: tuple[Any, ...]) -> Sequence[Part]:
        """Who is to be asked what; here: everybody the same."""
        return [(number, args) for number in range(len(self.consultants))]

    def joined(
        self, command: str, args: tuple[Any, ...], parts: Sequence[Part], replies: list[Any]
    ) -> Any:
        """One reply of several. replies: in the order of `parts`."""
        return total(replies)

    # What a consultant does.

    def submit(
        self, command: str, *args: Any, on_pending: Callable[[], None] | None = None
    ) -> "asyncio.Future[Any]":
        """See `Consultant.submit`. on_pending is called once, however many shards wait."""
        parts = self.parts(command, args)
        more: dict[str, Any] = {} if on_pending is None else {"on_pending": once(on_pending)}
        sent: list[asyncio.Future[Any]] = []
        try:
            for number, given in parts:
                sent.append(self.consultants[number].submit(command, *given, **more))
        except BaseException:
            # None of these has left yet: nobody was asked.
            for future in sent:
                future.cancel()
            raise
        if len(sent) == 1:
            return sent[0]
        return asyncio.ensure_future(self._join(command, args, parts, sent))

    def report(self, heard: Callable[[Any], None], command: str, *args: Any) -> None:
        """See `Consultant.report`. Of several replies an error counts before all others."""
        parts = self.parts(command, args)
        replies: dict[int, Any] = {}

        def keep(place: int, reply: Any) -> None:
            replies[place] = reply
            if len(replies) == len(parts):
                every = [replies[place] for place in range(len(parts))]
                errors = (one for one in every if isinstance(one, BaseException))
                heard(next(errors, None) or self.joined(command, args, parts, every))

        for place, (number, given) in enumerate(parts):
            self.consultants[number].report(partial(keep, place), command, *given)

    async def ask(self, command: str, *args: Any) -> Any:
        """Submit and wait."""
        return await self.submit(command, *args)

    def tell(self, command: str, *args: Any) -> None:
        """See `Consultant.tell`."""
        for number, given in self.parts(command, args):
            self.consultants[number].tell(command, *given)

    async def _join(
        self,
        command: str,
        args: tuple[Any, ...],
        parts: Sequence[Part],
        sent: Sequence["asyncio.Future[Any]"],
    ) -> Any:
        return self.joined(command, args, parts, await asyncio.gather(*sent))

    # What it knows.

    def _join_views(self) -> None:
        keys = {key for one in self.consultants for key in one.view}
        self.view = {
            key: total([one.view[key] for one in self.consultants if key in one.view])
            for key in keys
        }
        if self.on_view is not None:
            self.on_view()

    def view_age_ns(self) -> int:
        """How old the oldest part of `view` may be."""
        return max(one.view_age_ns() for one in self.consultants)

    def fresh(self) -> bool:
        """Whether all of `view` may still be used without asking."""
        return all(one.fresh() for one in self.consultants)

    def since_ns(self, key: str) -> int:
        """How long ago this view entry changed last."""
        return min(one.since_ns(key) for one in self.consultants)

    @property
    def reachable(self) -> bool:
        """Whether every host answered when it was last asked."""
        return all(one.reachable for one in self.consultants)

    @property
    def trouble(self) -> str:
        """Why those that do not answer do not."""
        return "; ".join(one.trouble for one in self.consultants if not one.reachable)

    @property
    def incarnation(self) -> tuple[int, int]:
        """The newest epoch, and all restarts; different when that of one host is."""
        epochs, restarts = zip(*(one.incarnation for one in self.consultants), strict=True)
        return max(epochs), sum(restarts)

    @property
    def crowd(self) -> Callable[[], int]:
        """See `Consultant`."""
        return self.consultants[0].crowd

    @crowd.setter
    def crowd(self, crowd: Callable[[], int]) -> None:
        for one in self.consultants:
            one.crowd = crowd

    @property
    def on_recall(self) -> Callable[[Any], None] | None:
        """See `Consultant`."""
        return self.consultants[0].on_recall

    @on_recall.setter
    def on_recall(self, recalled: Callable[[Any], None] | None) -> None:
        for one in self.consultants:
            one.on_recall = recalled

    @property
    def pending(self) -> int:
        """See `Consultant.pending`."""
        return sum(one.pending for one in self.consultants)

    # Its life.

    def start(self) -> None:
        """Begin to send and to watch."""
        for one in self.consultants:
            one.start()

    async def close(self, patience_s: float = 5.0) -> None:
        """Deliver what was told, as far as the hosts can be reached, and stop."""
        await asyncio.gather(*(one.close(patience_s) for one in self.consultants))


def each(consultant: Consultant) -> tuple[Consultant, ...]:
    """The consultants of the hosts behind this one: itself, unless it has shards."""
    found: tuple[Consultant, ...] = getattr(consultant, "consultants", (consultant,))
    return found


def total(replies: Iterable[Any]) -> Any:
    """What several hosts say, as if one had said it (None where nobody was asked).

    Numbers are added up (so generations of purges change whenever one does), words of yes are
    yes where all are, sequences are put behind one another, mappings joined by key; of
    anything else the first counts.
    """
    every = list(replies)
    first = every[0] if every else None
    if isinstance(first, bool):
        return all(every)
    if isinstance(first, int | float):
        return sum(every)
    if isinstance(first, list | tuple):
        return type(first)(item for reply in every for item in reply)
    if isinstance(first, dict):
        keys = dict.fromkeys(key for reply in every for key in reply)
        return {key: total([reply[key] for reply in every if key in reply]) for key in keys}
    return first


def once(call: Callable[[], None]) -> Callable[[], None]:
    """The same, but only the first time."""
    called = False

    def first() -> None:
        nonlocal called
        if not called:
            called = True
            call()

    return first
