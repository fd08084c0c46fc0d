"""Hosts of one machine look after each other: one that is frozen is killed, and Ray restarts it.

Ray does not notice a process that is stopped, and a stopped process keeps the lock of its store,
so that nobody can go on in its place. Each host notes twice a second that it lives, in a file of
its own beside its store; each reads the notes of all the others.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple

STOPPED_NS = 2_500_000_000
"""So long a process may be stopped."""

HANGING_NS = 30_000_000_000
"""So long one that is not stopped may say nothing: a disk may take its time, or a start."""

_BEAT_S = 0.5
_LATE_NS = 1_500_000_000
_NOTE = re.compile(rb"(\d+) (\d+) (\d+)\n")

log = logging.getLogger(__name__)


class Note(NamedTuple):
    """A sign of life. began: of the process, in the kernel's ticks, so that it is that one.

    at_ns: on the machine's monotonic clock, which all of its processes share.
    """

    pid: int
    began: int
    at_ns: int


class Seen(NamedTuple):
    """What the kernel says of a process. state: "T" where it is stopped."""

    state: str
    began: int


def seen(pid: int) -> Seen | None:
    """What the kernel says of a process; None where there is none, or nothing is known."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Seen(words[0], int(words[19]))


def frozen(note: Note, process: Seen | None, now_ns: int) -> bool:
    """Whether the process that wrote this has to be killed."""
    if process is None or process.began != note.began:
        return False
    silent_ns = now_ns - note.at_ns
    return silent_ns > (STOPPED_NS if process.state in "Tt" else HANGING_NS)


class Watchdog:
    """Shows that this process lives, and looks after the others.

    folder: of the stores. host: the name of this one.
    """

    def __init__(self, folder: Path, host: str) -> None:
        self._folder = folder
        self._file = folder / f"{host}.alive"
        mine = seen(os.getpid())
        self._began = mine.began if mine is not None else None
        self._looked_ns = time.monotonic_ns()

    async def run(self) -> None:
        """Go on for as long as the process lives."""
        if self._began is None:
            log.warning("this system does not tell of processes: frozen hosts stay unnoticed")
            return
        while True:
            try:
                self.beat()
                self.look()
            except OSError as error:
                log.warning("hosts can't look after each other: %s", error)
            await asyncio.sleep(_BEAT_S)

    def beat(self) -> None:
        """Note that this process lives."""
        note = b"%d %d %d\n" % (os.getpid(), self._began or 0, time.monotonic_ns())
        # Of one length for as long as the process lives, so that no reader sees half of two.
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, note.ljust(64), 0)
        finally:
            os.close(descriptor)

    def look(self) -> None:
        """Kill those that are frozen."""
        now_ns = time.monotonic_ns()
        late = now_ns - self._looked_ns > _LATE_NS
        self._looked_ns = now_ns
        if late:
            # It was this process that was away, and perhaps all of the machine.
            return
        for file in self._folder.glob("*.alive"):
            found = _NOTE.match(file.read_bytes()) if file != self._file else None
            if found is None:
                continue
            note = Note(*map(int, found.groups()))
            if frozen(note, seen(note.pid), now_ns):
                log.error("%s is frozen (process %d), and is killed", file.stem, note.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(note.pid, signal.SIGKILL)
