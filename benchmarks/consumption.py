"""What processes use of the machine: processor time and memory."""

from typing import NamedTuple

import psutil


class Memory(NamedTuple):
    """Bytes. unique: of this process alone; resident: with what it shares with others."""

    unique: int
    resident: int


def cpu_s(pid: int) -> float:
    """Seconds of processor time since the process began, its threads together.

    Raises psutil.NoSuchProcess where it has ended.
    """
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def memory(pid: int) -> Memory:
    """What it holds now. Raises psutil.NoSuchProcess where it has ended."""
    found = psutil.Process(pid).memory_full_info()
    return Memory(found.uss, found.rss)
