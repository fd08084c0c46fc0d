"""Calendar periods in named time zones: when a budget starts anew.

A period runs from one local midnight to another, so a day may last 23 or 25 hours, and
a week starts on Monday (ISO 8601). Zone data come from the system or from `tzdata`.
"""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Literal, NamedTuple, get_args
from zoneinfo import ZoneInfo

Period = Literal["day", "week", "month", "total"]
PERIODS: tuple[Period, ...] = get_args(Period)

SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Span(NamedTuple):
    """One period.

    label: its name, unique among periods of its kind ("2025-11-23", "2025-W47",
        "2025-11", "total").
    start_ns, end_ns: its first nanosecond and the first one after it, Unix time;
        `end_ns` None: it never ends.
    """

    label: str
    start_ns: int
    end_ns: int | None


def zone(name: str) -> tzinfo:
    """The zone of that IANA name. Raises ValueError when there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError, TypeError):
        raise ValueError(f"{name!r} is not the name of a time zone, such as 'UTC'") from None


def span(period: Period, where: tzinfo, now: int) -> Span:
    """The period that `now` (Unix time, nanoseconds) lies in."""
    if period == "total":
        return Span("total", 0, None)
    today = datetime.fromtimestamp(now // SECOND_NS, where).date()
    if period == "day":
        label, first, after = today.isoformat(), today, today + timedelta(days=1)
    elif period == "week":
        year, week, weekday = today.isocalendar()
        first = today - timedelta(days=weekday - 1)
        label, after = f"{year:04}-W{week:02}", first + timedelta(days=7)
    else:
        first = today.replace(day=1)
        label, after = first.isoformat()[:7], first + timedelta(days=days_in_month(first))
    return Span(label, _midnight_ns(first, where), _midnight_ns(after, where))


def day_before(label: str, days: int) -> str:
    """The label of the day that many days before the one labelled so."""
    return (date.fromisoformat(label) - timedelta(days=days)).isoformat()


def days_in_month(day: date) -> int:
    """How many days the month of that day has."""
    return monthrange(day.year, day.month)[1]


def _midnight_ns(day: date, where: tzinfo) -> int:
    # Where a zone skips its midnight, fold 0 reads it with the offset from before the
    # change, which is the instant at which that day begins.
    local = datetime(day.year, day.month, day.day, tzinfo=where)
    return (local.astimezone(UTC) - _EPOCH) // timedelta(seconds=1) * SECOND_NS
