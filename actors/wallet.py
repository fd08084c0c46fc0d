"""The caller's half of lent money: what is at hand of each budget, spent without asking.

As with limits (`limit_slices`): the cost tracker lends, this side reserves from what is at
hand, and gives back what it does not need or what is recalled. Which accounts a charge
falls under is the ledger's to say; its answer is remembered until its budgets change.
"""

import asyncio
import contextlib
import logging
import time
from typing import NamedTuple

from actors.charges import Facts, Reserved
from actors.consultant import Consultant
from actors.demand import Demand
from actors.errors import RaygateError
from actors.purses import Lent, Purse, Recall

_PACE_S = 0.05
_SWEEP_S = 0.5
_REFUSED_S = 1.0
_MAX_ACCOUNTS = 5_000
_MAX_WISHES = 500
_MAX_KNOWN = 10_000

Payer = tuple[str, str, str, str]
"""Key, team, model and user: what decides which accounts a charge falls under."""

log = logging.getLogger(__name__)


class _Account:
    """What is at hand of one account.

    ends_s: when its period is over (monotonic). recalled: and not answered yet.
    """

    __slots__ = ("demand", "ends_s", "free", "key", "recalled")

    def __init__(self, key: str, now_s: float) -> None:
        self.key = key
        self.free = 0
        self.ends_s = 0.0
        self.recalled = False
        self.demand = Demand(now_s)

    def wish(self, now_s: float) -> Purse | None:
        """What to say to the ledger now, if anything."""
        self.demand.measure(now_s)
        over = self.free > 0 and now_s >= self.ends_s
        target = 0 if over else self.demand.target(now_s)
        more = target - self.free if 3 * self.free < 2 * target else 0
        back = self.free - target if self.free > 2 * target else 0
        if not (more or back or self.recalled):
            return None
        self.recalled = False
        self.free -= back
        return Purse(self.key, back, more)


class Held(NamedTuple):
    """The worst case of one call, held. day: on which its charge counts."""

    accounts: tuple[str, ...]
    worst_nanos: int
    day: str


class Wallet:
    """All that is lent to this process. `start()` on the event loop; `close()` gives it back."""

    def __init__(self, costs: Consultant) -> None:
        self._costs = costs
        self._accounts: dict[str, _Account] = {}
        self._known: dict[Payer, tuple[tuple[_Account, ...], tuple[str, ...]]] = {}
        self._revision: int | None = None
        self._day = ""
        self._touched: set[_Account] = set()
        self._swept_s = 0.0
        self._urgent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        costs.on_recall = self._recalled

    def start(self) -> None:
        """Begin to ask for more, and to give back."""
        self._task = asyncio.create_task(self._exchange_for_ever(), name="wallet")

    async def close(self) -> None:
        """Give everything back and stop; what is still reserved comes with its charge."""
        if self._task is None:
            return
        # What is being said is said to its end: its answer belongs to what was said.
        self._closing = True
        self._urgent.set()
        await asyncio.wait({self._task})
        now_s = time.monotonic()
        for account in self._accounts.values():
            account.demand.rest(now_s)
        await self._exchange(now_s, list(self._accounts.values()))

    def reserve(self, facts: Facts, worst_nanos: int) -> Held | None:
        """Hold the worst case on all accounts of this charge, or on none; then None: ask.

        None also where the ledger's word on budgets may have changed since it was heard.
        """
        costs = self._costs
        if not costs.fresh() or (said := costs.view.get("budgets")) is None:
            return None
        if said["revision"] != self._revision:
            self._revision = said["revision"]
            self._known.clear()
        known = self._known.get((facts.key, facts.team, facts.model, facts.user))
        if known is None:
            return None
        accounts, keys = known
        enough = True
        now_s = time.monotonic()
        for account in accounts:
            account.demand.note(worst_nanos)
            if account.free < worst_nanos or now_s >= account.ends_s:
                enough = False
        self._touched.update(accounts)
        if not enough:
            return None
        for account in accounts:
            account.free -= worst_nanos
        return Held(keys, worst_nanos, self._day)

    def release(self, held: Held, spent_nanos: int) -> int:
        """The call is over, and cost so much. Returns how much of that was held for it.

        What it did not cost is at hand again; what it did cost goes with its charge.
        """
        covered = min(spent_nanos, held.worst_nanos)
        left = held.worst_nanos - covered
        if left:
            for key in held.accounts:
                account = self._accounts.get(key)
                if account is None:
                    # Forgotten while this was on its way: it has to be given back.
                    account = self._accounts[key] = _Account(key, time.monotonic())
                account.free += left
                self._touched.add(account)
        return covered

    def learn(self, facts: Facts, reserved: Reserved) -> None:
        """The ledger has said under which accounts such a charge falls."""
        if reserved.revision != self._revision:
            return
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        now_s = time.monotonic()
        accounts = []
        for key in reserved.accounts:
            account = self._accounts.get(key)
            if account is None:
                if len(self._accounts) >= _MAX_ACCOUNTS:
                    return
                account = self._accounts[key] = _Account(key, now_s)
            accounts.append(account)
        payer = facts.key, facts.team, facts.model, facts.user
        self._known[payer] = tuple(accounts), reserved.accounts

    def forget(self) -> None:
        """Other budgets may be named from now on: let the ledger say anew which bind whom."""
        self._known.clear()

    def _recalled(self, recall: Recall) -> None:
        account = self._accounts.get(recall.account)
        if account is not None:
            account.demand.rest(time.monotonic())
            account.recalled = True
            self._touched.add(account)
            self._urgent.set()

    async def _exchange_for_ever(self) -> None:
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PACE_S):
                    await self._urgent.wait()
            self._urgent.clear()
            now_s = time.monotonic()
            if now_s - self._swept_s > _SWEEP_S:
                self._swept_s = now_s
                self._sweep()
            touched, self._touched = self._touched, set()
            try:
                await self._exchange(now_s, list(touched))
            except RaygateError as error:
                log.warning("slices of budgets could not be exchanged: %s", error)
                await asyncio.sleep(_REFUSED_S)

    def _sweep(self) -> None:
        """Look at those too that are used no more; forget those that hold nothing."""
        gone = {one for one in self._accounts.values() if not one.free and one.demand.idle()}
        for account in gone:
            del self._accounts[account.key]
        if gone:
            self._known = {
                payer: known for payer, known in self._known.items() if gone.isdisjoint(known[0])
            }
        self._touched.update(self._accounts.values())

    async def _exchange(self, now_s: float, accounts: list[_Account]) -> None:
        for first in range(0, len(accounts), _MAX_WISHES):
            some = accounts[first : first + _MAX_WISHES]
            wished = [(one, wish) for one in some if (wish := one.wish(now_s)) is not None]
            if wished:
                await self._ask(now_s, wished)

    async def _ask(self, now_s: float, wished: list[tuple[_Account, Purse]]) -> None:
        try:
            lent: tuple[Lent, ...] = await self._costs.ask(
                "exchange", tuple([wish for _, wish in wished])
            )
        except RaygateError:
            for account, wish in wished:
                account.free += wish.back
                # Perhaps it was to be the answer to a recall, which is owed still.
                account.recalled = True
            self._touched.update(account for account, _ in wished)
            raise
        for (account, _), answer in zip(wished, lent, strict=True):
            account.free += answer.granted
            self._accounts.setdefault(account.key, account)
            self._day = answer.day
            # From before it was asked: a little early, never late.
            ends_in_ns = answer.ends_in_ns
            account.ends_s = float("inf") if ends_in_ns is None else now_s + ends_in_ns / 1e9
