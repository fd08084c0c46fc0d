import time
from pathlib import Path

import pytest

from actors import clock
from actors.clock import SteadyClock, WallClock, restored

S = 1_000_000_000
HOUR = 3600 * S


class Machine:
    """A machine whose two clocks and whose boots are in the test's hands."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.up_ns = 500 * S
        self.calendar_ns = 1_800_000_000 * S
        self._boot = folder / "boot_id"
        self.boot("first")
        patch.setattr(clock, "_BOOT_ID", self._boot)
        patch.setattr(time, "monotonic_ns", lambda: self.up_ns)
        patch.setattr(time, "time_ns", lambda: self.calendar_ns)

    def boot(self, name: str) -> None:
        self._boot.write_text(name + "\n")

    def forget_boots(self) -> None:
        self._boot.unlink()

    def passes(self, ns: int) -> None:
        self.up_ns += ns
        self.calendar_ns += ns


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """See `Machine`."""
    return Machine(monkeypatch, tmp_path)


def test_steady_clock_counts_what_passes(machine: Machine) -> None:
    """Differences are durations."""
    steady = SteadyClock("", 0, 0)
    before = steady.now()
    machine.passes(7 * S)
    assert steady.now() - before == 7 * S


def test_steady_clock_goes_on_over_a_restart_of_the_process(machine: Machine) -> None:
    """In the same boot the time of the restart itself counts, uncommitted or not."""
    steady = SteadyClock("", 0, 0)
    machine.passes(3 * S)
    last, offset = steady.now(), steady.offset_ns
    machine.passes(5 * S)
    again = SteadyClock("first", offset, last)
    assert again.now() == last + 5 * S
    assert again.offset_ns == offset


@pytest.mark.parametrize("up_ns", [0, 2 * S, 10**6 * S])
def test_steady_clock_stands_still_over_a_reboot(machine: Machine, up_ns: int) -> None:
    """Whatever the new boot's own count is, it goes on from the last time handed out."""
    steady = SteadyClock("", 0, 0)
    machine.passes(9 * S)
    last, offset = steady.now(), steady.offset_ns
    machine.boot("second")
    machine.up_ns = up_ns
    again = SteadyClock("first", offset, last)
    assert again.now() == last
    machine.passes(S)
    assert again.now() == last + S


def test_steady_clock_trusts_no_offset_where_boots_have_no_name(machine: Machine) -> None:
    """Without a boot id every restart is taken for a reboot."""
    machine.forget_boots()
    steady = SteadyClock("", 0, 0)
    last, offset = steady.now(), steady.offset_ns
    machine.passes(HOUR)
    assert SteadyClock("", offset, last).now() == last


def test_steady_clock_ignores_the_calendar(machine: Machine) -> None:
    """Setting the machine's date changes no duration."""
    steady = SteadyClock("", 0, 0)
    before = steady.now()
    machine.calendar_ns += 1000 * HOUR
    assert steady.now() == before


def test_wall_clock_is_the_calendar(machine: Machine) -> None:
    """Nanoseconds since 1970, also after it was set forward."""
    wall = WallClock(0)
    assert wall.now() == machine.calendar_ns
    machine.calendar_ns += 24 * HOUR
    assert wall.now() == machine.calendar_ns


def test_wall_clock_stands_still_while_it_is_set_back(machine: Machine) -> None:
    """It goes on when the calendar has caught up; a restart does not forget that."""
    wall = WallClock(0)
    last = wall.now()
    machine.calendar_ns -= HOUR
    assert wall.now() == last
    assert WallClock(last).now() == last
    machine.passes(HOUR + S)
    assert wall.now() == last + S


def test_clock_that_a_store_remembers_is_restored(machine: Machine) -> None:
    """`restored` makes the clock that the mechanism names."""
    steady = restored("steady", "first", 40 * S, 0)
    assert isinstance(steady, SteadyClock)
    assert steady.now() == 540 * S
    assert steady.boot == "first"
    assert isinstance(restored("wall", "", 0, 5), WallClock)
