"""The simplest mechanism that can tell whether something was lost or done twice."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

from actors.errors import Conflict
from actors.mechanism import Bookkeeping, Gone, Pending, Row


class Sum(NamedTuple):
    """The reply to `add`. retry_after_ns: a duration, as refusals have one."""

    total: int
    retry_after_ns: int | None = None


class Page(NamedTuple):
    """A reply too large to be kept."""

    body: bytes


class Counter(Bookkeeping):
    """A sum, tickets that time or `serve` answers, and view entries.

    Adding has no id: whatever runs twice is counted twice.
    """

    NAME: ClassVar[str] = "counter"
    DURABLE: ClassVar[bool] = False
    MIRRORED: ClassVar[bool] = False
    CLOCK: ClassVar[Literal["steady", "wall"]] = "steady"
    TABLES: ClassVar[dict[str, Literal["live", "archive"]]] = {
        "sums": "live",
        "tickets": "live",
        "shown": "live",
        "log": "archive",
    }
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        (
            *("add", "total", "refuse", "break_half_way", "spoil_row", "spoil_reply"),
            *("page", "spin", "wait", "waiting", "serve", "display", "hide"),
        )
    )
    READS: ClassVar[frozenset[str]] = frozenset({"total", "refuse", "waiting"})

    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[str, int] = {}
        self.tickets: dict[str, tuple[str, int]] = {}
        self.shown: dict[str, Any] = {}
        self.spinning = False
        self.advanced = 0

    def load(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.table == "sums":
                self.sums[row.key] = row.value
            elif row.table == "tickets":
                self.tickets[row.key] = (row.value[0], row.value[1])
            else:
                self.shown[row.key] = row.value

    def add(self, now: int, caller: str, amount: int, retry_after_ns: int | None = None) -> Sum:
        total = self.sums.get("all", 0) + amount
        self.sums["all"] = total
        self.put("sums", "all", total)
        return Sum(total, retry_after_ns)

    def total(self, now: int, caller: str) -> int:
        return self.sums.get("all", 0)

    def refuse(self, now: int, caller: str) -> None:
        raise Conflict("not like this", "no", "amount", 2.5, False)

    def break_half_way(self, now: int, caller: str) -> None:
        self.add(now, caller, 1_000_000)
        for key in self.shown:
            self.shown[key] = "broken"
            self.show(key)
        raise ZeroDivisionError

    def spoil_row(self, now: int, caller: str) -> None:
        self.add(now, caller, 1_000_000)
        self.put("sums", "spoilt", 1 << 70)

    def spoil_reply(self, now: int, caller: str) -> Any:
        self.add(now, caller, 1_000_000)
        return lambda: None

    def wait(self, now: int, caller: str, id: str, for_ns: int) -> Pending:
        self.tickets[id] = (caller, now + for_ns)
        self.put("tickets", id, (caller, now + for_ns))
        return Pending(for_ns)

    def serve(self, now: int, caller: str, id: str, reply: Any) -> bool:
        ticket = self.tickets.pop(id, None)
        if ticket is None:
            return False
        self.drop("tickets", id)
        self.answer(ticket[0], id, reply)
        return True

    def waiting(self, now: int, caller: str) -> list[str]:
        return sorted(self.tickets)

    def display(self, now: int, caller: str, key: str, value: Any) -> None:
        self.shown[key] = value
        self.put("shown", key, value)
        self.show(key)

    def hide(self, now: int, caller: str, key: str) -> None:
        self.shown.pop(key, None)
        self.drop("shown", key)
        self.show(key)

    def page(self, now: int, caller: str, size: int) -> Page:
        self.add(now, caller, 1)
        return Page(bytes(size))

    def spin(self, now: int, caller: str) -> None:
        self.spinning = True

    def advance(self, now: int) -> int | None:
        self.advanced += 1
        for id, (_, until) in list(self.tickets.items()):
            if until <= now:
                self.serve(now, "", id, "late")
        if self.spinning:
            return now - 1
        return min((until for _, until in self.tickets.values()), default=None)

    def view(self, key: str, now: int) -> Any:
        return self.shown.get(key)

    def view_keys(self) -> Iterable[str]:
        return list(self.shown)

    def keep(self, reply: Any) -> Any:
        return Gone() if isinstance(reply, Page) else reply


class Calendar(Counter):
    """The same on the calendar's clock."""

    CLOCK: ClassVar[Literal["steady", "wall"]] = "wall"
    DURABLE: ClassVar[bool] = True
    MIRRORED: ClassVar[bool] = True


FACTORY = "tests.actors.counter:Counter"
CALENDAR = "tests.actors.counter:Calendar"
