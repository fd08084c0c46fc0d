"""Disks that are really full: SQLite's own limit, and a small file system to be filled."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.host import Host


def fill_store(host: Host) -> None:
    """Let nothing more be written to the store of a host: SQLite itself answers SQLITE_FULL."""
    db = host.store._db
    db.execute("CREATE TABLE IF NOT EXISTS main._room (content BLOB)")
    db.execute("CREATE TEMP TABLE IF NOT EXISTS beyond (content BLOB)")
    db.execute("PRAGMA temp.max_page_count = 8")
    for table in ("_pages", "_room"):
        db.execute(
            f"CREATE TEMP TRIGGER full{table} BEFORE INSERT ON main.{table} "
            "BEGIN INSERT INTO beyond VALUES (zeroblob(100000)); END"
        )


def empty_store(host: Host) -> None:
    """Let it be written again."""
    for table in ("_pages", "_room"):
        host.store._db.execute(f"DROP TRIGGER temp.full{table}")


class SmallDisk:
    """A file system in memory, mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no room at all."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
            try:
                while True:
                    file.write(bytes(512))
            except OSError:
                pass

    def empty(self) -> None:
        """Make room."""
        self._ballast.unlink()


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount one for a while; the test is skipped where that is not allowed."""
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=30)
