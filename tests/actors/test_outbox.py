import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import appended_file, filesystems
from actors import outbox as module
from actors.charges import Facts, Usage
from actors.errors import InvalidRequest
from actors.outbox import Entry, Outbox, OutboxError, read, seize

ROOT = Path(__file__).resolve().parents[2]
FACTS = Facts("k", "t", "u", "m", "p/m", "v1", {"tag": "ä"})
LEASED = ("leased", ("owner", "c", ("b|d|",), 10, 10, 10, Usage(1, 0, 2, 0), FACTS, True, "d"))


def size(outbox: Outbox) -> int:
    """Of what is in its file, without the room behind it."""
    assert outbox._calls is not None
    return outbox._calls.size


def lists(value: Any) -> Any:
    """As it comes back: tuples have become lists."""
    return [lists(part) for part in value] if isinstance(value, tuple | list) else value


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    """An outbox in a folder that is made for it."""
    made = Outbox(tmp_path / "deep" / "outbox")
    yield made
    made.close()


def test_what_was_started_and_ended_is_read_until_it_is_acknowledged(outbox: Outbox) -> None:
    """In the order of starting; the last word on a call counts."""
    outbox.started("a", ("reserved", 7))
    outbox.started("b", LEASED)
    outbox.started("c", ("reserved", 9))
    outbox.ended("a", ("post", 5, Usage(1, 0, 2, 0), False))
    outbox.acknowledged("c")
    outbox.acknowledged("never heard of")
    assert read(outbox.path) == [
        Entry("a", True, ["post", 5, [1, 0, 2, 0], False]),
        Entry("b", False, lists(LEASED)),
    ]
    assert len(outbox) == 2


def test_a_clean_end_leaves_no_file(outbox: Outbox) -> None:
    """I12: and what is not acknowledged stays, free to be looked after."""
    folder = outbox.path.parent
    other = Outbox(folder)
    other.started("a", ("reserved", 1))
    assert not other.close()
    outbox.started("a", ("reserved", 1))
    outbox.ended("a", ("void",))
    outbox.acknowledged("a")
    assert outbox.close()
    left = {other.path, other.path.with_suffix(".lock")}
    assert set(folder.iterdir()) == left
    seized = seize(other.path)
    assert seized is not None
    seized.remove()
    seized.release()
    assert list(folder.iterdir()) == []


def test_after_its_end_nothing_starts(outbox: Outbox) -> None:
    """And ending twice does no harm to a file that has its number by then."""
    assert outbox.close()
    with (outbox.path.parent / "another").open("wb") as other:
        assert outbox.close()
        with pytest.raises(OSError, match="Bad file"):
            outbox.started("a", ("reserved", 1))
        assert other.tell() == 0
    assert (outbox.path.parent / "another").read_bytes() == b""


def test_owners_are_new_with_each_outbox(outbox: Outbox) -> None:
    """32 hex characters, no dot in them: a caller's name goes on behind one."""
    other = Outbox(outbox.path.parent)
    assert other.owner != outbox.owner
    assert len(other.owner) == len(bytes.fromhex(other.owner)) * 2 == 32
    other.close()


def test_nobody_else_reads_what_is_in_it(outbox: Outbox) -> None:
    """It holds users' names and tags."""
    assert {file.stat().st_mode & 0o077 for file in outbox.path.parent.iterdir()} == {0}
    assert outbox.path.parent.stat().st_mode & 0o077 == 0


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the folder, what it is on, and what to do; nothing is written there."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nfiler:/ {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(filesystems, "_MOUNTS", mounts)
    with pytest.raises(OutboxError, match="local disk") as caught:
        Outbox(tmp_path / "outbox")
    assert str(tmp_path / "outbox") in str(caught.value)
    assert "nfs4" in str(caught.value)
    assert list((tmp_path / "outbox").iterdir()) == []


@pytest.mark.parametrize("bad", [("x", "\ud800"), ("x", 1 << 70), ("x", object())])
def test_what_cannot_be_written_down_must_not_start(outbox: Outbox, bad: Any) -> None:
    """It is refused as the client's mistake, and leaves no entry."""
    with pytest.raises(InvalidRequest):
        outbox.started("a", bad)
    assert len(outbox) == 0
    assert read(outbox.path) == []


