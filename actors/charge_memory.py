"""Charges by id: those held, those closed not long ago, and refusals.

The closed ones and the refusals are there to recognise a repeat, for an hour and for ten
minutes; both are bounded in number too.
"""

from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import Any

from actors.budgets import NEVER_NS, Account
from actors.charges import Charge, Exhausted, Refusal
from actors.mechanism import Bookkeeping

KEEP_CLOSED_NS = 3600 * 10**9
KEEP_REFUSALS_NS = 600 * 10**9
MAX_CLOSED = 200_000
MAX_REFUSALS = 10_000
STEP_NS = 60 * 10**9
"""Forgetting is done once a minute, a minute's worth at a time."""


class Memory:
    """See the module's docstring. rows: who collects the changed rows.

    held, closed, refusals: by charge id; the last two in the order of coming.
    held_nanos: sum of what is held.
    due_ns: when there is something to expire or to forget.
    """

    def __init__(self, rows: Bookkeeping) -> None:
        self._changed = rows
        self.held: dict[str, Charge] = {}
        self.closed: dict[str, Charge] = {}
        self.refusals: dict[str, Refusal] = {}
        self.held_nanos = 0
        self.due_ns = NEVER_NS
        self._expiries: list[tuple[int, str]] = []
        self._order = 0

    def find(self, charge_id: str) -> Charge | Refusal | None:
        """What is known by that id."""
        return (
            self.held.get(charge_id) or self.closed.get(charge_id) or self.refusals.get(charge_id)
        )

    def hold(self, charge: Charge) -> None:
        """Take in a held charge."""
        self.held[charge.id] = charge
        self.held_nanos += charge.reserved
        if len(self._expiries) > 2 * len(self.held) + 1_000:
            self._expiries = [(each.expires_ns, each.id) for each in self.held.values()]
            heapify(self._expiries)
        else:
            heappush(self._expiries, (charge.expires_ns, charge.id))
        if charge.expires_ns < self.due_ns:
            self.due_ns = charge.expires_ns
        self.rewrite(charge)

    def close(self, charge: Charge, now: int) -> None:
        """A held charge has been closed."""
        del self.held[charge.id]
        self.held_nanos -= charge.reserved
        charge.closed_ns = now
        charge.order = self._order
        self._order += 1
        self.closed[charge.id] = charge
        self.rewrite(charge)
        if len(self.closed) > MAX_CLOSED:
            self._forget_first(self.closed, "charges")
        if len(self.closed) == 1:
            self.due_ns = min(self.due_ns, _when(now + KEEP_CLOSED_NS))

    def refuse(self, charge_id: str, refusal: Refusal) -> None:
        """Remember a refusal."""
        self.refusals[charge_id] = refusal
        row = (refusal.digest, refusal.reply, refusal.at_ns, self._order)
        self._order += 1
        self._changed.put("refusals", charge_id, row)
        if len(self.refusals) > MAX_REFUSALS:
            self._forget_first(self.refusals, "refusals")
        self.due_ns = min(self.due_ns, _when(refusal.at_ns + KEEP_REFUSALS_NS))

    def rewrite(self, charge: Charge) -> None:
        """Note that a charge is different."""
        self._changed.put("charges", charge.id, charge.row())

    def expired(self, now: int) -> Iterator[Charge]:
        """Held charges whose lifetime is over, oldest first; the caller closes each."""
        expiries = self._expiries
        while expiries and expiries[0][0] <= now:
            expires_ns, charge_id = heappop(expiries)
            charge = self.held.get(charge_id)
            if charge is not None and charge.expires_ns == expires_ns:
                yield charge

    def forget(self, now: int) -> None:
        """Forget what was closed or refused long enough ago, and say when to come again."""
        until = now // STEP_NS * STEP_NS
        while self.closed and _first(self.closed).closed_ns + KEEP_CLOSED_NS <= until:
            self._forget_first(self.closed, "charges")
        while self.refusals and _first(self.refusals).at_ns + KEEP_REFUSALS_NS <= until:
            self._forget_first(self.refusals, "refusals")
        self.due_ns = self._expiries[0][0] if self._expiries else NEVER_NS
        if self.closed:
            due_ns = _when(_first(self.closed).closed_ns + KEEP_CLOSED_NS)
            self.due_ns = min(self.due_ns, due_ns)
        if self.refusals:
            due_ns = _when(_first(self.refusals).at_ns + KEEP_REFUSALS_NS)
            self.due_ns = min(self.due_ns, due_ns)

    def load(
        self,
        charges: Mapping[str, Any],
        refusals: Mapping[str, Any],
        accounts: Mapping[str, Account],
    ) -> None:
        """Take over everything from its rows."""
        closed = []
        for charge_id, row in charges.items():
            charge = Charge.from_row(charge_id, row, accounts)
            if charge.state == "held":
                self.held[charge_id] = charge
                self.held_nanos += charge.reserved
                self._expiries.append((charge.expires_ns, charge_id))
            else:
                closed.append(charge)
        heapify(self._expiries)
        closed.sort(key=lambda charge: charge.order)
        self.closed = {charge.id: charge for charge in closed}
        refused = sorted(refusals.items(), key=lambda item: int(item[1][3]))
        self.refusals = {
            charge_id: Refusal(digest, Exhausted(*reply), at_ns)
            for charge_id, (digest, reply, at_ns, _) in refused
        }
        orders = [charge.order for charge in closed] + [row[3] for _, row in refused]
        self._order = max(orders, default=-1) + 1

    def _forget_first(self, known: dict[str, Any], table: str) -> None:
        charge_id = next(iter(known))
        del known[charge_id]
        self._changed.drop(table, charge_id)


def _first(known: Mapping[str, Any]) -> Any:
    return next(iter(known.values()))


def _when(at_ns: int) -> int:
    """The end of the minute in which something is old enough."""
    return -(-at_ns // STEP_NS) * STEP_NS
