"""A file that is appended to, for who appends at every step.

On most file systems by copying into memory: the file is mapped, with room behind what is in it
that the disk has promised beforehand. A copy costs a tenth of what a write costs, and is as
safe: what has been copied is the kernel's, and outlives this process. Where a disk's promise is
for the first write of a block only (those that copy on write), by writing.
"""

import errno
import mmap
import os
from pathlib import Path
from typing import Protocol

from actors.filesystems import filesystem_of

# Where a block that was written once can be written again, however full the disk is. Elsewhere
# a mapping that finds no room ends the process that uses it.
_OVERWRITING = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})


class AppendedFile(Protocol):
    """size: of what is in it."""

    size: int

    def append(self, content: bytes) -> None:
        """Add this, in whole; where there is no room, raise OSError and add nothing."""

    def close(self) -> None:
        """Let go of the file."""


def appended_file(path: Path, content: bytes, step: int) -> AppendedFile:
    """A new file with this content, in the place of any other at `path`.

    step: so much room is made at once, where that helps; zeros, until something is appended.
    Raises OSError where there is no room, and leaves no file then.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        made: AppendedFile
        if filesystem_of(path.parent.resolve()) in _OVERWRITING:
            made = MappedFile(file, step)
        else:
            made = WrittenFile(file)
        made.append(content)
    except BaseException:
        os.close(file)
        path.unlink(missing_ok=True)
        raise
    return made


class MappedFile:
    """See the module's docstring. file: open, empty, this object's from now on."""

    def __init__(self, file: int, step: int) -> None:
        self.size = 0
        self._file = file
        self._step = step
        self._room: mmap.mmap | None = None

    def append(self, content: bytes) -> None:
        """See `AppendedFile`."""
        end = self.size + len(content)
        if self._room is None or end > len(self._room):
            self._room = self._made_room(end)
        self._room[self.size : end] = content
        self.size = end

    def close(self) -> None:
        """See `AppendedFile`."""
        if self._room is not None:
            self._room.close()
        os.close(self._file)

    def _made_room(self, bytes: int) -> mmap.mmap:
        """The file in memory, with room for so much and, if the disk has it, some more."""
        before = os.fstat(self._file).st_size
        for length in (bytes + self._step, bytes):
            try:
                os.posix_fallocate(self._file, 0, length)
            except OSError:
                # What it got until then is given back: others need it.
                os.ftruncate(self._file, before)
                if length == bytes:
                    raise
            else:
                break
        return mmap.mmap(self._file, length)


class WrittenFile:
    """See the module's docstring. file: open, empty, this object's from now on."""

    def __init__(self, file: int) -> None:
        self.size = 0
        self._file = file

    def append(self, content: bytes) -> None:
        """See `AppendedFile`."""
        # At its place, so that what a failed write has left is written over.
        if os.pwrite(self._file, content, self.size) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += len(content)

    def close(self) -> None:
        """See `AppendedFile`."""
        os.close(self._file)