# A process that dies.

CHILD = """
import sys
from pathlib import Path
from actors.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
for number in range(1000):
    outbox.started(f"s{number}", ("reserved", number))
    if number % 2:
        outbox.ended(f"s{number}", ("post", number, (1, 0, 1, 0), False))
    if number % 4 == 3:
        outbox.acknowledged(f"s{number}")
print(outbox.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that holds an outbox, and that outbox."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdin is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait(10)
    process.stdin.close()
    process.stdout.close()


def test_the_lock_tells_that_a_process_lives(child: tuple[subprocess.Popen[str], Path]) -> None:
    """Running or frozen it keeps it; killed -9 it does not, and every record can be read."""
    process, path = child
    assert seize(path) is None
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert seize(path) is None
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    seized = seize(path)
    assert seized is not None
    assert seize(path) is None, "one looks after it at a time"
    expected = [
        Entry(f"s{n}", True, ["post", n, [1, 0, 1, 0], False])
        if n % 2
        else Entry(f"s{n}", False, ["reserved", n])
        for n in range(1000)
        if n % 4 != 3
    ]
    assert read(path) == expected
    seized.release()
    again = seize(path)
    assert again is not None
    again.remove()
    again.release()
    with pytest.raises(FileNotFoundError):
        seize(path)
    assert read(path) == []


def test_a_lock_that_was_removed_under_us_is_none(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our opening of it and our locking, another one has finished."""
    outbox.started("a", ("reserved", 1))
    outbox.close()
    lock = module.fcntl.flock

    def late(file: int, how: int) -> None:
        outbox.path.with_suffix(".lock").unlink()
        lock(file, how)

    monkeypatch.setattr(module.fcntl, "flock", late)
    with pytest.raises(FileNotFoundError):
        seize(outbox.path)


# What death leaves.


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_torn_tail_is_no_record(outbox: Outbox, tmp_path: Path, room: int) -> None:
    """Cut at every byte: all whole records before it are read, and nothing else is.

    room: zeros behind it, as there are when its writer has died within the copying.
    """
    sizes, known = [], []
    for number in range(4):
        sizes.append(size(outbox))
        known.append(read(outbox.path))
        outbox.started(f"s{number}", LEASED)
        if number == 2:
            outbox.acknowledged("s0")
    content = outbox.path.read_bytes()[: size(outbox)]
    torn = tmp_path / "torn.calls"
    for end in range(sizes[2], len(content)):
        torn.write_bytes(content[:end] + bytes(room))
        found = read(torn)
        whole = sum(size <= end for size in sizes) - 1
        if whole == 2:
            # The record of s2, and behind it the one that ends s0.
            assert found in (known[2], [*known[2], Entry("s2", False, lists(LEASED))])
        else:
            assert found == known[whole]
    for end in range(sizes[0] + 1):
        torn.write_bytes(content[:end])
        assert read(torn) == []


def test_a_tail_of_zeros_is_no_record(outbox: Outbox) -> None:
    """As some file systems leave it after a power cut."""
    outbox.started("a", ("reserved", 1))
    with outbox.path.open("ab") as file:
        file.write(bytes(100))
    assert read(outbox.path) == [Entry("a", False, ["reserved", 1])]


