"""Gates: the limits of the policy, each as it applies to one subject.

A gate exists from its first use until it is full, nothing of it is lent and nobody waits
for it; a limit's other subjects are full by definition, and take no room.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any

from actors.fields import invalid, text
from actors.gate import Gate
from actors.gcra import Bucket
from actors.limits import Limit, LimitState, Unit
from actors.mechanism import Row
from actors.slots import Slots

TABLE = "buckets"

# A gate is looked at no more often than this to see whether it may be forgotten.
SWEEP_NS = 1_000_000_000
# So many at once: a hundred thousand in one go would keep everybody waiting.
_MOST_SWEPT = 500

_LONGEST_SUBJECT = 1000

Asks = tuple[tuple[Gate, int], ...]


class Gates:
    """All gates, by limit and subject.

    changed: those whose row is another than when rows were taken last. number: counts
    arrivals and admissions (places in line, and marks in buckets).
    """

    def __init__(self) -> None:
        self.limits: dict[str, Limit] = {}
        self.changed: set[Gate] = set()
        self.number = 0
        self._gone: list[str] = []
        self._gates: dict[str, dict[str, Gate]] = {}
        # Gates to look at, by the second in which to do so; and those seconds, as a heap.
        self._turns: dict[int, list[Gate]] = {}
        self._seconds: list[int] = []

    def __iter__(self) -> Iterator[Gate]:
        return (gate for of_limit in self._gates.values() for gate in of_limit.values())

    def open(self, now: int, name: str, subject: str) -> Gate | None:
        """The gate, made if need be; None when the policy has no such limit.

        Raises InvalidRequest for a subject that no row can hold.
        """
        of_limit = self._gates.get(name)
        if of_limit is None:
            return None
        gate = of_limit.get(subject)
        if gate is None:
            text(subject, f"subject of limit {name}", _LONGEST_SUBJECT)
            gate = of_limit[subject] = Gate(self.limits[name], subject)
            self._look(gate, now + SWEEP_NS)
        return gate

    def ghost(self, name: str, subject: str, unit: Unit) -> Gate:
        """A dead gate, for what was taken from a limit that the policy may not have now."""
        gate = Gate(Limit(name, "cluster", unit, 1, 1, 1, 0), subject)
        gate.dead = True
        return gate

    def living(self, now: int, gate: Gate, make: bool = False) -> Gate | None:
        """This gate, or the one that has taken its place and counts the same, if there is one.

        make: or could be one.
        """
        if not gate.dead:
            return gate
        name, subject = gate.limit.name, gate.subject
        found = self._gates.get(name, {}).get(subject)
        if found is None and make:
            found = self.open(now, name, subject)
        return found if found is not None and found.limit.unit == gate.limit.unit else None

    def asks(self, now: int, takes: Iterable[Sequence[Any]]) -> Asks:
        """The gates of (limit, subject, quantity) triples, each once; may raise InvalidRequest."""
        asks: dict[Gate, int] = {}
        gates = self._gates
        for name, subject, quantity in takes:
            if quantity < 0:
                raise invalid(f"quantity of limit {name}", "0 or more")
            of_limit = gates.get(name)
            if of_limit is not None:
                gate = of_limit.get(subject) or self.open(now, name, subject)
                if gate is not None:
                    asks[gate] = asks.get(gate, 0) + quantity
        return tuple(asks.items())

    def states(self, now: int, asks: Asks) -> tuple[LimitState, ...]:
        """How these gates stand that may be dead by now; what the policy lacks is left out."""
        living = [self.living(now, gate, make=True) for gate, _ in asks]
        return tuple([gate.state(now) for gate in living if gate is not None])

    def look(self, now: int, name: str, subject: str) -> LimitState | None:
        """How a limit of the policy stands for a subject; None when there is no such limit."""
        if name not in self.limits:
            return None
        return (self._gates[name].get(subject) or Gate(self.limits[name], subject)).state(now)

    def listing(self, now: int, most: int) -> list[dict[str, Any]]:
        """Each limit of the cluster, and up to `most` gates of the others.

        Fields as in `LimitState`, with `name` for the limit's name, `waiting` for the length
        of the line, and `lent` for the units that are lent.
        """
        named = [limit.name for limit in self.limits.values() if limit.scope == "cluster"]
        listed = [self._gates[name].get("") or Gate(self.limits[name], "") for name in named]
        others = (gate for gate in self if gate.limit.scope != "cluster")
        listed += [gate for gate, _ in zip(others, range(most), strict=False)]
        entries = []
        for gate in listed:
            entry = gate.state(now)._asdict()
            waiting = len(gate.line.tickets) if gate.line is not None else 0
            more = {"waiting": waiting, "lent": gate.meter.held}
            entries.append({"name": entry.pop("limit"), **entry, **more})
        return entries

    def adopt(self, now: int, limits: dict[str, Limit]) -> tuple[list[Gate], list[Gate]]:
        """Follow the policy; all lines are empty afterwards.

        Returns the gates that have changed, and those that are gone, because their limit is
        gone or counts something else now.
        """
        changed, gone = [], []
        for gate in list(self):
            gate.line = None
            limit = limits.get(gate.limit.name)
            if limit is None or limit[:3] != gate.limit[:3]:
                self._forget(gate)
                gone.append(gate)
            elif limit != gate.limit:
                gate.change(now, limit)
                changed.append(gate)
        self.limits = limits
        self._gates = {name: self._gates.get(name, {}) for name in limits}
        self.changed.update(changed)
        return changed, gone

    def count_slots(self, held: Iterable[tuple[Gate, int]]) -> None:
        """Let exactly these slots be in use directly, of gates that may be dead."""
        for gate in self:
            if isinstance(gate.meter, Slots):
                gate.meter.used = 0
        for gate, quantity in held:
            living = self.living(0, gate, make=True)
            if living is not None and isinstance(living.meter, Slots):
                living.meter.used += quantity

    def take_rows(self) -> list[Row]:
        """The buckets that changed since the last call, each once, and those that went."""
        rows = [Row(TABLE, key, None) for key in self._gone]
        rows += [
            Row(TABLE, gate.row, gate.meter.dump())
            for gate in self.changed
            if isinstance(gate.meter, Bucket)
        ]
        self._gone.clear()
        self.changed.clear()
        return rows

    def load(self, rows: Iterable[tuple[str, Any]]) -> None:
        """Go on from the (key, value) pairs of the store; the policy is in force already."""
        for key, value in rows:
            name, _, subject = key.partition(" ")
            gate = self.open(0, name, subject)
            if gate is not None and isinstance(gate.meter, Bucket):
                gate.meter.restore(value)
                self.number = max(self.number, gate.meter.last())

    def due(self) -> int | None:
        """When to call `sweep` again; None: there is nothing to sweep."""
        return self._seconds[0] * SWEEP_NS if self._seconds else None

    def sweep(self, now: int) -> None:
        """Forget the gates that nobody needs: some hundreds at most."""
        looked = 0
        while self._seconds and self._seconds[0] * SWEEP_NS <= now and looked < _MOST_SWEPT:
            turn = self._turns[self._seconds[0]]
            while turn and looked < _MOST_SWEPT:
                gate = turn.pop()
                looked += 1
                if gate.dead:
                    continue
                remaining, reset_ns = gate.meter.standing(now)
                idle = gate.line is None and gate.lent is None
                if idle and not reset_ns and remaining == gate.limit.burst:
                    self._forget(gate)
                else:
                    self._look(gate, now + max(SWEEP_NS, reset_ns))
            if not turn:
                del self._turns[heappop(self._seconds)]

    def _look(self, gate: Gate, at_ns: int) -> None:
        second = -(-at_ns // SWEEP_NS)
        turn = self._turns.get(second)
        if turn is None:
            turn = self._turns[second] = []
            heappush(self._seconds, second)
        turn.append(gate)

    def _forget(self, gate: Gate) -> None:
        gate.dead = True
        self.changed.discard(gate)
        if isinstance(gate.meter, Bucket):
            self._gone.append(gate.row)
        del self._gates[gate.limit.name][gate.subject]
