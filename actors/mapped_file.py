"""A file that is appended to by copying into memory, for who appends at every step.

The file is mapped, with room behind what is in it that the disk has promised beforehand. A
copy costs a tenth of what a write costs, and is as safe: what has been copied is the
kernel's, and outlives this process.
"""

import mmap
import os
from pathlib import Path


class MappedFile:
    """A new file in the place of any other at `path`. Raises OSError where there is no room.

    step: so much room is made at once; zeros, until something is appended.
    size: of what is in it.
    """

    def __init__(self, path: Path, content: bytes, step: int) -> None:
        self.size = 0
        self._step = step
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._room = self._made_room(len(content))
        except BaseException:
            os.close(self._file)
            raise
        self.append(content)

    def append(self, content: bytes) -> None:
        """Add this, in whole; where there is no room, raise OSError and add nothing."""
        end = self.size + len(content)
        if end > len(self._room):
            self._room = self._made_room(end)
        self._room[self.size : end] = content
        self.size = end

    def close(self) -> None:
        """Let go of the file."""
        self._room.close()
        os.close(self._file)

    def _made_room(self, bytes: int) -> mmap.mmap:
        """The file in memory, with room for so much and some more."""
        # What is only mapped, and not promised, would end this process when the disk is full.
        os.posix_fallocate(self._file, 0, bytes + self._step)
        return mmap.mmap(self._file, bytes + self._step)