def test_a_damaged_record_is_lost_alone(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    """The ones behind it are read, and the loss is logged."""
    outbox.started("a", ("reserved", 1))
    middle = size(outbox)
    outbox.started("b", ("reserved", 2))
    outbox.started("c", ("reserved", 3))
    content = bytearray(outbox.path.read_bytes())
    content[middle + 10] ^= 1
    damaged = outbox.path.with_suffix(".damaged")
    damaged.write_bytes(content)
    assert [entry.charge_id for entry in read(damaged)] == ["a", "c"]
    assert "damaged" in caplog.text


def test_another_format_is_an_error(tmp_path: Path) -> None:
    """Of a later version, perhaps: better left alone than misread."""
    (tmp_path / "x.calls").write_bytes(b"raygate outbox 2\n")
    with pytest.raises(OutboxError, match="version"):
        read(tmp_path / "x.calls")


# A disk that is full.


class FullDisk:
    """Promises no more room while it is full."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.full = False
        self._promise = os.posix_fallocate
        patch.setattr(appended_file.os, "posix_fallocate", self.promise)

    def promise(self, file: int, offset: int, length: int) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self._promise(file, offset, length)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Outbox]:
    """An outbox that soon needs more room, and is never made smaller by itself."""
    made = Outbox(tmp_path / "small", compact_bytes=400)
    made._limit = 1 << 30
    yield made
    made.close()


def test_what_cannot_be_written_is_not_started(
    small: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not stand in the way of what is written when there is room again."""
    disk = FullDisk(monkeypatch)
    small.started("a", ("reserved", 1))
    disk.full = True
    for _ in range(2):
        with pytest.raises(OSError, match="space"):
            small.started("b", ("reserved", "x" * 200))
    assert len(small) == 1
    disk.full = False
    small.started("c", ("reserved", "x" * 200))
    assert [entry.charge_id for entry in read(small.path)] == ["a", "c"]


def test_an_end_that_cannot_be_written_is_not_the_requests_trouble(
    small: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The call is over in any case; the file is behind until it is made smaller."""
    disk = FullDisk(monkeypatch)
    small.started("a", ("reserved", 1))
    small.started("b" * 100, ("reserved", 1))
    disk.full = True
    small.ended("a", ("void", "x" * 200))
    small.acknowledged("b" * 100)
    assert [(entry.charge_id, entry.ended) for entry in read(small.path)] == [
        ("a", False),
        ("b" * 100, False),
    ]
    assert [one.levelno for one in caplog.records] == [logging.ERROR] * 2
    assert len(small) == 1
    disk.full = False
    assert small._calls is not None
    small._compact(small._calls)
    assert read(small.path) == [Entry("a", True, ["void", "x" * 200])]


def test_a_compaction_that_fails_changes_nothing(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again when the file has grown; the same file goes on meanwhile."""
    small = Outbox(outbox.path.parent, compact_bytes=200)

    def call(number: int) -> None:
        small.started(f"{number}", ("reserved", 1))
        small.acknowledged(f"{number}")

    small.started("kept", ("reserved", 1))
    rename = os.rename

    def no_room(*names: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "rename", no_room)
    for number in range(20):
        call(number)
    assert size(small) > 400
    assert read(small.path) == [Entry("kept", False, ["reserved", 1])]
    monkeypatch.setattr(module.os, "rename", rename)
    for number in range(20):
        call(number)
    assert size(small) < 400
    assert read(small.path) == [Entry("kept", False, ["reserved", 1])]
    assert not small.close()


# Any sequence.

words = st.sampled_from(["started", "started", "ended", "acknowledged"])


@settings(deadline=None)
@given(st.lists(st.tuples(words, st.integers(0, 5)), max_size=80), st.integers(0, 600))
def test_the_file_is_what_was_said(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, int]], limit: int
) -> None:
    """I8: after each word and each compaction the file has exactly the live entries."""
    outbox = Outbox(tmp_path_factory.mktemp("outbox"), compact_bytes=limit)
    expected: dict[str, Entry] = {}
    for number, (word, which) in enumerate(said):
        id = f"id{which}"
        if word == "started":
            outbox.started(id, ("reserved", number))
            expected[id] = Entry(id, False, ["reserved", number])
        elif word == "ended":
            outbox.ended(id, ("post", number, "x" * 20))
            expected[id] = Entry(id, True, ["post", number, "x" * 20])
        else:
            outbox.acknowledged(id)
            expected.pop(id, None)
        assert {entry.charge_id: entry for entry in read(outbox.path)} == expected
        assert len(outbox) == len(expected)
    if said and said[-1][0] == "acknowledged":
        # Live entries are at most six of about 60 bytes.
        assert size(outbox) <= max(limit, 2 * 6 * 70) + 70
    assert outbox.close() == (not expected)
    assert {file.suffix for file in outbox.path.parent.iterdir()} <= {".lock", ".calls"}


