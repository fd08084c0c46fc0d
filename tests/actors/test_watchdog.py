import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.watchdog import HANGING_NS, STOPPED_NS, Note, Seen, Watchdog, frozen, seen

S = 1_000_000_000
NOW = 100 * S


@pytest.mark.parametrize(
    ("age_ns", "state", "expected"),
    [
        (STOPPED_NS, "T", False),
        (STOPPED_NS + 1, "T", True),
        (STOPPED_NS + 1, "t", True),
        (STOPPED_NS + 1, "S", False),
        (HANGING_NS + 1, "R", True),
        (HANGING_NS + 1, "D", True),
    ],
)
def test_who_is_frozen(age_ns: int, state: str, expected: bool) -> None:
    """Stopped for a moment, or silent for long."""
    assert frozen(Note(1, 7, NOW - age_ns), Seen(state, 7), NOW) is expected


def test_a_process_that_has_taken_the_number_of_another_is_left_alone() -> None:
    """A dead one's note does not condemn who came after it."""
    assert not frozen(Note(1, 7, 0), Seen("T", 8), NOW)
    assert not frozen(Note(1, 7, 0), None, NOW)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """Another process."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def note_of(pid: int, age_ns: int) -> bytes:
    """What a host would have noted."""
    process = seen(pid)
    assert process is not None
    return b"%d %d %d\n" % (pid, process.began, time.monotonic_ns() - age_ns)


def test_a_stopped_process_is_killed(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    """And one that is not stopped is not."""
    watchdog = Watchdog(tmp_path, "mine")
    note = tmp_path / "other.alive"
    note.write_bytes(note_of(sleeper.pid, 4 * S))
    watchdog.look()
    assert sleeper.poll() is None
    os.kill(sleeper.pid, signal.SIGSTOP)
    give_up = time.monotonic() + 5
    while seen(sleeper.pid).state != "T":  # type: ignore[union-attr]
        assert time.monotonic() < give_up
    watchdog.look()
    assert sleeper.wait(5) == -signal.SIGKILL


def test_whoever_was_away_itself_judges_nobody(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sleep of the machine all notes are old."""
    watchdog = Watchdog(tmp_path, "mine")
    (tmp_path / "other.alive").write_bytes(note_of(sleeper.pid, 4 * S))
    os.kill(sleeper.pid, signal.SIGSTOP)
    later = time.monotonic_ns() + 60 * S
    monkeypatch.setattr(time, "monotonic_ns", lambda: later)
    watchdog.look()
    assert sleeper.poll() is None


def test_its_own_note_and_what_is_no_note_condemn_nobody(tmp_path: Path) -> None:
    """Half a note, or somebody else's file."""
    watchdog = Watchdog(tmp_path, "mine")
    watchdog.beat()
    (tmp_path / "other.alive").write_bytes(b"12")
    watchdog.look()
    pid, began, _ = (tmp_path / "mine.alive").read_bytes().split()
    assert (int(pid), seen(os.getpid())) == (os.getpid(), Seen("R", int(began)))
