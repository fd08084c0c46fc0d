"""What the cost tracker tells about itself: plain values for health pages and admins."""

from datetime import date
from heapq import nsmallest
from typing import Any

from actors import periods
from actors.budgets import Books
from actors.charge_memory import Memory
from actors.cost_journal import Journal
from actors.cost_waiting import Line
from actors.purses import Purses
from actors.spending import Spending

MAX_LISTED = 1_000
AVERAGE_DAYS = 7


def summary(books: Books, spending: Spending) -> dict[str, Any]:
    """The cluster's day and month, on the calendar of its daily budget.

    In nano-dollars: `today_nanos` posted, `pending_nanos` held, `budget_nanos`,
    `remaining_nanos` (budget without what is posted; 0 when overspent),
    `average_daily_nanos_7d`: mean of the last seven days, today included, or of fewer
    when spending began later, `projected_month_nanos`: this month's so far and the
    average for each day that is left of it. The other keys say the same in dollars.
    """
    daily = books.daily
    today = daily.label
    account = books.accounts.get(daily.prefix)
    posted = account.posted if account else 0
    pending = account.pending if account else 0
    first = periods.day_before(today, AVERAGE_DAYS - 1)
    began = max(first, min(today, spending.first_day() or today))
    day = date.fromisoformat(today)
    days = (day - date.fromisoformat(began)).days + 1
    average = spending.nanos(first, today) // days
    month = spending.nanos(f"{today[:7]}-01", today)
    projected = month + average * (periods.days_in_month(day) - day.day)
    remaining = max(0, daily.amount_nanos - posted)
    used = 100.0 * posted / daily.amount_nanos if daily.amount_nanos else 100.0 * bool(posted)
    return {
        "today_cost": posted / 1e9,
        "daily_budget": daily.amount_nanos / 1e9,
        "budget_used_percentage": used,
        "remaining_budget": remaining / 1e9,
        "average_daily_cost_7d": average / 1e9,
        "projected_monthly_cost": projected / 1e9,
        "today_nanos": posted,
        "budget_nanos": daily.amount_nanos,
        "remaining_nanos": remaining,
        "pending_nanos": pending,
        "average_daily_nanos_7d": average,
        "projected_month_nanos": projected,
    }


def status(
    books: Books, memory: Memory, journal: Journal, purses: Purses, line: Line
) -> dict[str, Any]:
    """What is held and known, and the end of the ledger.

    `pending`, `pending_nanos`: charges that are held. `slices`, `waiting`: how many there are.
    `accounts`, `remembered`, `refusals`: sizes of what is kept.
    `overruns`: charges that came to more than was held. `damage`: which rows of
    the ledger are not what was written, or None.
    """
    today = books.daily.label
    return {
        "pending": len(memory.held),
        "pending_nanos": memory.held_nanos,
        "posted_today_nanos": journal.spending.nanos(today, today),
        "overruns": journal.overruns,
        "overrun_nanos": journal.overrun_nanos,
        "slices": purses.count,
        "waiting": len(line.waiting),
        "accounts": len(books.accounts),
        "remembered": len(memory.closed) + len(memory.estimates),
        "refusals": len(memory.refusals),
        "head": list(journal.head()),
        "damage": journal.damage,
    }


def budgets(books: Books, now: int) -> list[dict[str, Any]]:
    """Each budget's present accounts, fullest first; at most 1,000, the cluster's always.

    One that nobody has used has a line too, `subject` being whom it binds (None: each).
    `pending_nanos` is held, `lent_nanos` of it in slices. `available_nanos` is negative when
    overspent; `resets_in_ns` None: never. `source`: whether
    it is policy's or an operator's (`admin`).
    """
    lines: list[dict[str, Any]] = []
    used: dict[str, list[tuple[int, int, int, str | None]]] = {}
    for account in books.accounts.values():
        budget = books.budgets.get(account.budget)
        if budget is not None and budget.label == account.label:
            line = (account.posted, account.pending, account.lent, account.subject)
            used.setdefault(budget.terms.name, []).append(line)
    for name, budget in books.budgets.items():
        terms = budget.terms
        nothing = [(0, 0, 0, "" if terms.scope == "cluster" else terms.subject)]
        for posted, pending, lent, subject in nsmallest(
            MAX_LISTED,
            used.get(name, nothing),
            key=lambda line: (-line[0] - line[1], line[3] or ""),
        ):
            lines.append(
                {
                    "name": name,
                    "scope": terms.scope,
                    "subject": subject,
                    "period": terms.period,
                    "timezone": terms.timezone,
                    "amount_nanos": terms.amount_nanos,
                    "posted_nanos": posted,
                    "pending_nanos": pending,
                    "lent_nanos": lent,
                    "available_nanos": terms.amount_nanos - posted - pending,
                    "resets_in_ns": budget.resets_in_ns(now),
                    "source": books.source(name),
                }
            )
    return lines
