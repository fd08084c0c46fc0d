import json
import stat
import sys
from pathlib import Path

import pytest

from simulations.client import SimulationError
from simulations.gateway import Access, running_or_started


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `raygate` that writes down how it was called and prints what up prints."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "raygate"
    script.write_text(
        f"""#!{sys.executable}
import os, sys
with open({str(tmp_path / "calls")!r}, "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "up":
    print("a line of somebody else's")
    print(os.environ["PRINTS"])
    sys.exit(int(os.environ.get("CODE", "0")))
"""
    )
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return tmp_path / "calls"


def test_a_running_gateway_is_used_and_left_alone() -> None:
    """With RAYGATE_URL nothing is started and nothing is stopped."""
    named = {"RAYGATE_URL": "http://x:1", "RAYGATE_ADMIN_KEY": "rg-a"}
    with running_or_started(named) as access:
        assert access == Access("http://x:1", "rg-a")


def test_a_running_gateway_without_its_key_is_an_error() -> None:
    """The message names the variable that is missing."""
    with (
        pytest.raises(SimulationError, match="RAYGATE_ADMIN_KEY"),
        running_or_started({"RAYGATE_URL": "http://x:1"}),
    ):
        pass


def test_a_started_gateway_is_taken_down_even_after_an_error(program: Path) -> None:
    """Up with a free port, then down, though the block failed."""
    prints = json.dumps({"url": "http://127.0.0.1:9", "admin_key": "rg-new"})

    def fail_within() -> None:
        with running_or_started({"PRINTS": prints}) as access:
            assert access == Access("http://127.0.0.1:9", "rg-new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    up, down = program.read_text().splitlines()
    assert up.startswith("up --detach --json --port ")
    assert down == "down"


def test_a_known_key_serves_where_none_is_printed(program: Path) -> None:
    """From its second start on a gateway prints no key; the environment's is used."""
    prints = json.dumps({"url": "http://127.0.0.1:9", "admin_key": None})
    with running_or_started({"PRINTS": prints, "RAYGATE_ADMIN_KEY": "rg-old"}) as access:
        assert access.admin_key == "rg-old"


def test_a_start_that_fails_is_not_followed_by_a_down(program: Path) -> None:
    """What runs there may be somebody else's; the program's own words are passed on."""
    with (
        pytest.raises(SimulationError, match="port taken"),
        running_or_started({"PRINTS": "port taken", "CODE": "1"}),
    ):
        pass
    assert len(program.read_text().splitlines()) == 1
