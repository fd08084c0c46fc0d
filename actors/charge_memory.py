"""Charges by id: those held, those closed not long ago, and refusals.

The closed ones and the refusals are there to recognise a repeat, for an hour and for ten
minutes; both are bounded in number too. But what an owner has paid last from its slices is
remembered as long as it holds anything: that is what comes again when it dies before it has
heard that it arrived. What can still change, a held charge or an estimate, has a row of its
own; what a batch has closed for good has one row together.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from actors.accounts import NEVER_NS
from actors.budgets import Books
from actors.charges import Charge, Exhausted, Refusal
from actors.mechanism import Row

KEEP_CLOSED_NS = 3600 * 10**9
KEEP_REFUSALS_NS = 600 * 10**9
MAX_CLOSED = 200_000
MAX_ESTIMATES = 50_000
MAX_REFUSALS = 10_000
KEEP_PER_OWNER = 5_000
"""More charges than an owner ever sends before it has heard of the first of them."""
STEP_NS = 60 * 10**9
"""Forgetting is done once a minute, a minute's worth at a time."""
_EVICTED_AT_ONCE = 8

_new = tuple.__new__


class _Sealed(NamedTuple):
    """Charges that one batch has closed for good. end: how many its owner has closed by then."""

    key: str
    at_ns: int
    owner: str
    end: int
    ids: list[str]


