"""Slices: what limits have lent to owners, who spend it without asking.

What is lent neither lacks nor comes back with time: the bucket gives it to nobody else
until its holder has reported it as used (which debits it then), has returned it, or is
proven dead (which counts it as used). So the units that are used within any time, by
their own stamps, are at most what was debited within it and what was lent at its end,
however late a holder reports.
"""

from collections.abc import Collection, Iterable
from typing import Any

from actors.fields import whole
from actors.gate import Gate, Slice
from actors.gates import Gates
from actors.gcra import Bucket
from actors.limits import Lent, LimitState, Recall, Wish, recall_id
from actors.mechanism import Bookkeeping, owner_of
from actors.obstacles import Obstacle
from actors.waiting_room import WaitingRoom

TABLE = "slices"
RECALL_NS = 250_000_000
"""How long a holder has to answer a recall before somebody is refused for want of it."""
QUIET_NS = 1_000_000_000
"""For so long after a recall nothing is lent there: whoever was in want may be again."""

_MOST = 2**62


class Slices:
    """All slices; they stand at their gates.

    books: to whom rows and recalls are given.
    """

    def __init__(self, books: Bookkeeping, gates: Gates, room: WaitingRoom) -> None:
        self._books = books
        self._gates = gates
        self._room = room
        self._gates_of: dict[str, set[Gate]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._gates_of.values()))

    def owners(self) -> Collection[str]:
        """Who holds slices, or has takes that are not ended."""
        return self._gates_of.keys()

    def exchange(self, now: int, caller: str, wishes: tuple[Wish, ...]) -> tuple[Lent, ...]:
        """See `RateLimiter.exchange`."""
        for index, wish in enumerate(wishes):
            _check(wish, f"wishes[{index}]")
        for wish in wishes:
            # Whatever can't be a gate is found out before anything has changed.
            self._gates.open(now, wish.limit, wish.subject)
        return tuple([self._exchange(now, caller, wish) for wish in wishes])

    def _exchange(self, now: int, caller: str, wish: Wish) -> Lent:
        gate = self._gates.open(now, wish.limit, wish.subject)
        if gate is None:
            return Lent(0, 0, now, LimitState(wish.limit, wish.subject, "requests", 0, 0, 0))
        owner = owner_of(caller)
        slice = gate.lent.get(owner) if gate.lent is not None else None
        if slice is None:
            slice = Slice(caller)
        self._room.easing(now, gate)
        mark = self._report(now, gate, slice, wish) if isinstance(gate.meter, Bucket) else 0
        _shrink(gate, slice, wish.back)
        slice.caller, slice.recalled_ns = caller, None
        granted = 0
        if wish.more and gate.line is None and now >= gate.quiet_ns:
            granted = max(0, min(wish.more, gate.meter.spare(now, gate.limit.burst // 2)))
            gate.meter.lend(granted)
            slice.units += granted
        if gate.line is not None and slice.units:
            # Whoever is in want of it still is: he has it recalled again.
            self._room.look(gate)
        self._keep(owner, gate, slice)
        return Lent(granted, mark, now, gate.state(now))

    def _report(self, now: int, gate: Gate, slice: Slice, wish: Wish) -> int:
        """Debit what was used, and end takes; returns the mark of what was used."""
        assert isinstance(gate.meter, Bucket)
        mark = 0
        if wish.used:
            self._gates.number += 1
            mark = self._gates.number
            _shrink(gate, slice, wish.used)
            gate.meter.take(now, wish.used, mark, wish.takes)
            if wish.takes:
                slice.marks[mark] = (wish.takes, wish.used)
        for closed, ended, back in wish.closes:
            # What is not known any more was ended for its owner, and gives nothing back.
            takes, units = slice.marks.pop(closed, (0, 0))
            ended, back = min(ended, takes), min(back, units)
            if takes > ended:
                slice.marks[closed] = (takes - ended, units - max(back, 0))
            gate.meter.close(now, closed, back, ended)
        if wish.used or wish.closes:
            self._gates.changed.add(gate)
        return mark

    def recall(self, now: int, gate: Gate) -> None:
        """Tell those who hold something here, once each until they speak, to return it."""
        for owner, slice in (gate.lent or {}).items():
            if slice.units and slice.recalled_ns is None:
                slice.recalled_ns = now
                gate.quiet_ns = now + QUIET_NS
                self._tell(gate, slice)
                self._keep(owner, gate, slice)

    def grace_ns(self, now: int, found: list[Obstacle], high: bool) -> int:
        """Until when holders may still return what these obstacles consist in.

        0 where one of them consists in more than slices.
        """
        latest = 0
        for gate, quantity, _ in found:
            if gate.meter.wait(now, quantity - gate.meter.held, high) != 0:
                return 0
            for slice in (gate.lent or {}).values():
                if slice.units and slice.recalled_ns is not None:
                    latest = max(latest, slice.recalled_ns + RECALL_NS)
        return latest

    def bury(self, now: int, owner: str) -> int:
        """Count all that this owner was lent as used, and end its takes; returns how many."""
        gates = self._gates_of.pop(owner, set())
        for gate in gates:
            assert gate.lent is not None
            slice = gate.lent[owner]
            self._room.easing(now, gate)
            gate.meter.lend(-slice.units)
            if isinstance(gate.meter, Bucket):
                self._gates.number += 1
                gate.meter.take(now, slice.units, self._gates.number, 0)
                for mark, (takes, _) in slice.marks.items():
                    gate.meter.close(now, mark, 0, takes)
            self._gates.changed.add(gate)
            self._drop(owner, gate)
        return len(gates)

    def follow(self, now: int, changed: list[Gate], gone: list[Gate]) -> None:
        """A policy came: what is lent of a limit that is gone, or too much of it, goes."""
        for gate in gone:
            for owner, slice in list((gate.lent or {}).items()):
                # The limit may come back; its holder must not go on from what it has now.
                self._tell(gate, slice)
                self._gates_of[owner].discard(gate)
                if not self._gates_of[owner]:
                    del self._gates_of[owner]
                self._drop(owner, gate)
        for gate in changed:
            if gate.meter.held > gate.limit.burst // 2:
                self.recall(now, gate)

    def load(self, values: Iterable[Any]) -> None:
        """Go on from the values of the store's rows."""
        for name, subject, caller, units, recalled_ns, *marks in values:
            gate = self._gates.open(0, name, subject)
            assert gate is not None
            slice = Slice(caller)
            slice.units, slice.recalled_ns = units, recalled_ns
            for mark, takes, used in zip(*[iter(marks)] * 3, strict=True):
                slice.marks[mark] = (takes, used)
                self._gates.number = max(self._gates.number, mark)
            gate.meter.lend(units)
            self._keep(owner_of(caller), gate, slice)

    def _tell(self, gate: Gate, slice: Slice) -> None:
        name, subject = gate.limit.name, gate.subject
        self._books.answer(slice.caller, recall_id(name, subject), Recall(name, subject))

    def _keep(self, owner: str, gate: Gate, slice: Slice) -> None:
        if slice.units or slice.marks:
            if gate.lent is None:
                gate.lent = {}
            gate.lent[owner] = slice
            self._gates_of.setdefault(owner, set()).add(gate)
            value = [gate.limit.name, gate.subject, slice.caller, slice.units, slice.recalled_ns]
            for mark, (takes, units) in slice.marks.items():
                value += (mark, takes, units)
            self._books.put(TABLE, f"{owner} {gate.row}", value)
        elif gate.lent is not None and owner in gate.lent:
            self._gates_of[owner].discard(gate)
            if not self._gates_of[owner]:
                del self._gates_of[owner]
            self._drop(owner, gate)

    def _drop(self, owner: str, gate: Gate) -> None:
        assert gate.lent is not None
        del gate.lent[owner]
        if not gate.lent:
            gate.lent = None
        self._books.drop(TABLE, f"{owner} {gate.row}")


def _shrink(gate: Gate, slice: Slice, quantity: int) -> None:
    """So many units, or all there are, are lent no longer."""
    less = min(quantity, slice.units)
    slice.units -= less
    gate.meter.lend(-less)


def _check(wish: Wish, path: str) -> None:
    for field in ("used", "takes", "back", "more"):
        whole(getattr(wish, field), f"{path}.{field}", 0, _MOST)
    for _, takes, back in wish.closes:
        whole(takes, f"{path}.closes", 0, _MOST)
        whole(back, f"{path}.closes", -_MOST, _MOST)
