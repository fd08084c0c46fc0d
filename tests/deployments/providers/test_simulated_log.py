from pathlib import Path

from deployments.providers.simulated_log import CallLog, join, read_calls

LIMIT = 10**9


def log_at(path: Path, max_bytes: int = LIMIT) -> CallLog:
    """A log that knows two models."""
    return CallLog(path, max_bytes, ["a", "b"])


def test_a_call_is_joined_from_its_beginning_and_its_end(tmp_path: Path) -> None:
    """What was asked, what was billed and how it ended come back as one record."""
    log = log_at(tmp_path / "deep" / "calls.jsonl")
    call = log.begin("c1", 42, True, "a", True)
    call.input_tokens, call.output_tokens = 5, 7
    call.outcome, call.status = "ok", 200
    log.end(call)
    log.close()
    (record,) = read_calls(log.path)
    assert record.charge_id == "c1"
    assert (record.admitted_ns, record.probe, record.model, record.stream) == (42, True, "a", True)
    assert (record.outcome, record.status) == ("ok", 200)
    assert (record.input_tokens, record.output_tokens) == (5, 7)
    assert record.ended_ns is not None
    assert record.started_ns <= record.ended_ns


def test_a_killed_provider_leaves_its_open_calls_on_record(tmp_path: Path) -> None:
    """A call without an end is known; a torn line costs only itself, also when appended to."""
    path = tmp_path / "calls.jsonl"
    first = log_at(path)
    first.begin("open", None, False, "a", False)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"event":"started","id":"torn')
    second = log_at(path)
    second.end(second.begin("later", None, False, "a", False))
    second.close()
    records = read_calls(path)
    assert [(r.charge_id, r.outcome) for r in records] == [("open", None), ("later", "client_gone")]
    assert len({r.id for r in records}) == 2


def test_calls_and_probes_in_flight_are_counted_by_model(tmp_path: Path) -> None:
    """The counts at a call's start are those of its model; the peaks are kept until reset."""
    log = log_at(tmp_path / "calls.jsonl")
    one = log.begin("1", None, True, "a", False)
    two = log.begin("2", None, True, "a", False)
    other = log.begin("3", None, False, "b", False)
    log.end(one)
    log.end(log.begin("4", None, True, "a", False))
    stats = log.stats()
    assert [(r.in_flight, r.probes_in_flight) for r in read_calls(log.path)] == [
        (1, 1),
        (2, 2),
        (1, 0),
        (2, 2),
    ]
    assert (stats["calls"], stats["in_flight"], stats["max_in_flight"]) == (4, 2, 3)
    assert (stats["probes_in_flight"], stats["max_probes_in_flight"]) == (1, 2)
    assert stats["models"]["b"]["max_in_flight"] == 1
    log.reset()
    stats = log.stats()
    assert (stats["calls"], stats["outcomes"]) == (0, {})
    assert (stats["in_flight"], stats["max_in_flight"]) == (2, 2)
    log.end(two)
    log.end(other)
    assert log.stats()["in_flight"] == 0
    log.close()


def test_pages_put_together_are_the_file(tmp_path: Path) -> None:
    """Paging misses nothing, repeats nothing, and notices that the file was replaced."""
    log = log_at(tmp_path / "calls.jsonl")
    for i in range(5):
        log.end(log.begin(str(i), None, False, "a", False))
    pages, after = [], 0
    while True:
        page, after = log.page(after, 3)
        if not page:
            break
        assert page.count(b"\n") <= 3
        pages.append(page)
    assert b"".join(pages) == log.path.read_bytes()
    assert len(join(b"".join(pages).splitlines())) == 5
    assert log.page(10**9, 1)[0] == log.path.read_bytes().splitlines(keepends=True)[0]
    log.close()


def test_the_file_is_bounded_and_a_call_across_the_seam_is_still_whole(tmp_path: Path) -> None:
    """A full file is set aside once, and reading takes both."""
    log = log_at(tmp_path / "calls.jsonl", max_bytes=400)
    call = log.begin("across", None, False, "a", False)
    log.end(log.begin("x", None, False, "a", False))
    log.end(call)
    log.close()
    assert (tmp_path / "calls.jsonl.1").exists()
    assert [r.outcome for r in read_calls(log.path)] == ["client_gone", "client_gone"]
