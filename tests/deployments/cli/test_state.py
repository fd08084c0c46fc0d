"""What `up` writes down for `down`."""

import stat
from pathlib import Path

import pytest

from deployments.cli.down import alive
from deployments.cli.state import Running, StateFile
from deployments.cli.terminal import Problem

RUNNING = Running(
    "raygate", "http://127.0.0.1:1", "127.0.0.1:2", "/tmp/rg-x", 3, 4.5, ("a", "b"), nodes=("n",)
)


def test_what_was_written_is_read_again_and_is_nobody_elses(tmp_path: Path) -> None:
    """Equal after a round trip; file and folder are closed to others; cleared means gone."""
    state = StateFile(tmp_path / "raygate")
    assert state.read() is None
    state.write(RUNNING)
    assert state.read() == RUNNING
    assert stat.S_IMODE((tmp_path / "raygate" / "up.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "raygate").stat().st_mode) == 0o700
    state.clear()
    state.clear()
    assert state.read() is None


def test_one_command_at_a_time(tmp_path: Path) -> None:
    """While one holds the lock, another is refused in a sentence."""
    state = StateFile(tmp_path / "raygate")
    with state.lock(), pytest.raises(Problem, match="under way"), state.lock():
        pass
    with state.lock():
        pass


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"applications": [], "nodes": [], "x": 1}'])
def test_a_garbled_file_is_a_problem_that_names_it(tmp_path: Path, content: str) -> None:
    """The message says which file to remove."""
    (tmp_path / "up.json").write_text(content)
    with pytest.raises(Problem, match=r"up\.json can't be read"):
        StateFile(tmp_path).read()


def test_a_ray_that_is_gone_is_not_alive() -> None:
    """Neither by a pid that was another's, nor by an address where nobody listens."""
    assert not alive(RUNNING)
    assert not alive(Running("raygate", "http://x", "127.0.0.1:1"))
