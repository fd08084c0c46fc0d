"""What is said of a run of chaos."""

import random
from collections import Counter
from itertools import islice

from benchmarks.chaos.faults import Struck
from benchmarks.chaos.run import Run, order, recovery
from benchmarks.chaos.table import markdown, rows
from benchmarks.strict.evidence import CLOSED
from tests.benchmarks.evidence_of import BEGAN, S, asked, cell

NODE = Struck("node killed", "8 singletons", BEGAN + S, BEGAN + 5 * S, {"key_store": 3.0})
KILL = Struck("singleton killed", "key_store", BEGAN + 6 * S, BEGAN + 7 * S, {"key_store": 1.5})


def test_a_seed_draws_the_same_faults_and_each_as_often() -> None:
    """Every round has each of them, in another order."""
    names = ["a", "b", "c", "d"]
    drawn = list(islice(order(random.Random(1), names), 12))
    assert drawn == list(islice(order(random.Random(1), names), 12))
    assert Counter(drawn) == dict.fromkeys(names, 3)
    assert drawn[:4] != drawn[4:8]


def test_requests_are_counted_with_the_faults_that_they_met() -> None:
    """One that was over before, or came after, is none of a fault's."""
    met = [asked("ample", 0.7), asked("ample", 4.0, CLOSED)]
    run = Run(1, [NODE, KILL], evidence=cell("chaos", asked=(*met, asked("ample", 5.5))))
    by_fault = {row[0]: row for row in rows(run)}
    assert by_fault["node killed"][1:4] == ("1", "2", "1")
    assert by_fault["singleton killed"][2:6] == ("1", "0", "0.5", "1.5 / 1.5")
    assert "Seed 1" in markdown(run)


def test_a_singleton_that_is_away_for_too_long_is_a_broken_promise() -> None:
    """Three seconds after a kill, fifteen after the loss of a node."""
    assert recovery([NODE, KILL]).breaches == []
    late = KILL._replace(back_s={"key_store": 3.1})
    lost = NODE._replace(back_s={"key_store": 15.1, "rate_limiter": 1.0})
    assert [(one.invariant, one.times) for one in recovery([late, lost]).breaches] == [
        ("I9", 1),
        ("I9", 1),
    ]
