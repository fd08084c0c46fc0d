"""A process's own record of the provider calls that it makes, for whoever outlives it.

Two files named for their owner: `<owner>.lock`, whose flock is held for as long as the
process lives, and `<owner>.calls`, to which each fact is appended before anything is done
on the strength of it. What is written is in the kernel's hands: it survives a kill -9, not
a power cut. So whoever can take the lock knows that the owner is dead, and can read what
it had started, and what had ended without the ledger knowing.

    <owner>.calls = first line, then frames: length, CRC-32 of the payload, the payload
                    (msgpack: kind, charge id, how); then zeros
"""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from actors.appended_file import AppendedFile, appended_file
from actors.errors import InvalidRequest
from actors.filesystems import untrusted

STARTED, ENDED, ACKNOWLEDGED = range(3)

COMPACT_BYTES = 4 << 20
"""Size from which a file is written anew with only what is still of interest."""

_FIRST_LINE = b"raygate outbox 1\n"
_HEAD = struct.Struct("<II")

log = logging.getLogger(__name__)
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, str, list[Any]]).decode


class OutboxError(Exception):
    """The folder or a file in it can't be used; the message says what to do."""


class Entry(NamedTuple):
    """A call that the ledger has not acknowledged.

    ended: whether it is known what it cost. how: as `Outbox.started`, or `ended`, was told;
    tuples have become lists.
    """

    charge_id: str
    ended: bool
    how: list[Any]


