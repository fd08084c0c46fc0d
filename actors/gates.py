"""Gates: the limits of the policy, each as it applies to one subject.

A gate exists from its first use until it is full and nobody waits for it; a limit's
other subjects are full by definition, and take no room.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from actors.fields import invalid, text
from actors.gcra import Bucket
from actors.limits import HIGH, LOW, Limit, LimitState
from actors.slots import Slots
from actors.timetable import Timetable

# A gate is looked at no more often than this to see whether it may be forgotten.
SWEEP_NS = 1_000_000_000

_LONGEST_SUBJECT = 1000

Key = tuple[str, str]


class Gate:
    """One limit for one subject: its meter, and the line of those who wait for it.

    row: the key of its row, the limit's name (which has no space), a space and the subject.
    line: (priority, number, quantity, ticket's id), sorted.
    queued: units that wait, by priority.
    largest: no quantity in the line is above this.
    wake: when to look at the line again, if a time is known.
    """

    __slots__ = ("key", "largest", "limit", "line", "meter", "queued", "row", "subject", "wake")

    def __init__(self, limit: Limit, subject: str) -> None:
        self.limit = limit
        self.subject = subject
        self.key: Key = (limit.name, subject)
        self.row = f"{limit.name} {subject}"
        self.meter: Bucket | Slots = (
            Slots(limit.burst)
            if limit.unit == "concurrent"
            else Bucket(limit.rate, limit.period_ns, limit.burst, limit.debt)
        )
        self.clear_line()

    def clear_line(self) -> None:
        """Let nobody wait here."""
        self.line: list[tuple[int, int, int, str]] = []
        self.queued = [0] * (LOW + 1)
        self.largest = 0
        self.wake: int | None = None

    def change(self, now: int, limit: Limit) -> None:
        """Follow the policy to a limit of the same unit; what is used stays used."""
        self.limit = limit
        if isinstance(self.meter, Slots):
            self.meter.burst = limit.burst
        else:
            self.meter.reshape(now, limit.rate, limit.period_ns, limit.burst, limit.debt)

    def state(self, now: int) -> LimitState:
        """How the limit stands for this subject."""
        limit = self.limit
        remaining, reset_ns = self.meter.standing(now)
        return LimitState(limit.name, self.subject, limit.unit, limit.burst, remaining, reset_ns)

    def estimate(self, now: int, priority: int, quantity: int) -> int | None:
        """Nanoseconds until a newcomer would get `quantity`, after those ahead of him."""
        ahead = sum(self.queued[: priority + 1])
        return self.meter.wait(now, ahead + quantity, priority == HIGH)

    def obstacle(self, now: int, priority: int, number: int, quantity: int) -> int | None:
        """0 when `quantity` may go here, else nanoseconds until what stops it is allowed.

        That is its own quantity, or the one of somebody ahead of it. None: nobody can tell.
        """
        wait = self.meter.wait(now, quantity, priority == HIGH)
        if wait != 0 or not self.line or self.meter.wait(now, self.largest) == 0:
            return wait
        for other in self.line:
            if other[0] > priority or (other[0] == priority and other[1] >= number):
                return 0
            wait = self.meter.wait(now, other[2], other[0] == HIGH)
            if wait != 0:
                return wait
        return 0


Asks = tuple[tuple[Gate, int], ...]


class Gates:
    """All gates, by (limit, subject)."""

    def __init__(self) -> None:
        self.limits: dict[str, Limit] = {}
        self._gates: dict[Key, Gate] = {}
        self._sweeps = Timetable()

    def get(self, key: Key) -> Gate | None:
        """The gate, if it exists."""
        return self._gates.get(key)

    def open(self, now: int, name: str, subject: str) -> Gate | None:
        """The gate, made if need be; None when the policy has no such limit.

        Raises InvalidRequest for a subject that no row can hold.
        """
        gate = self._gates.get((name, subject))
        if gate is None and name in self.limits:
            text(subject, f"subject of limit {name}", _LONGEST_SUBJECT)
            gate = self._gates[name, subject] = Gate(self.limits[name], subject)
            self._sweeps.set(gate.row, now + SWEEP_NS)
        return gate

    def asks(self, now: int, takes: Iterable[Sequence[Any]]) -> Asks:
        """The gates of (limit, subject, quantity) triples, each once; may raise InvalidRequest."""
        asks: dict[Gate, int] = {}
        for name, subject, quantity in takes:
            if quantity < 0:
                raise invalid(f"quantity of limit {name}", "0 or more")
            gate = self._gates.get((name, subject)) or self.open(now, name, subject)
            if gate is not None:
                asks[gate] = asks.get(gate, 0) + quantity
        return tuple(asks.items())

    def state(self, now: int, name: str, subject: str) -> LimitState:
        """How a limit of the policy stands for a subject."""
        gate = self._gates.get((name, subject))
        return (gate or Gate(self.limits[name], subject)).state(now)

    def listing(self, now: int, most: int) -> list[dict[str, Any]]:
        """Each limit of the cluster, and up to `most` gates of the others.

        Fields as in `LimitState`, with `name` for the limit's name, and `waiting` for the
        length of the line.
        """
        keys = [(limit.name, "") for limit in self.limits.values() if limit.scope == "cluster"]
        others = [key for key, gate in self._gates.items() if gate.limit.scope != "cluster"]
        listed = []
        for key in keys + others[:most]:
            entry = self.state(now, *key)._asdict()
            gate = self._gates.get(key)
            listed.append(
                {"name": entry.pop("limit"), **entry, "waiting": len(gate.line) if gate else 0}
            )
        return listed

    def adopt(self, now: int, limits: dict[str, Limit]) -> tuple[list[Gate], list[Gate]]:
        """Follow the policy; all lines are empty afterwards.

        Returns the gates that have changed, and those that are gone, because their limit is
        gone or counts something else now.
        """
        self.limits = limits
        changed, gone = [], []
        for key, gate in list(self._gates.items()):
            gate.clear_line()
            limit = limits.get(gate.limit.name)
            if limit is None or limit[:3] != gate.limit[:3]:
                self._sweeps.cancel(gate.row)
                gone.append(self._gates.pop(key))
            elif limit != gate.limit:
                gate.change(now, limit)
                changed.append(gate)
        return changed, gone

    def count_slots(self, held: Iterable[tuple[Key, int]]) -> None:
        """Let exactly these (key, slots) be in use."""
        for gate in self._gates.values():
            if isinstance(gate.meter, Slots):
                gate.meter.used = 0
        for (name, subject), quantity in held:
            held_at = self.open(0, name, subject)
            if held_at is not None and isinstance(held_at.meter, Slots):
                held_at.meter.used += quantity

    def due(self) -> int | None:
        """When to call `sweep` again; None: there is nothing to sweep."""
        return self._sweeps.next_ns()

    def sweep(self, now: int) -> list[Gate]:
        """Forget, and return, the gates that are full and where nobody waits."""
        swept = []
        while (row := self._sweeps.due(now)) is not None:
            name, _, subject = row.partition(" ")
            gate = self._gates[name, subject]
            remaining, reset_ns = gate.meter.standing(now)
            if not gate.line and not reset_ns and remaining == gate.limit.burst:
                swept.append(self._gates.pop(gate.key))
            else:
                self._sweeps.set(row, now + max(SWEEP_NS, reset_ns))
        return swept
