from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import trace_collector
from actors.errors import InvalidRequest
from actors.mechanism import Gone, Row
from actors.trace_collector import TraceCollector, pack


def trace(number: int, **more: Any) -> dict[str, Any]:
    """The trace of the request with this number, started at that second."""
    return {
        "trace_id": f"t{number}",
        "request_id": f"r{number}",
        "started_ns": number * 10**9,
        "duration_ns": number,
        "user": f"u{number % 3}",
        "status": "success",
        "tags": {"team": "red", "n": str(number)},
    } | more


def add(collector: TraceCollector, *numbers: int) -> None:
    """Hand over one batch."""
    collector.add(0, "a", len(numbers), pack([trace(number) for number in numbers]), {})


def found(collector: TraceCollector, filters: dict[str, Any], limit: int = 200) -> list[str]:
    """The trace ids of all pages."""
    ids: list[str] = []
    cursor = None
    while True:
        page = collector.search(0, "a", filters, limit, cursor)
        ids += [one["trace_id"] for one in page.traces]
        cursor = page.cursor
        if cursor is None:
            return ids


def test_traces_come_back_newest_first() -> None:
    """Order is that of arrival, across and within batches."""
    collector = TraceCollector()
    add(collector, 1, 2)
    add(collector, 3)
    assert found(collector, {}) == ["t3", "t2", "t1"]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"user": "u1"}, ["t7", "t4", "t1"]),
        ({"user": "u1", "since_ns": 4 * 10**9}, ["t7", "t4"]),
        ({"until_ns": 3 * 10**9}, ["t2", "t1"]),
        ({"min_duration_ns": 8}, ["t9", "t8"]),
        ({"min_cost_nanos": 0}, []),
        ({"tags": {"team": "red", "n": "5"}}, ["t5"]),
        ({"tags": {"n": "none"}}, []),
        ({"request_id": "r6"}, ["t6"]),
        ({"status": "fallback"}, []),
        ({"no_such_field": 1}, []),
    ],
)
def test_search_gives_what_fits_all_filters(filters: dict[str, Any], ids: list[str]) -> None:
    """Equality by field, bounds on time, duration and cost, tags by containment."""
    collector = TraceCollector()
    add(collector, 1, 2, 3, 4)
    add(collector, 5, 6, 7, 8, 9)
    assert found(collector, filters) == ids


def test_one_trace_is_found_by_either_id() -> None:
    """By trace id or request id; the newest when several have it; None when there is none."""
    collector = TraceCollector()
    add(collector, 1, 2, 3)
    repeated = trace(9, trace_id="t2")
    collector.add(0, "a", 1, pack([repeated]), {})
    assert collector.get(0, "a", "r1") == trace(1)
    assert collector.get(0, "a", "t2") == repeated
    assert collector.get(0, "a", "u1") is None


@given(st.lists(st.integers(0, 7), max_size=15), st.integers(1, 12), st.integers(1, 9))
def test_exactly_the_last_traces_are_kept_and_pages_miss_none(
    sizes: list[int], most: int, limit: int
) -> None:
    """Whatever the batches, the newest `max_traces` are found, once each, page by page."""
    collector = TraceCollector()
    collector.configure(0, "a", "1", {"max_traces": most})
    number = 0
    for size in sizes:
        add(collector, *range(number, number + size))
        number += size
    expected = [f"t{n}" for n in range(number - 1, max(-1, number - 1 - most), -1)]
    assert found(collector, {}, limit) == expected
    assert collector.status(0, "a")["traces"] == len(expected)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=30), st.integers(1, 100))
def test_bytes_never_exceed_their_bound(batches: list[bytes], room: int) -> None:
    """The newest batches that fit are kept, and dropped rows are named."""
    collector = TraceCollector()
    collector.configure(0, "a", "1", {"max_bytes": room})
    rows: dict[str, Any] = {}
    for packed in batches:
        collector.add(0, "a", 1, packed, {})
        for row in collector.take_changes().rows:
            if row.table == "batches":
                rows[row.key] = row.value
        kept = [value for value in rows.values() if value is not None]
        assert sum(len(value[1]) for value in kept) == collector.status(0, "a")["bytes"] <= room
        assert len(kept) == collector.status(0, "a")["batches"]


def test_pages_go_on_while_new_traces_arrive() -> None:
    """A cursor names a place, so that what comes later neither repeats nor hides anything."""
    collector = TraceCollector()
    add(collector, 1, 2, 3)
    page = collector.search(0, "a", {}, 2)
    add(collector, 4)
    rest = collector.search(0, "a", {}, 2, page.cursor)
    assert [one["trace_id"] for one in page.traces + rest.traces] == ["t3", "t2", "t1"]


