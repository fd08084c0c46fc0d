"""What lies beside a store's database: the lock of who has it open, the head of its hash chain."""

import fcntl
import os
import time
import zlib
from pathlib import Path

from actors.store_errors import StoreError

_LOCK_PATIENCE_S = 30.0


def write_head(file: int, head: tuple[int, str]) -> None:
    """Note the head of a hash chain beside its database."""
    # Two slots in turn: a torn write leaves the previous head readable.
    words = f"{head[0]:020d} {head[1]:>64}".encode()
    record = b"%s %08x\n" % (words, zlib.crc32(words))
    os.pwrite(file, record, head[0] % 2 * len(record))


def newest_head(content: bytes) -> tuple[int, str] | None:
    """Of what is beside a database: the newest head that was written there whole."""
    heads: list[tuple[int, str]] = []
    for line in content.split(b"\n"):
        words, _, check = line.strip(b"\0").rpartition(b" ")
        if words and check == b"%08x" % zlib.crc32(words):
            sequence, hash = words.split()
            heads.append((int(sequence), hash.decode()))
    return max(heads, default=None)


def hold(path: Path, patience_s: float | None = None) -> int:
    """Take the lock that tells that a process lives; it goes with the process.

    Raises StoreError when somebody else has it for so long (None: 30 s).
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    patience_s = _LOCK_PATIENCE_S if patience_s is None else patience_s
    give_up = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                os.close(lock)
                raise StoreError(
                    f"{path} is held by another process; two hosts never write one store. "
                    "Stop the other gateway of this name, or give this one another name."
                ) from None
            time.sleep(0.02)
        else:
            return lock
