"""A gate: one limit of the policy as it applies to one subject."""

from actors.gcra import Bucket
from actors.limits import HIGH, LOW, Limit, LimitState
from actors.slots import Slots

_new = tuple.__new__


class Line:
    """Those who wait at one gate.

    tickets: (priority, number, quantity, ticket's id), sorted.
    queued: units that wait, by priority.
    largest: no quantity in the line is above this.
    wake: when to look at the line again, if a time is known.
    """

    __slots__ = ("largest", "queued", "tickets", "wake")

    def __init__(self) -> None:
        self.tickets: list[tuple[int, int, int, str]] = []
        self.queued = [0] * (LOW + 1)
        self.largest = 0
        self.wake: int | None = None


class Slice:
    """What one owner has been lent of one gate.

    caller: by which it spoke last, and hears of a recall. units: lent, and neither returned
    nor reported as used. recalled_ns: when it was told to return them, unless it has spoken
    since. marks: of what it reported as used, by mark: takes that are not ended, and units
    that these may give back.
    """

    __slots__ = ("caller", "marks", "recalled_ns", "units")

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.units = 0
        self.recalled_ns: int | None = None
        self.marks: dict[int, tuple[int, int]] = {}


class Gate:
    """One limit for one subject: its meter, who waits for it, and to whom it is lent.

    line, lent (by owner): None when there is nobody. quiet_ns: nothing is lent before this
    time. dead: it was forgotten; whoever still knows it asks for its successor.
    """

    __slots__ = ("dead", "lent", "limit", "line", "meter", "quiet_ns", "subject")

    def __init__(self, limit: Limit, subject: str) -> None:
        self.limit = limit
        self.subject = subject
        self.meter: Bucket | Slots = (
            Slots(limit.burst)
            if limit.unit == "concurrent"
            else Bucket(limit.rate, limit.period_ns, limit.burst, limit.debt)
        )
        self.line: Line | None = None
        self.lent: dict[str, Slice] | None = None
        self.quiet_ns = 0
        self.dead = False

    @property
    def row(self) -> str:
        """The key of its row: the limit's name (which has no space), a space, the subject."""
        return f"{self.limit.name} {self.subject}"

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

    def take(self, now: int, quantity: int, mark: int) -> LimitState:
        """Debit so many units under this mark; returns the state after it."""
        limit = self.limit
        remaining, reset_ns = self.meter.take(now, quantity, mark)
        # The quick way to make one, as this runs for every limit of every request.
        state = (limit.name, self.subject, limit.unit, limit.burst, remaining, reset_ns)
        return _new(LimitState, state)

    def returns(self, quantity: int, tokens: int | None, undo: bool) -> int:
        """What comes back of `quantity` at its end; below 0, what is debited on top.

        tokens: the actual number, None keeps the estimate. undo: all was for nothing.
        """
        unit = self.limit.unit
        if undo or unit == "concurrent":
            return quantity
        if unit == "tokens" and tokens is not None and quantity:
            return quantity - tokens
        return 0

    def stops(self, now: int, priority: int, quantity: int) -> bool:
        """Whether so much is not there now, whoever else waits for it."""
        return self.meter.wait(now, quantity, priority == HIGH) != 0

    def estimate(self, now: int, priority: int, quantity: int) -> int | None:
        """Nanoseconds until a newcomer would get `quantity`, after those ahead of him."""
        ahead = sum(self.line.queued[: priority + 1]) if self.line is not None else 0
        return self.meter.wait(now, ahead + quantity, priority == HIGH)

    def obstacle(self, now: int, priority: int, number: int, quantity: int) -> int | None:
        """0 when `quantity` may go here, else nanoseconds until what stops it is allowed.

        That is its own quantity, or the one of somebody ahead of it. None: nobody can tell.
        """
        wait = self.meter.wait(now, quantity, priority == HIGH)
        line = self.line
        if wait != 0 or line is None or self.meter.wait(now, line.largest) == 0:
            return wait
        for other in line.tickets:
            if other[0] > priority or (other[0] == priority and other[1] >= number):
                return 0
            wait = self.meter.wait(now, other[2], other[0] == HIGH)
            if wait != 0:
                return wait
        return 0
