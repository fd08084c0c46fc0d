"""Holds: what admissions took from their limits, until their holders end them."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from actors.gate import Gate
from actors.gates import Asks, Gates
from actors.mechanism import Row, owner_of

TABLE = "holds"

HELD = 0
"""The mark of what is only held as yet: taken from everybody, and not debited."""

_new = tuple.__new__


class Hold(NamedTuple):
    """What one admission took.

    mark: its place among all admissions, or HELD. at_ns: when it was. asks: what was asked of which
    gates, which may be dead by now.
    """

    caller: str
    mark: int
    at_ns: int
    asks: Asks

    def row(self) -> list[Any]:
        """As the value of a row."""
        value: list[Any] = [self.caller, self.mark, self.at_ns]
        for gate, quantity in self.asks:
            value += (gate.limit.name, gate.subject, gate.limit.unit, quantity)
        return value


class Holds:
    """All holds by their ids, and what of them the store has not been told yet."""

    def __init__(self) -> None:
        self.by_id: dict[str, Hold] = {}
        self._new: dict[str, Hold] = {}
        self._ended: list[str] = []

    def __len__(self) -> int:
        return len(self.by_id)

    def keep(self, id: str, hold: Hold) -> None:
        """From now on this is held."""
        self.by_id[id] = self._new[id] = hold

    def end(self, id: str) -> Hold | None:
        """From now on it is not; None when it was not before."""
        hold = self.by_id.pop(id, None)
        if hold is not None and self._new.pop(id, None) is None:
            self._ended.append(id)
        return hold

    def owners(self) -> set[str]:
        """Who holds."""
        # Of thousands of holds few callers are left; only those are looked at closely.
        return {owner_of(caller) for caller in {hold.caller for hold in self.by_id.values()}}

    def of(self, owner: str) -> list[str]:
        """The ids of what this owner holds."""
        return [id for id, hold in self.by_id.items() if owner_of(hold.caller) == owner]

    def slots(self) -> Iterator[tuple[Gate, int]]:
        """(gate, slots) for each ask of a limit on concurrency, but for what is only held."""
        for hold in self.by_id.values():
            for gate, quantity in hold.asks:
                if gate.limit.unit == "concurrent" and hold.mark != HELD:
                    yield gate, quantity

    def hold_again(self, now: int, gates: Gates) -> None:
        """The policy changed: what is only held stays so where a limit is back that was gone."""
        for id, hold in self.by_id.items():
            if hold.mark != HELD or not any(gate.dead for gate, _ in hold.asks):
                continue
            asks = []
            for gate, quantity in hold.asks:
                found = gates.living(now, gate, make=True)
                if found is not None and found is not gate:
                    found.meter.lend(quantity)
                asks.append((found or gate, quantity))
            self.by_id[id] = hold._replace(asks=tuple(asks))

    def take_rows(self) -> list[Row]:
        """What changed since the last call; what came and went in between leaves no trace."""
        rows = [_new(Row, (TABLE, id, None)) for id in self._ended]
        rows += [_new(Row, (TABLE, id, hold.row())) for id, hold in self._new.items()]
        self._new, self._ended = {}, []
        return rows

    def load(self, rows: Iterable[tuple[str, list[Any]]], gates: Gates) -> None:
        """Go on from the (key, value) pairs of the store."""
        for id, (caller, mark, at_ns, *takes) in rows:
            asks = []
            for name, subject, unit, quantity in zip(*[iter(takes)] * 4, strict=True):
                gate = gates.open(0, name, subject)
                if gate is None or gate.limit.unit != unit:
                    gate = gates.ghost(name, subject, unit)
                asks.append((gate, quantity))
                if mark == HELD:
                    gate.meter.lend(quantity)
            self.by_id[id] = Hold(caller, mark, at_ns, tuple(asks))
            gates.number = max(gates.number, mark)
