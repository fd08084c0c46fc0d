"""Whatever bytes come: what reads them says so, and invents nothing."""

import asyncio
import contextlib
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from actors import wire
from actors.frames import CONSULT, Line
from actors.host import Host
from actors.limits import Take
from actors.outbox import Outbox, OutboxError, read
from actors.rate_limiter import RateLimiter

frames = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary(max_size=40)), max_size=5
)
cuts = st.lists(st.integers(1, 30), min_size=1, max_size=8)
HEAD = struct.Struct(">IBQ")
HOT = wire.readers(RateLimiter)


class Wire(asyncio.Transport):
    """The end of a connection, as far as a `Line` goes: whether it was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = False

    def abort(self) -> None:
        """See `asyncio.Transport`."""
        self.cut = True


def heard(content: bytes, cuts: list[int], most_bytes: int = 64) -> tuple[list[Any], bool]:
    """The frames that a line hears in bytes that arrive in such pieces; and whether it hung up."""
    found: list[Any] = []
    line = Line(lambda *frame: found.append(frame), lambda: None)
    line.most_bytes = most_bytes
    connection = Wire()
    line.connection_made(connection)
    at = number = 0
    while at < len(content) and not connection.cut:
        size = cuts[number % len(cuts)]
        line.data_received(content[at : at + size])
        at, number = at + size, number + 1
    return found, connection.cut


@given(frames=frames, cuts=cuts)
def test_frames_come_whole_however_they_are_cut(frames: list[Any], cuts: list[int]) -> None:
    """In their order, and the line stays."""
    content = b"".join(HEAD.pack(len(data), kind, n) + data for kind, n, data in frames)
    assert heard(content, cuts) == (frames, False)


@given(content=st.binary(max_size=300), cuts=cuts)
def test_other_bytes_end_a_line_or_are_frames(content: bytes, cuts: list[int]) -> None:
    """A length that is too great ends it; the pieces that bytes come in make no difference."""
    found, cut = heard(content, cuts)
    assert (found, cut) == heard(content, [1])
    assert all(len(payload) <= 64 for _, _, payload in found)
    at = sum(HEAD.size + len(payload) for _, _, payload in found)
    rest = content[at:]
    assert cut == (len(rest) >= HEAD.size and HEAD.unpack_from(rest)[0] > 64)


def mutated(content: bytes, data: st.DataObject) -> bytes:
    """With some bytes changed, put in, or taken out; perhaps cut off."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        how = data.draw(st.sampled_from(["set", "set", "insert", "remove", "cut"]))
        if how == "set" and changed:
            changed[at] = data.draw(st.integers(0, 255))
        elif how == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif how == "remove":
            del changed[at : at + data.draw(st.integers(1, 9))]
        else:
            del changed[at:]
    return bytes(changed)


def unpickles(payload: bytes) -> bool:
    """Whether reading it would run pickle, which is for those who know the word."""
    try:
        return any(not group[1] for group in wire._batch(payload)[2])
    except ValueError:
        return False


BATCH = wire.pack_batch(
    "a.1",
    1,
    [
        ("acquire", ("t1", (Take("r", "", 1),), 1, 0)),
        ("settle", ("t1", None)),
        ("acquire", ("t2", (Take("r", "x", 2),), 1, 5)),
        ("undo", ("t2",)),
    ],
)


@given(data=st.data(), anything=st.none() | st.binary(max_size=60))
def test_what_is_no_batch_is_told_by_a_stated_error(
    data: st.DataObject, anything: bytes | None
) -> None:
    """What comes out otherwise are commands of this mechanism, or words of what is wrong."""
    payload = mutated(BATCH, data) if anything is None else anything
    assume(not unpickles(payload))
    try:
        _, _, items = wire.unpack_batch(payload, HOT)
    except (ValueError, IndexError):
        return
    for item in items:
        assert item is None or type(item[1]) is wire.Unreadable or item[0] in HOT


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host as it is, on a disk."""
    path = tmp_path_factory.mktemp("host") / "rate_limiter.sqlite"
    made = Host("actors.rate_limiter:RateLimiter", str(path), "test")
    made._awake = True
    return made


@given(data=st.data())
def test_a_host_outlives_what_is_no_batch(host: Host, data: st.DataObject) -> None:
    """Whoever comes next is answered, and nothing is left behind by what was refused."""
    payload = mutated(BATCH, data)
    assume(not unpickles(payload))
    with contextlib.suppress(Exception):  # the door answers every one of them with BROKEN
        host.consult(payload)
    name = f"next.{random.random()}"
    reply = wire.unpack_reply(host.consult(wire.pack_batch(name, 1, [("status", ())])))
    assert not isinstance(reply.replies, tuple)
    assert reply.replies[0]["waiting"] == 0


said = st.lists(
    st.tuples(st.sampled_from(["started", "ended", "acknowledged"]), st.integers(0, 3)), max_size=8
)


def written(folder: Path, said: list[tuple[str, int]]) -> tuple[bytes, dict[str, list[Any]]]:
    """An outbox's file without its zeros, and all that was ever said of each call."""
    outbox = Outbox(folder)
    known: dict[str, list[Any]] = {}
    for number, (word, call) in enumerate(said):
        id = f"call-{call}"
        if word == "acknowledged":
            outbox.acknowledged(id)
            continue
        how = ("reserved", number) if word == "started" else ("post", number, [1, 0, 2, 0], False)
        getattr(outbox, word)(id, how)
        known.setdefault(id, []).append((word == "ended", list(how)))
    assert outbox._calls is not None
    content = outbox.path.read_bytes()[: outbox._calls.size]
    outbox._live.clear()
    outbox.close()
    return content, known


@given(said=said, cut=st.integers(0, 500), zeros=st.integers(0, 20))
def test_a_torn_outbox_is_one_of_a_moment_before(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, int]], cut: int, zeros: int
) -> None:
    """Cut off anywhere, it is what was said up to there."""
    folder = tmp_path_factory.mktemp("outbox")
    content, _ = written(folder, said)
    states = []
    path = folder / "torn.calls"
    for upto in range(len(said) + 1):
        path.write_bytes(written(folder, said[:upto])[0])
        states.append(read(path))
    path.write_bytes(content[:cut] + bytes(zeros))
    try:
        assert read(path) in states
    except OutboxError:
        # Nothing had been said yet.
        assert zeros
        assert cut < len(b"raygate outbox 1\n")


@given(said=said, data=st.data())
def test_a_damaged_outbox_invents_nothing(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Each entry that it still has is one that was written; else it is an OutboxError."""
    folder = tmp_path_factory.mktemp("outbox")
    content, known = written(folder, said)
    path = folder / "damaged.calls"
    path.write_bytes(mutated(content, data))
    try:
        entries = read(path)
    except OutboxError:
        return
    for entry in entries:
        assert (entry.ended, entry.how) in known[entry.charge_id]


@given(payload=st.binary(min_size=1, max_size=30))
def test_a_sound_record_of_another_shape_is_an_outbox_error(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes
) -> None:
    """A later version may write one: its file is left alone, and nobody breaks over it."""
    path = tmp_path_factory.mktemp("outbox") / "later.calls"
    head = struct.pack("<II", len(payload), zlib.crc32(payload))
    path.write_bytes(b"raygate outbox 1\n" + head + payload)
    with pytest.raises(OutboxError):
        read(path)


def test_the_kinds_of_frames_are_known() -> None:
    """A frame of another kind is heard as well; who listens decides."""
    assert heard(HEAD.pack(0, CONSULT, 1), [5]) == ([(CONSULT, 1, b"")], False)
