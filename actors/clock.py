"""The two clocks that hosts stamp with, and how they survive a restart."""

import time
from pathlib import Path
from typing import Literal, Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Integer nanoseconds that never go back, across restarts included."""

    def now(self) -> int:
        """The present time."""


def boot_id() -> str:
    """This boot of this machine; "" where the system has no such word."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class SteadyClock:
    """The machine's monotonic clock, carried on over restarts of the process.

    After a reboot (or on another machine) it goes on from the last time that was handed
    out, as if nothing had passed: a bucket may then be emptier than it ought to be, and
    is never fuller.

    boot: the boot in which `offset_ns` was right; last_ns: the latest time handed out.
    """

    def __init__(self, boot: str, offset_ns: int, last_ns: int) -> None:
        self.boot = boot_id()
        same_boot = self.boot != "" and boot == self.boot
        self.offset_ns = offset_ns if same_boot else last_ns - time.monotonic_ns()
        self._last_ns = last_ns

    def now(self) -> int:
        """Nanoseconds; only differences mean anything."""
        self._last_ns = max(self._last_ns, time.monotonic_ns() + self.offset_ns)
        return self._last_ns


class WallClock:
    """The calendar's clock: nanoseconds since 1970 UTC; stands still while it is set back."""

    def __init__(self, last_ns: int) -> None:
        self.boot = ""
        self.offset_ns = 0
        self._last_ns = last_ns

    def now(self) -> int:
        """Nanoseconds since the epoch."""
        self._last_ns = max(self._last_ns, time.time_ns())
        return self._last_ns


def restored(
    kind: Literal["steady", "wall"], boot: str, offset_ns: int, last_ns: int
) -> SteadyClock | WallClock:
    """The clock of that kind, going on from what a store remembers of it."""
    return SteadyClock(boot, offset_ns, last_ns) if kind == "steady" else WallClock(last_ns)
