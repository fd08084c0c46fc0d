"""What `up` says at its end."""

import json
import shlex
from pathlib import Path

import pytest

from deployments.cli import checking, configuration, ready
from deployments.cli.ready import Ready
from deployments.cli.state import Running

ROOT = Path(__file__).parents[3]


def made(key: str | None) -> Ready:
    """A gateway that is ready."""
    _, plan = checking.check(configuration.read(ROOT / "serve_config.yaml"))
    assert plan is not None
    return Ready(Running("raygate", "http://127.0.0.1:8000", "127.0.0.1:6"), plan, 2, key, False)


@pytest.mark.parametrize(("key", "shown"), [("rg-k", "rg-k"), (None, "$RAYGATE_ADMIN_KEY")])
def test_the_curl_line_is_one_shell_command(key: str | None, shown: str) -> None:
    """It has the key, or the variable where the shell can expand it, and a valid body."""
    line = ready.curl(made(key))
    words = shlex.split(line)
    assert words[:3] == ["curl", "-sS", "http://127.0.0.1:8000/v1/chat/completions"]
    assert f'"Authorization: Bearer {shown}"' in line
    assert json.loads(words[-1])["model"] == "gpt-4o-mini"
    assert "\n" not in line


def test_json_is_one_object_with_the_key_only_where_it_is_new(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Programs read url and admin_key."""
    for key in ("rg-k", None):
        ready.announce(made(key), 12.34, as_json=True, detached=True)
        told = json.loads(capsys.readouterr().out)
        assert (told["url"], told["admin_key"]) == ("http://127.0.0.1:8000", key)
        assert told["replicas"] == 2


def test_a_new_key_is_shown_and_said_to_be_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A later start says nothing of keys but in the curl line."""
    ready.announce(made("rg-k"), 1.0, as_json=False, detached=True)
    out = capsys.readouterr().out
    assert "Admin key: rg-k" in out
    assert "once" in out
    ready.announce(made(None), 1.0, as_json=False, detached=False)
    assert "Admin key" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("http", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 9}, "http://127.0.0.1:9"),
        ({"host": "10.1.2.3", "port": 9}, "http://10.1.2.3:9"),
        ({"host": "::1", "port": 9}, "http://[::1]:9"),
    ],
)
def test_the_url_is_one_that_this_machine_reaches(http: dict[str, object], url: str) -> None:
    """A server on every address is reached by the loopback."""
    assert ready.url_of(http) == url