class Memory:
    """See the module's docstring.

    held, estimates, refusals: by charge id, in the order of coming. closed: their seals.
    held_nanos: sum of what is held. owned: how many charges each owner holds.
    """

    def __init__(self) -> None:
        self.held: dict[str, Charge] = {}
        self.estimates: dict[str, Charge] = {}
        self.closed: dict[str, int] = {}
        self.refusals: dict[str, Refusal] = {}
        self.held_nanos = 0
        self.owned: dict[str, int] = {}
        self._charges: set[str] = set()
        self._refused: set[str] = set()
        self._rows: list[Row] = []
        self._fresh: dict[str, dict[str, int]] = {}
        self._fresh_ns = 0
        self._sealed: deque[_Sealed] = deque()
        self._ends: dict[str, int] = {}
        self._spared: dict[str, deque[_Sealed]] = {}

    def hold(self, charge: Charge) -> None:
        """Take in a held charge."""
        self.held[charge.id] = charge
        self.held_nanos += charge.reserved
        self.owned[charge.owner] = self.owned.get(charge.owner, 0) + 1
        self._charges.add(charge.id)

    def let_go(self, charge: Charge) -> None:
        """A charge is held no more; what has become of it comes next."""
        del self.held[charge.id]
        self.held_nanos -= charge.reserved
        left = self.owned[charge.owner] - 1
        if left:
            self.owned[charge.owner] = left
        else:
            del self.owned[charge.owner]
        self._charges.add(charge.id)

    def estimate(self, charge: Charge) -> None:
        """Remember a charge that was posted as estimated."""
        self.estimates[charge.id] = charge
        self._charges.add(charge.id)
        if len(self.estimates) > MAX_ESTIMATES:
            self.end_estimate(next(iter(self.estimates)))

    def end_estimate(self, charge_id: str) -> None:
        """An estimate has been replaced, or is forgotten."""
        del self.estimates[charge_id]
        self._charges.add(charge_id)

    def close(self, now: int, charge_id: str, seal: int, owner: str = "") -> None:
        """Remember a charge that nothing changes any more.

        owner: whose slices have paid it; "": it was held.
        """
        self.closed[charge_id] = seal
        self._fresh_ns = now
        fresh = self._fresh.get(owner)
        if fresh is None:
            fresh = self._fresh[owner] = {}
        fresh[charge_id] = seal

    def refuse(self, charge_id: str, refusal: Refusal) -> None:
        """Remember a refusal."""
        self.refusals[charge_id] = refusal
        self._refused.add(charge_id)
        if len(self.refusals) > MAX_REFUSALS:
            self._forget_refusal()

    def held_by(self, owner: str) -> list[Charge]:
        """The charges that an owner holds, in order of their ids."""
        if owner not in self.owned:
            return []
        found = [charge for charge in self.held.values() if charge.owner == owner]
        return sorted(found, key=lambda charge: charge.id)

    def bury(self, owner: str) -> None:
        """Nothing comes from this owner again; what is not old yet goes as everybody's does.

        Who was buried is not stored: a restart must not remember them in another way.
        """
        for sealed in self._spared.pop(owner, ()):
            self._drop(sealed)

    def due_ns(self) -> int:
        """When there is something to forget."""
        first = [NEVER_NS]
        if self._sealed or self._fresh:
            at_ns = self._sealed[0].at_ns if self._sealed else self._fresh_ns
            first.append(at_ns + KEEP_CLOSED_NS)
        for estimate in self.estimates.values():
            first.append(estimate.closed_ns + KEEP_CLOSED_NS)
            break
        for refusal in self.refusals.values():
            first.append(refusal.at_ns + KEEP_REFUSALS_NS)
            break
        return -(-min(first) // STEP_NS) * STEP_NS

    def forget(self, now: int, holders: Collection[str]) -> None:
        """Forget what was closed or refused long enough ago. holders: who hold anything."""
        until = now // STEP_NS * STEP_NS
        if self._fresh:
            self._seal()
        while self._sealed and self._sealed[0].at_ns + KEEP_CLOSED_NS <= until:
            self._retire(self._sealed.popleft())
        for owner, spared in list(self._spared.items()):
            if owner not in holders and spared[-1].at_ns + KEEP_CLOSED_NS <= until:
                for sealed in self._spared.pop(owner):
                    self._drop(sealed)
        while self.estimates and _first(self.estimates).closed_ns + KEEP_CLOSED_NS <= until:
            self.end_estimate(next(iter(self.estimates)))
        while self.refusals and _first(self.refusals).at_ns + KEEP_REFUSALS_NS <= until:
            self._forget_refusal()

    def take_rows(self) -> Iterable[Row]:
        """Rows of what changed since the last call."""
        if self._charges:
            held, estimates = self.held, self.estimates
            for id in self._charges:
                charge = held.get(id) or estimates.get(id)
                yield _new(Row, ("charges", id, None if charge is None else charge.row()))
            self._charges = set()
        if self._refused:
            for id in self._refused:
                yield Row("refusals", id, self.refusals.get(id))
            self._refused = set()
        if self._fresh:
            self._seal()
        self._evict()
        if self._rows:
            yield from self._rows
            self._rows = []

    def load(
        self,
        charges: Mapping[str, Any],
        closed: Mapping[str, Any],
        refusals: Mapping[str, Any],
        books: Books,
    ) -> None:
        """Take over everything from its rows; what is held, into the books as well."""
        estimates = []
        for charge_id, row in charges.items():
            charge = Charge.from_row(charge_id, row, books.accounts)
            if charge.estimated:
                estimates.append(charge)
            else:
                self.hold(charge)
                for account in charge.accounts:
                    books.hold(account, charge.reserved)
        estimates.sort(key=lambda charge: charge.closed_ns)
        self.estimates = {charge.id: charge for charge in estimates}
        for key in sorted(closed):
            at_ns, owner, seals = closed[key]
            self.closed |= seals
            self._keep(key, at_ns, owner, list(seals))
        for charge_id, row in sorted(refusals.items(), key=lambda item: int(item[1][2])):
            check, reply, at_ns = row
            self.refusals[charge_id] = Refusal(check, Exhausted(*reply), at_ns)
        self._charges = set()

    def _seal(self) -> None:
        """Put what was closed since the last call away, with a row for each owner."""
        for owner, seals in self._fresh.items():
            key = f"{self._fresh_ns:020d}|{next(iter(seals))}"
            self._rows.append(Row("closed", key, [self._fresh_ns, owner, seals]))
            self._keep(key, self._fresh_ns, owner, list(seals))
        self._fresh = {}

    def _keep(self, key: str, at_ns: int, owner: str, ids: list[str]) -> None:
        end = self._ends[owner] = self._ends.get(owner, 0) + len(ids)
        self._sealed.append(_Sealed(key, at_ns, owner, end, ids))

    def _evict(self) -> None:
        """Forget the oldest closed charges that are too many, a few rows at a time."""
        for _ in range(_EVICTED_AT_ONCE):
            if not self._sealed or len(self.closed) - len(self._sealed[0].ids) < MAX_CLOSED:
                break
            self._retire(self._sealed.popleft())

    def _retire(self, sealed: _Sealed) -> None:
        """Forget charges, unless their owner may still tell them again."""
        owner = sealed.owner
        end = self._ends.get(owner)
        if not owner or end is None or end - sealed.end >= KEEP_PER_OWNER:
            self._drop(sealed)
            return
        spared = self._spared.setdefault(owner, deque())
        spared.append(sealed)
        while end - spared[0].end >= KEEP_PER_OWNER:
            self._drop(spared.popleft())

    def _drop(self, sealed: _Sealed) -> None:
        for id in sealed.ids:
            del self.closed[id]
        if self._ends.get(sealed.owner) == sealed.end:
            del self._ends[sealed.owner]
        self._rows.append(Row("closed", sealed.key, None))

    def _forget_refusal(self) -> None:
        charge_id = next(iter(self.refusals))
        del self.refusals[charge_id]
        self._refused.add(charge_id)


def _first(known: Mapping[str, Any]) -> Any:
    return next(iter(known.values()))