def test_one_search_looks_at_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search for a needle gives empty pages with a cursor instead of holding up the host."""
    monkeypatch.setattr(trace_collector, "MAX_EXAMINED", 10)
    collector = TraceCollector()
    add(collector, *range(25))
    page = collector.search(0, "a", {"trace_id": "t3"}, 5)
    assert page.traces == ()
    assert page.cursor is not None
    assert found(collector, {"trace_id": "t3"}) == ["t3"]


def test_damaged_batch_hides_only_itself() -> None:
    """Bytes that are no traces are skipped."""
    collector = TraceCollector()
    add(collector, 1)
    collector.add(0, "a", 5, b"\xc1 damaged", {})
    collector.add(0, "a", 1, msgspec.msgpack.encode({"not": "a list"}), {})
    add(collector, 2)
    assert found(collector, {}) == ["t2", "t1"]
    assert collector.get(0, "a", "damaged") is None


def test_counters_add_up_over_all_callers() -> None:
    """Deltas of ints stay ints, those of floats are floats."""
    collector = TraceCollector()
    collector.add(0, "a", 0, b"", {"requests": 2, "seconds": 0.5})
    collector.add(0, "b", 0, b"", {"requests": 3, "seconds": 0.25})
    assert collector.counters(0, "a") == {"requests": 5, "seconds": 0.75}
    assert {row.key for row in collector.take_changes().rows} == {"requests", "seconds"}


def test_counter_names_are_bounded_and_nonsense_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A label that explodes costs its own series, no more; telemetry never fails a caller."""
    monkeypatch.setattr(trace_collector, "MAX_COUNTERS", 2)
    collector = TraceCollector()
    collector.add(0, "a", 0, b"", {"one": 1, "x" * 301: 1, "nan": float("nan"), "two": 2})
    collector.add(0, "a", 0, b"", {"three": 1, "two": 2**63})
    assert collector.counters(0, "a") == {"one": 1, "two": 2**63 - 1}
    assert collector.status(0, "a")["refused_counters"] == 3


@pytest.mark.parametrize(
    ("param", "policy"),
    [
        ("max_traces", {"max_traces": 0}),
        ("max_bytes", {"max_bytes": "1 GB"}),
        ("max_spans", {"max_spans": 1}),
    ],
)
def test_bad_policy_leaves_the_last_good_one_in_force(param: str, policy: dict[str, Any]) -> None:
    """The error names the field, and nothing has changed."""
    collector = TraceCollector()
    collector.configure(0, "a", "1", {"max_traces": 7})
    with pytest.raises(InvalidRequest) as caught:
        collector.configure(1, "a", "2", policy)
    assert caught.value.param == param
    assert collector.status(1, "a")["max_traces"] == 7
    assert collector.status(1, "a")["revision"] == "1"


def test_smaller_policy_takes_effect_at_once() -> None:
    """What is over the new bounds goes when it comes into force; the same one again is nothing."""
    collector = TraceCollector()
    for number in range(5):
        add(collector, number)
    collector.configure(0, "a", "1", {"max_traces": 2})
    assert found(collector, {}) == ["t4", "t3"]
    collector.take_changes()
    collector.configure(1, "a", "1", {"max_traces": 2})
    assert collector.take_changes().rows == []


@pytest.mark.parametrize(
    ("param", "arguments"),
    [
        ("limit", ({}, 0)),
        ("limit", ({}, 201)),
        ("cursor", ({}, 5, "elsewhere")),
        ("filters", ([], 5)),
        ("filters.since_ns", ({"since_ns": "today"}, 5)),
        ("filters.tags", ({"tags": "a=b"}, 5)),
    ],
)
def test_bad_search_is_refused_by_path(param: str, arguments: tuple[Any, ...]) -> None:
    """The error's `param` is the path of the field."""
    with pytest.raises(InvalidRequest) as caught:
        TraceCollector().search(0, "a", *arguments)
    assert caught.value.param == param


def test_reads_are_not_kept_for_resends() -> None:
    """A page of traces is asked for again rather than stored."""
    collector = TraceCollector()
    add(collector, 1)
    assert collector.keep(collector.search(0, "a", {})) == Gone()
    assert collector.keep(None) is None


STEPS = st.lists(
    st.one_of(
        st.integers(0, 4),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(-5, 5) | st.floats(0, 9)),
        st.tuples(st.integers(1, 9), st.integers(50, 2000)),
    ),
    max_size=25,
)


@given(STEPS)
def test_loaded_rows_equal_the_state_that_lived(steps: list[Any]) -> None:
    """I8: all rows ever handed out, loaded afresh, are the collector that lived."""
    lived = TraceCollector()
    rows: dict[tuple[str, str], object] = {}
    for now, step in enumerate(steps):
        if isinstance(step, int):
            add(lived, *range(now * 10, now * 10 + step))
        elif isinstance(step, dict):
            lived.add(now, "a", 0, b"", step)
        else:
            policy = {"max_traces": step[0], "max_bytes": step[1]}
            lived.configure(now, "a", str(now), policy)
        rows.update({(row.table, row.key): row.value for row in lived.take_changes().rows})
    fresh = TraceCollector()
    fresh.load(
        Row(table, key, msgspec.msgpack.decode(msgspec.msgpack.encode(value)))
        for (table, key), value in reversed(rows.items())
        if value is not None
    )
    assert fresh.status(0, "a") == lived.status(0, "a")
    assert fresh.counters(0, "a") == lived.counters(0, "a")
    assert found(fresh, {}) == found(lived, {})
    add(fresh, 999)
    add(lived, 999)
    assert fresh.take_changes() == lived.take_changes()
