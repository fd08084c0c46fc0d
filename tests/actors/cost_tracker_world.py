"""What tests of slices share: a cost tracker with its store, and owners that speak to it."""

from typing import Any

from actors.cost_tracker import CostTracker, Facts, Paid, Purse, Usage
from actors.ledger import Entry
from actors.mechanism import Result, Row
from actors.store import as_plain

SECOND = 10**9
HOUR = 3600 * SECOND
NOON = 1_763_899_200 * SECOND  # 2025-11-23 12:00 UTC, a Sunday
TODAY = "2025-11-23"
FACTS = Facts("key-1", "team-1", "ann", "fast", "openai/gpt", "v1", {"app": "crm"})
DAY = f"day|{TODAY}|"
TEAM = "team|2025-11|team-1"
BUDGETS: list[dict[str, Any]] = [
    {"name": "day", "scope": "cluster", "period": "day", "amount_nanos": 1_000},
    {"name": "team", "scope": "team", "period": "month", "amount_nanos": 400},
]


class World:
    """A cost tracker whose owners are A, B, ... and speak as `A.1`; what it says late is kept."""

    def __init__(self) -> None:
        self.now = NOON
        self.rows: dict[tuple[str, str], Any] = {}
        self.results: list[Result] = []
        self.costs = CostTracker()
        self.do("configure", "r1", {"budgets": BUDGETS})

    def do(self, command: str, *args: Any, by: str = "A.1") -> Any:
        """Run a command as a batch of its own."""
        reply = getattr(self.costs, command)(self.now, by, *args)
        self.end_batch()
        return reply

    def end_batch(self) -> None:
        """What a host does after a batch."""
        self.costs.advance(self.now)
        changes = self.costs.take_changes()
        self.results += changes.results
        for row in changes.rows:
            self.rows[row.table, row.key] = as_plain(row.value)
        self.rows = {place: value for place, value in self.rows.items() if value is not None}

    def later(self, nanos: int) -> None:
        """Let time pass."""
        self.now += nanos
        self.end_batch()

    def restart(self) -> None:
        """A new object from the live rows."""
        self.costs = CostTracker()
        self.costs.load(Row(*place, v) for place, v in self.rows.items() if place[0] != "ledger")

    def lend(self, account: str, more: int, back: int = 0, by: str = "A.1") -> int:
        """Exchange one purse; returns what was granted."""
        [lent] = self.do("exchange", (Purse(account, back, more),), by=by)
        granted: int = lent.granted
        return granted

    def reserve(self, id: str, amount: int, by: str = "D.1", wait: int = 0, **facts: Any) -> Any:
        """Reserve on the team's budget, as a caller that has no slices."""
        told = FACTS._replace(**facts)
        return self.do("reserve", id, (("team", told.team),), amount, wait, told, by=by)

    def charge(self, id: str, amount: int, covered: int = 0, by: str = "A.1", **other: Any) -> Any:
        """Charge a call to an owner's slices of both budgets."""
        paid = Paid(
            by.partition(".")[0], id, (DAY, TEAM), covered, amount, covered, Usage(5, 0, 2, 0),
            FACTS, False, TODAY,
        )  # fmt: skip
        return self.do("charge", paid._replace(**other), by=by)

    def account(self, key: str) -> tuple[int, int]:
        """(posted, pending) of one account of the present periods."""
        name, _, subject = key.split("|")
        for line in self.do("budgets"):
            if (line["name"], line["subject"]) == (name, subject):
                return line["posted_nanos"], line["pending_nanos"]
        return 0, 0

    def revision(self) -> int:
        """That of the view."""
        found: int = self.costs.view("budgets", self.now)["revision"]
        return found

    def ledger(self) -> list[Entry]:
        """All ledger rows so far."""
        keys = sorted(key for table, key in self.rows if table == "ledger")
        return [Entry(*self.rows["ledger", key]) for key in keys]

    def waits_for(self, id: str) -> str:
        """The owner that a reservation waits for."""
        caller: str = self.rows["waiting", id][1]
        return caller.partition(".")[0]

    def heard(self) -> list[tuple[str, str]]:
        """(caller, id) of the results since the last look."""
        heard, self.results = self.results, []
        return [(result.caller, result.id) for result in heard]

    def result(self, id: str) -> Any:
        """The late reply by that id, once."""
        [found] = [result for result in self.results if result.id == id]
        self.results.remove(found)
        return found.reply
