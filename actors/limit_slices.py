"""The caller's half of lent limits: units at hand, spent without asking.

The limiter lends a slice of a limit that is in frequent use; this side spends it, reports
what was spent, and gives back what it does not need, or what is recalled. A slice is held
at the limiter until then, so nothing here is bound to a time.
"""

import asyncio
import contextlib
import logging
import time
from typing import NamedTuple

from actors.consultant import Consultant
from actors.demand import Demand
from actors.errors import RaygateError
from actors.limits import Lent, LimitState, Recall, Take, Wish

_PACE_S = 0.05
_REPORT_S = 0.2
_SWEEP_S = 0.5
_REFUSED_S = 1.0
_MAX_SLICES = 5_000
_MAX_WISHES = 500

_new = tuple.__new__

log = logging.getLogger(__name__)


class Tab:
    """What was spent of one slice between two reports.

    units: spent. takes: of those, the ones whose end has yet to be told. mark: the
    limiter's name for this tab once it was reported; ended, back: what is to be told of it.
    """

    __slots__ = ("back", "ended", "mark", "reported", "takes", "units")

    def __init__(self) -> None:
        self.units = self.takes = self.mark = self.ended = self.back = 0
        self.reported = False


class Slice:
    """One limit for one subject, as far as it is lent to this process.

    free: units at hand. out: slots that are taken (of a limit on concurrency).
    tab: of what was spent since the last report; tabs: earlier ones of which something is
    still open. state: as last heard.
    """

    __slots__ = ("demand", "free", "key", "out", "reported_s", "slots", "state", "tab", "tabs")

    def __init__(self, key: tuple[str, str], now_s: float) -> None:
        self.key = key
        self.free = self.out = 0
        self.tab = Tab()
        self.tabs: list[Tab] = []
        self.state = LimitState(*key, "requests", 0, 0, 0)
        self.slots = False
        self.demand = Demand(now_s)
        self.reported_s = now_s

    def standing(self) -> LimitState:
        """The limit as last heard of, with what is at hand of it."""
        limit, subject, unit, burst, remaining, reset_ns = self.state
        # The quick way to make one, as this runs for every limit of every request.
        return _new(LimitState, (limit, subject, unit, burst, remaining + self.free, reset_ns))

    def spend(self, quantity: int) -> Tab:
        """Take units that are at hand; the tab is to be given to `end`."""
        self.free -= quantity
        tab = self.tab
        if self.slots:
            self.out += quantity
        else:
            tab.units += quantity
            tab.takes += 1
        return tab

    def end(self, tab: Tab, back: int) -> None:
        """A take is over; `back` of its units return (below 0: so many more were used)."""
        if self.slots:
            self.out -= back
            self.free += back
        elif tab.reported:
            tab.ended += 1
            tab.back += back
        else:
            tab.takes -= 1
            tab.units -= back
            self.free = max(self.free + back, 0)

    def wish(self, now_s: float) -> Wish | None:
        """What to say to the limiter now, if anything. Its answer goes to `said`."""
        self.demand.measure(now_s)
        target = self.demand.target(now_s)
        more = target - self.free if 3 * self.free < 2 * target else 0
        back = self.free - target if self.free > 2 * target else 0
        closes = tuple([(t.mark, t.ended, t.back) for t in self.tabs if t.ended and t.mark])
        if not (more or back) and now_s - self.reported_s < _REPORT_S:
            return None
        if not (more or back or closes or self.tab.units):
            return None
        self.reported_s = now_s
        self.free -= back
        for tab in self.tabs:
            if tab.mark:
                tab.takes -= tab.ended
                tab.ended = tab.back = 0
        tab, self.tab = self.tab, Tab()
        tab.reported = True
        # The last one is this wish's, until it is answered.
        self.tabs = [*(known for known in self.tabs if known.takes), tab]
        return Wish(*self.key, tab.units, tab.takes, back, more, closes)

    def said(self, wish: Wish, lent: Lent) -> None:
        """The limiter's answer to `wish`."""
        self.free += lent.granted
        self.state = lent.state
        self.slots = lent.state.unit == "concurrent"
        self.tabs[-1].mark = lent.mark
        if not lent.mark:
            self.tabs.pop()

    def unsaid(self, wish: Wish) -> None:
        """The limiter refused to hear `wish`: nothing of it has happened."""
        self.free += wish.back
        tab = self.tabs.pop()
        # Those takes are final now: there is nothing to name them by.
        self.tab.units += tab.units

    def idle(self) -> bool:
        """Whether nothing is lent, or open, and nobody asks for it."""
        lent = self.free or self.out or self.tabs or self.tab.units
        return not lent and self.demand.idle()


