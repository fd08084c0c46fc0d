"""What the limiter's property tests judge by: all that was ever taken, lent, used and ended."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from actors.limits import HIGH
from actors.mechanism import owner_of
from tests.actors.rate_limiter_history import History

# So slow that a recall (250 ms) is a time in which little comes back; nothing divides evenly.
T = 10_000_000
LIMITS: dict[str, dict[str, Any]] = {
    "r": {
        "scope": "cluster",
        "unit": "requests",
        "rate": 3,
        "period_ns": 40 * T,
        "burst": 8,
        "debt": 2,
    },
    "k": {
        "scope": "key",
        "unit": "requests",
        "rate": 1,
        "period_ns": 31 * T,
        "burst": 4,
        "debt": 0,
    },
    "t": {"scope": "team", "unit": "tokens", "rate": 7, "period_ns": 13 * T, "burst": 40},
    "s": {"scope": "key", "unit": "concurrent", "burst": 4},
}
POLICY = {"limits": [{"name": name, **fields} for name, fields in LIMITS.items()]}
Key = tuple[str, str]


class Waiting(NamedTuple):
    """A ticket as its holder knows it. until: its deadline, as it was promised."""

    caller: str
    order: tuple[int, int]
    takes: dict[Key, int]
    until: int


@dataclass
class Desk:
    """What one owner knows of its slice of one gate.

    left: units that it may still spend. unreported: {take: units} spent since its last
    exchange; spent: those of takes that have ended since. open: {take: (mark, units)} reported
    and not ended. ended: (take, mark, units given back) to be told with the next exchange.
    """

    left: int = 0
    spent: int = 0
    unreported: dict[str, int] = field(default_factory=dict)
    open: dict[str, tuple[int, int]] = field(default_factory=dict)
    ended: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def used(self) -> int:
        """What it has to report."""
        return self.spent + sum(self.unreported.values())

    @property
    def known(self) -> bool:
        """Whether the host has something written down for it."""
        return bool(self.left or self.used or self.open or self.ended)


class Judge:
    """What limits have given, by their whole history; slots by their holders."""

    def __init__(self) -> None:
        self.histories: dict[Key, History] = {}
        self.holds: dict[str, tuple[str, dict[Key, int]]] = {}
        self.desks: dict[tuple[str, Key], Desk] = {}
        # Of each gate, by id: the stamp of a use, and the ticks that it still counts.
        self.uses: dict[Key, dict[str, tuple[int, int]]] = {}

    def history(self, key: Key) -> History:
        """The history of a bucket."""
        spec = LIMITS[key[0]]
        fields = (spec["rate"], spec["period_ns"], spec["burst"], spec.get("debt", 0))
        return self.histories.setdefault(key, History(*fields))

    def lent(self, key: Key) -> int:
        """Units that are out."""
        return sum(desk.left + desk.used for (_, of), desk in self.desks.items() if of == key)

    def slots_used(self, key: Key) -> int:
        """How many slots are taken directly."""
        return sum(takes.get(key, 0) for _, takes in self.holds.values())

    def fits(self, now: int, key: Key, quantity: int, priority: int, lent: bool = True) -> bool:
        """Whether this limit would give so much; lent: beside what is out."""
        quantity += self.lent(key) if lent else 0
        if key[0] == "s":
            return self.slots_used(key) + quantity <= LIMITS["s"]["burst"]
        return self.history(key).fits(now, quantity, priority == HIGH)

    def spare(self, now: int, key: Key) -> int:
        """What the rule of lending leaves for one more wish, tickets and recalls aside."""
        most = LIMITS[key[0]]["burst"] // 2 - self.lent(key)
        if key[0] == "s":
            return max(0, most - self.slots_used(key))
        history = self.history(key)
        return max(0, most + -history.lacks(now)[-1] // history.unit)

    def use(self, now: int, key: Key, id: str, quantity: int) -> None:
        """Something is admitted, directly or from a slice."""
        if key[0] != "s":
            ticks = quantity * self.history(key).unit
            self.uses.setdefault(key, {})[id] = (now, ticks)

    def shrink(self, key: Key, id: str, ticks: int) -> None:
        """So much of a use was none."""
        stamp, before = self.uses[key][id]
        self.uses[key][id] = (stamp, before - ticks)

    def admit(self, now: int, id: str, caller: str, takes: dict[Key, int]) -> None:
        """Debit all."""
        self.holds[id] = (caller, takes)
        for key, quantity in takes.items():
            if key[0] != "s":
                self.history(key).take(now, quantity, id)
                self.use(now, key, id, quantity)

    def end(self, now: int, id: str, tokens: int | None = None, undo: bool = False) -> None:
        """Give back."""
        for key, quantity in self.holds.pop(id)[1].items():
            back = 0
            if undo and key[0] != "s":
                back = quantity
            elif key[0] == "t" and tokens is not None:
                back = quantity - tokens
            if back:
                self.shrink(key, id, self.history(key).give_back(now, id, back))

    def report(self, now: int, key: Key, desk: Desk, mark: int) -> None:
        """An owner has told what it used, under this mark, and what has ended."""
        history = self.history(key)
        if desk.used:
            history.take(now, desk.used, mark)
        for id, closed, back in desk.ended:
            self.shrink(key, id, history.give_back(now, closed, back))
        desk.open |= {id: (mark, quantity) for id, quantity in desk.unreported.items()}
        desk.unreported, desk.spent, desk.ended = {}, 0, []

    def bury(self, now: int, owner: str) -> int:
        """What an owner held directly ends, what it was lent counts as used; how many."""
        mine = [id for id, (caller, _) in self.holds.items() if owner_of(caller) == owner]
        for id in mine:
            self.end(now, id)
        known = 0
        for of, key in [place for place in self.desks if place[0] == owner]:
            desk = self.desks.pop((of, key))
            known += desk.known
            if key[0] != "s" and desk.left + desk.used:
                self.history(key).take(now, desk.left + desk.used, f"buried {owner}")
        return len(mine) + known

    def excess(self) -> int:
        """I1: the worst window of the worst gate, by stamps; above 0 is a leak."""
        each = (h.excess(self.uses.get(key, {}).values()) for key, h in self.histories.items())
        return max(each, default=0)