class Outbox:
    """The outbox of this process; one per process, for as long as it lives.

    folder: on a local disk of this machine; made where missing.
    compact_bytes: see COMPACT_BYTES.
    Raises OutboxError for a folder whose locks can't be trusted, OSError where the files
    can't be made.

    owner: 32 hex characters, new with each outbox. path: of the calls' file.
    """

    def __init__(self, folder: Path, compact_bytes: int = COMPACT_BYTES) -> None:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kind = untrusted(folder)
        if kind is not None:
            raise OutboxError(
                f"The outbox of this process would be in {folder}, which is on {kind}: file "
                "locks there are no proof that a process lives. Set storage_path to a folder "
                "on a local disk of each node."
            )
        clear(folder)
        # The lock first: files without one are a dead owner's.
        self.owner, self._lock = _locked(folder)
        self.path = folder.resolve() / f"{self.owner}.calls"
        self._live: dict[str, bytes] = {}
        self._compact_bytes = self._limit = compact_bytes
        try:
            self._calls: AppendedFile | None = self._written(self.path, [])
        except BaseException:
            os.unlink(_lock_of(self.path))
            os.close(self._lock)
            raise

    def __len__(self) -> int:
        """How many calls are not acknowledged."""
        return len(self._live)

    def started(self, charge_id: str, how: tuple[Any, ...]) -> None:
        """A call is about to begin; it must not, where this raises OSError.

        how: ("reserved", worst case in nano-dollars) where the ledger holds the money, or
            ("leased", `Paid` as estimated at the worst case) where a slice pays.
        Raises InvalidRequest for what can't be written down: see `packed`.
        """
        frame = _frame(STARTED, charge_id, how)
        self._append(frame)
        self._live[charge_id] = frame

    def ended(self, charge_id: str, how: tuple[Any, ...]) -> None:
        """A call is over, and this is what the ledger will be told; never raises OSError.

        how: ("post", amount in nano-dollars, usage, estimated), ("charge", `Paid`), or
            ("void",) where there was no call.
        """
        frame = _frame(ENDED, charge_id, how)
        self._live[charge_id] = frame
        self._try(frame)

    def acknowledged(self, charge_id: str) -> None:
        """The ledger knows how the call ended; never raises OSError."""
        if self._live.pop(charge_id, None) is not None:
            self._try(_frame(ACKNOWLEDGED, charge_id, ()))
            if self._calls is not None and self._calls.size > self._limit:
                self._compact(self._calls)

    def close(self) -> bool:
        """Let go of the files; without live entries they are removed. Whether they were.

        Nothing can be started after that. A second time does nothing.
        """
        removed = not self._live
        if self._calls is None:
            return removed
        if removed:
            _remove(self.path)
        self._calls.close()
        os.close(self._lock)
        self._calls = None
        return removed

    def _append(self, frame: bytes) -> None:
        if self._calls is None:
            raise OSError(errno.EBADF, "Bad file descriptor: this outbox is closed")
        self._calls.append(frame)

    def _try(self, frame: bytes) -> None:
        """Append what is worth trying only.

        If it is lost and this process then dies, the call is charged as an estimate, or told
        a second time to a ledger that knows it.
        """
        try:
            self._append(frame)
        except OSError as error:
            log.error("an entry of the outbox is lost: %s", error)

    def _compact(self, old: AppendedFile) -> None:
        """Write a new file of the live entries, and put it in the place of the old one."""
        fresh, calls = self.path.with_suffix(".new"), None
        try:
            calls = self._written(fresh, list(self._live.values()))
            os.rename(fresh, self.path)
        except OSError as error:
            log.error("the outbox can't be made smaller: %s", error)
            self._limit += self._compact_bytes
            if calls is not None:
                calls.close()
                fresh.unlink(missing_ok=True)
            return
        old.close()
        self._calls, self._limit = calls, max(self._compact_bytes, 2 * calls.size)

    def _written(self, path: Path, frames: list[bytes]) -> AppendedFile:
        """A file with these frames."""
        content = b"".join((_FIRST_LINE, *frames))
        return appended_file(path, content, step=self._compact_bytes // 4)


class Seized:
    """The lock of a dead owner, held by whoever looks after what it left."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock

    def remove(self) -> None:
        """Delete the files: everything in them has been seen to."""
        _remove(self._path)

    def release(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)


def seize(path: Path) -> Seized | None:
    """Take the lock of the outbox at `path` if its owner is dead; None: it lives.

    None too while another one looks after it. Raises FileNotFoundError where there is no
    lock: the outbox was closed with nothing left in it, or has been looked after.
    """
    lock = os.open(_lock_of(path), os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink == 0:
            raise FileNotFoundError(f"{_lock_of(path)} was removed meanwhile")
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return Seized(path, lock)


def clear(folder: Path) -> None:
    """Remove the files of the dead that say nothing; the hosts, who miss them, see to others."""
    for lock in folder.glob("*.lock"):
        try:
            path = lock.with_suffix(".calls")
            seized = seize(path)
            if seized is not None:
                try:
                    if not read(path):
                        seized.remove()
                finally:
                    seized.release()
        except (OSError, OutboxError) as error:
            log.info("%s is left as it is: %s", lock, error)


def read(path: Path) -> list[Entry]:
    """The calls that were not acknowledged, in the order of their first records.

    A record that was cut off by its writer's death is none, a missing file is an empty one.
    Raises OutboxError for a file of another format, or with a sound record of another.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    if not content.startswith(_FIRST_LINE[: len(content)]):
        raise OutboxError(f"{path} is no outbox that this version can read")
    live, at = dict[str, Entry](), len(_FIRST_LINE)
    while at + _HEAD.size <= len(content):
        length, check = _HEAD.unpack_from(content, at)
        payload = content[at + _HEAD.size : at + _HEAD.size + length]
        if not length or len(payload) < length:
            break
        at += _HEAD.size + length
        if zlib.crc32(payload) != check:
            log.error("%s is damaged: a record before byte %d is lost", path, at)
            continue
        try:
            kind, charge_id, how = _unpack(payload)
        except ValueError:
            raise OutboxError(f"{path} has a record that this version can't read") from None
        if kind == ACKNOWLEDGED:
            live.pop(charge_id, None)
        else:
            live[charge_id] = Entry(charge_id, kind == ENDED, how)
    return list(live.values())


def packed(said: tuple[Any, ...]) -> bytes:
    """What is said of a call, as it is written down. Raises InvalidRequest as `started` does."""
    try:
        return _pack(said)
    except (TypeError, OverflowError, UnicodeEncodeError):
        raise InvalidRequest(
            "A call can't be noted: its user and tags must be plain values, text without lone "
            "surrogates, numbers within 64 bits."
        ) from None


def _locked(folder: Path) -> tuple[str, int]:
    """A new owner, and the lock that says that it lives."""
    while True:
        owner = secrets.token_hex(16)
        path = folder / f"{owner}.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_nlink:
                return owner, lock
        # Somebody took it for a dead one's in the moment before it was locked.
        os.close(lock)


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _remove(path: Path) -> None:
    # The lock goes last: one without calls is read as no calls.
    for one in (path, path.with_suffix(".new"), _lock_of(path)):
        one.unlink(missing_ok=True)


def _frame(kind: int, charge_id: str, how: tuple[Any, ...]) -> bytes:
    payload = packed((kind, charge_id, how))
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