class Leased(NamedTuple):
    """An admission that was paid from slices. Exactly one of its methods is to be called once."""

    at_ns: int
    states: tuple[LimitState, ...]
    spent: list[tuple[Slice, Tab, int]]

    def settle(self, tokens: int | None) -> None:
        """Slots come back; tokens are corrected to `tokens`, unless it is None."""
        for slice, tab, quantity in self.spent:
            if slice.slots:
                slice.end(tab, quantity)
            elif tokens is not None and slice.state.unit == "tokens":
                slice.end(tab, quantity - tokens)
            else:
                slice.end(tab, 0)

    def undo(self) -> None:
        """It was for nothing."""
        for slice, tab, quantity in self.spent:
            slice.end(tab, quantity)


class LimitSlices:
    """All slices of this process. `start()` on the event loop; `close()` gives all back."""

    def __init__(self, limiter: Consultant) -> None:
        self._limiter = limiter
        self._slices: dict[tuple[str, str], Slice] = {}
        self._touched: set[Slice] = set()
        self._swept_s = 0.0
        # The limiter's clock is so far ahead of ours, or a little more.
        self._ahead_ns = 0
        self._urgent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        limiter.on_recall = self._recalled

    def start(self) -> None:
        """Begin to report and to ask for more."""
        self._task = asyncio.create_task(self._exchange_for_ever(), name="limit slices")

    async def close(self) -> None:
        """Give everything back and stop; what is still open then ends with this process."""
        if self._task is None:
            return
        # What is being said is said to its end: its answer belongs to what was said.
        self._closing = True
        self._urgent.set()
        await asyncio.wait({self._task})
        now_s = time.monotonic()
        for slice in self._slices.values():
            slice.demand.rest(now_s)
            slice.reported_s = 0.0
        await self._exchange(now_s, list(self._slices.values()))

    def take(self, takes: tuple[Take, ...]) -> Leased | None:
        """Take all of this from what is at hand, or nothing; then None: ask the limiter."""
        found: list[tuple[Slice, int]] = []
        enough = True
        slices, touched = self._slices, self._touched
        for limit, subject, quantity in takes:
            slice = slices.get((limit, subject)) or self._make((limit, subject))
            touched.add(slice)
            slice.demand.note(quantity)
            if slice.free < quantity:
                enough = False
            found.append((slice, quantity))
        if not enough:
            return None
        spent = [(slice, slice.spend(quantity), quantity) for slice, quantity in found]
        states = tuple([slice.standing() for slice, _ in found])
        return Leased(time.monotonic_ns() + self._ahead_ns, states, spent)

    def _make(self, key: tuple[str, str]) -> Slice:
        slice = Slice(key, time.monotonic())
        if len(self._slices) < _MAX_SLICES:
            self._slices[key] = slice
        return slice

    def _recalled(self, recall: Recall) -> None:
        slice = self._slices.get((recall.limit, recall.subject))
        if slice is not None:
            slice.demand.rest(time.monotonic())
            slice.reported_s = 0.0
            self._touched.add(slice)
            self._urgent.set()

    async def _exchange_for_ever(self) -> None:
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PACE_S):
                    await self._urgent.wait()
            self._urgent.clear()
            now_s = time.monotonic()
            if now_s - self._swept_s > _SWEEP_S:
                # Also those that are used no more, and hold what others could use.
                self._swept_s = now_s
                self._touched.update(self._slices.values())
            touched, self._touched = self._touched, set()
            try:
                await self._exchange(now_s, list(touched))
            except RaygateError as error:
                log.warning("slices of limits could not be exchanged: %s", error)
                await asyncio.sleep(_REFUSED_S)

    async def _exchange(self, now_s: float, slices: list[Slice]) -> None:
        """Report, give back and ask for more, as each of these slices needs it."""
        for first in range(0, len(slices), _MAX_WISHES):
            wished = []
            for slice in slices[first : first + _MAX_WISHES]:
                wish = slice.wish(now_s)
                if wish is not None:
                    wished.append((slice, wish))
                elif slice.idle():
                    self._slices.pop(slice.key, None)
            if wished:
                await self._ask([slice for slice, _ in wished], tuple(w for _, w in wished))

    async def _ask(self, slices: list[Slice], wishes: tuple[Wish, ...]) -> None:
        try:
            lent = await self._limiter.ask("exchange", wishes)
        except RaygateError:
            for slice, wish in zip(slices, wishes, strict=True):
                slice.unsaid(wish)
            raise
        now_ns = time.monotonic_ns()
        for slice, wish, answer in zip(slices, wishes, lent, strict=True):
            slice.said(wish, answer)
            self._slices.setdefault(slice.key, slice)
            self._ahead_ns = answer.at_ns - now_ns
