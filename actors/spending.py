"""What was spent, by day, key, team and model: sums for reports, kept for 62 days."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

from actors import fields, periods
from actors.charges import Facts, Usage
from actors.mechanism import Row

TABLE = "spending"
KEEP_DAYS = 62
MAX_SUMS_PER_DAY = 5_000
OTHER = "(other)"

_new = tuple.__new__

By = Literal["key", "team", "model", "day"]
BY: tuple[By, ...] = get_args(By)

Identity = tuple[str, str, str, str]
"""(day, key, team, model)"""


class Spent(NamedTuple):
    """One line of a report. value: the key, team, model or day; nanos: nano-dollars."""

    value: str
    nanos: int
    calls: int
    tokens_in: int
    tokens_out: int


class Spending:
    """All sums. A day's first 5,000 combinations have their own; the rest share one."""

    def __init__(self) -> None:
        # [nanos, calls, tokens in, tokens out]
        self._sums: dict[Identity, list[int]] = {}
        self._days: dict[str, int] = {}
        self._per_day: dict[str, int] = {}
        self._changed: dict[Identity, list[int] | None] = {}
        self._oldest = ""

    def add(self, day: str, facts: Facts, nanos: int, calls: int, usage: Usage) -> None:
        """Count a call, or (calls 0) a correction of one; nanos and usage may be negative.

        A day that is too old to be asked for counts nowhere.
        """
        if day < self._oldest:
            return
        key, team, _, model, *_ = facts
        identity = (day, key, team, model)
        found = self._sums.get(identity)
        if found is None:
            if self._per_day.get(day, 0) >= MAX_SUMS_PER_DAY:
                identity = (day, OTHER, OTHER, OTHER)
                found = self._sums.get(identity)
            found = found or self._start(identity, [0, 0, 0, 0])
        tokens_in, _, tokens_out, _ = usage
        found[0] += nanos
        found[1] += calls
        found[2] += tokens_in
        found[3] += tokens_out
        self._days[day] += nanos
        self._changed[identity] = found

    def by(self, by: str, days: int, today: str) -> list[Spent]:
        """The last `days` days, today included, summed up: dearest first, days in order."""
        if by not in BY:
            raise fields.invalid("by", "one of " + ", ".join(BY))
        first = periods.day_before(today, fields.whole(days, "days", 1, KEEP_DAYS) - 1)
        place = ("day", "key", "team", "model").index(by)
        total: dict[str, list[int]] = {}
        for identity, sums in self._sums.items():
            if identity[0] >= first:
                into = total.setdefault(identity[place], [0, 0, 0, 0])
                for n in range(4):
                    into[n] += sums[n]
        lines = [Spent(value, *sums) for value, sums in total.items()]
        return sorted(lines, key=lambda line: (0 if by == "day" else -line.nanos, line.value))

    def nanos(self, first: str, last: str) -> int:
        """What was spent from one day to another, both included."""
        return sum(nanos for day, nanos in self._days.items() if first <= day <= last)

    def first_day(self) -> str | None:
        """The earliest day that has a sum."""
        return min(self._days, default=None)

    def prune(self, today: str) -> None:
        """Forget the days that are too old to be asked for."""
        first = self._oldest = periods.day_before(today, KEEP_DAYS - 1)
        if (self.first_day() or first) >= first:
            return
        for identity in [each for each in self._sums if each[0] < first]:
            del self._sums[identity]
            self._changed[identity] = None
        for day in [each for each in self._days if each < first]:
            del self._days[day], self._per_day[day]

    def take_rows(self) -> Iterable[Row]:
        """Rows of the sums that changed since the last call."""
        for (day, key, team, model), sums in self._changed.items():
            row = f"{len(day)}:{day}|{len(key)}:{key}|{len(team)}:{team}|{len(model)}:{model}"
            value = sums and (day, key, team, model, *sums)
            yield _new(Row, (TABLE, row, value))
        self._changed = {}

    def load_row(self, value: list[Any]) -> None:
        """Take over a sum from its row."""
        day, key, team, model, *sums = value
        self._start((day, key, team, model), sums)
        self._days[day] += sums[0]

    def _start(self, identity: Identity, sums: list[int]) -> list[int]:
        day = identity[0]
        self._sums[identity] = sums
        self._days.setdefault(day, 0)
        self._per_day[day] = self._per_day.get(day, 0) + 1
        return sums
