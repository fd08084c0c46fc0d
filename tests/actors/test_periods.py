from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import periods
from actors.periods import PERIODS, Period

HOUR_NS = 3600 * 10**9


def ns(text: str) -> int:
    """That moment of UTC in Unix nanoseconds."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) * 10**9


@pytest.mark.parametrize(
    ("period", "zone", "now", "label", "start", "end"),
    [
        ("day", "UTC", "2025-11-23T12:00", "2025-11-23", "2025-11-23", "2025-11-24"),
        ("day", "UTC", "2025-11-23T00:00", "2025-11-23", "2025-11-23", "2025-11-24"),
        ("week", "UTC", "2025-11-23T12:00", "2025-W47", "2025-11-17", "2025-11-24"),
        ("week", "UTC", "2025-12-31T12:00", "2026-W01", "2025-12-29", "2026-01-05"),
        ("month", "UTC", "2024-02-29T12:00", "2024-02", "2024-02-01", "2024-03-01"),
        ("month", "UTC", "2025-12-31T23:59", "2025-12", "2025-12-01", "2026-01-01"),
        # Half past ten in the evening of UTC is the next day in Berlin.
        ("day", "Europe/Berlin", "2025-07-01T22:30", "2025-07-02", "2025-07-01T22:00",
         "2025-07-02T22:00"),
        ("day", "Asia/Kolkata", "2025-07-01T18:30", "2025-07-02", "2025-07-01T18:30",
         "2025-07-02T18:30"),
        # Clocks go forward: a day of 23 hours; and back: one of 25.
        ("day", "Europe/Berlin", "2025-03-30T12:00", "2025-03-30", "2025-03-29T23:00",
         "2025-03-30T22:00"),
        ("day", "Europe/Berlin", "2025-10-26T12:00", "2025-10-26", "2025-10-25T22:00",
         "2025-10-26T23:00"),
        # Here midnight itself was skipped: the day began at one o'clock.
        ("day", "America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04", "2018-11-04T03:00",
         "2018-11-05T02:00"),
    ],
)  # fmt: skip
def test_period_of_a_moment(
    period: Period, zone: str, now: str, label: str, start: str, end: str
) -> None:
    """A period has its calendar's name and runs from local midnight to local midnight."""
    found = periods.span(period, periods.zone(zone), ns(now))
    assert found == (label, ns(start), ns(end))


def test_total_never_ends() -> None:
    """There is one total period."""
    assert periods.span("total", periods.zone("UTC"), ns("2025-11-23")) == ("total", 0, None)


@given(
    st.sampled_from(PERIODS[:3]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Havana", "Pacific/Apia", "Asia/Tehran"]),
    st.integers(ns("1990-01-01"), ns("2037-01-01")),
)
def test_periods_leave_no_gap(period: Period, zone: str, now: int) -> None:
    """Each moment lies in one period, and the next begins where it ends, under another name."""
    where = periods.zone(zone)
    here = periods.span(period, where, now)
    assert here.end_ns is not None
    assert here.start_ns <= now < here.end_ns
    assert periods.span(period, where, here.start_ns) == here
    assert periods.span(period, where, here.end_ns - 1) == here
    after = periods.span(period, where, here.end_ns)
    assert after.start_ns == here.end_ns
    assert after.label > here.label


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "/etc/passwd", "Europe", 5])
def test_unknown_zone_is_an_error(name: str) -> None:
    """What names no zone is a ValueError, whatever the name looks like."""
    with pytest.raises(ValueError, match="time zone"):
        periods.zone(name)


def test_day_arithmetic() -> None:
    """Days before a day, across the ends of months, and the lengths of months."""
    assert periods.day_before("2024-03-01", 1) == "2024-02-29"
    assert periods.day_before("2024-03-01", 0) == "2024-03-01"
    assert periods.days_in_month(datetime(2024, 2, 10).date()) == 29