def test_a_file_is_made_smaller_under_load(tmp_path: Path) -> None:
    """A million calls do not make a file of a million: it stays below twice its limit."""
    outbox = Outbox(tmp_path, compact_bytes=20_000)
    for number in range(3_000):
        outbox.started(f"{number}", ("reserved", number))
        if number >= 10:
            outbox.ended(f"{number - 10}", ("void",))
            outbox.acknowledged(f"{number - 10}")
        assert outbox.path.stat().st_size < 40_000
    assert [entry.charge_id for entry in read(outbox.path)] == [f"{n}" for n in range(2990, 3000)]
    outbox.close()


def test_who_died_before_anybody_knew_him_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    """Its lock is free and it says nothing: its files go. Who has something to say is kept."""
    silent, busy = Outbox(tmp_path), Outbox(tmp_path)
    busy.started("c", ("reserved", 5))
    left = [one.path.with_suffix(end) for one in (silent, busy) for end in (".calls", ".lock")]
    for one in (silent, busy):
        # As a kill does it.
        os.close(one._lock)
    for path in left:
        os.utime(path, (0, 0))
    fresh = Outbox(tmp_path)
    assert [path.exists() for path in left] == [False, False, True, True]
    assert fresh.path.exists()
    fresh.close()
    for one in (silent, busy):
        assert one._calls is not None
        one._calls.close()


def test_the_living_are_never_cleared_away(tmp_path: Path) -> None:
    """However old its files are."""
    alive = Outbox(tmp_path)
    for path in (alive.path, alive.path.with_suffix(".lock")):
        os.utime(path, (0, 0))
    Outbox(tmp_path).close()
    assert alive.path.exists()
    assert alive.path.with_suffix(".lock").exists()
    alive.close()


def test_where_disks_copy_on_write_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapping would end this process when such a disk is full; what is read is the same."""
    monkeypatch.setattr(appended_file, "filesystem_of", lambda path: "btrfs")
    made = Outbox(tmp_path / "cow", compact_bytes=400)
    assert isinstance(made._calls, appended_file.WrittenFile)
    for number in range(20):
        made.started(f"c{number}", ("reserved", number))
        if number % 2:
            made.ended(f"c{number}", ("void",))
            made.acknowledged(f"c{number}")
    found = [(entry.charge_id, entry.how) for entry in read(made.path)]
    assert found == [(f"c{number}", ["reserved", number]) for number in range(0, 20, 2)]
    made.close()


def test_a_write_that_was_cut_off_is_written_over(tmp_path: Path) -> None:
    """A full disk takes the beginning of a record; the next one takes its place."""
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    made = appended_file.WrittenFile(file)
    made.append(b"first ")
    with pytest.MonkeyPatch.context() as patch:
        write = os.pwrite
        patch.setattr(appended_file.os, "pwrite", lambda file, data, at: write(file, data[:3], at))
        with pytest.raises(OSError, match="space"):
            made.append(b"torn off")
    made.append(b"second")
    assert (tmp_path / "file").read_bytes()[: made.size] == b"first second"
    made.close()


def test_an_outbox_that_can_not_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither files nor the room that they had got so far."""
    disk = FullDisk(monkeypatch)
    disk.full = True
    with pytest.raises(OSError, match="space"):
        Outbox(tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def test_the_last_of_a_disk_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room to spare, a record takes just its own."""
    promise = os.posix_fallocate

    def scarce(file: int, offset: int, length: int) -> None:
        if length > 1000:
            raise OSError(28, "No space left on device")
        promise(file, offset, length)

    monkeypatch.setattr(appended_file.os, "posix_fallocate", scarce)
    made = Outbox(tmp_path / "scarce")
    made.started("a", ("reserved", 1))
    assert [entry.charge_id for entry in read(made.path)] == ["a"]
    made.close()


def test_a_file_that_could_not_be_put_in_place_is_removed(
    small: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often that is tried, and the outbox goes on with the file that it has."""
    before = len(os.listdir("/proc/self/fd"))
    small.started("a", ("reserved", 1))

    def refuse(old: Path, new: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module.os, "rename", refuse)
    for _ in range(3):
        assert small._calls is not None
        small._compact(small._calls)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not small.path.with_suffix(".new").exists()
    small.started("b", ("reserved", 1))
    assert [entry.charge_id for entry in read(small.path)] == ["a", "b"]
