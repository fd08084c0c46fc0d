"""The short form of `python -m benchmarks.chaos`: some of its faults, each once, in one run."""

from benchmarks.chaos.run import chaos

FAULTS = (
    "replica killed",
    "singleton killed",
    "standby killed",
    "HAProxy killed",
    "node killed",
    "code changed",
)


def test_whatever_is_killed_and_while_code_changes_the_promises_hold() -> None:
    """I1 to I5, I9, I11, I12 by the provider's count; three nodes, each with its own disk."""
    run = chaos(seed=5, seconds=None, only=FAULTS, replicas=2, patience=4.0)
    figures = run.findings.figures
    assert sorted(one.fault for one in run.struck) == sorted(FAULTS)
    assert run.findings.breaches == [], run.findings
    assert figures["requests"] > 500
    assert figures["calls"] > 300
