"""The commands as a program runs them, against a gateway without Ray."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.stack import Stack, running

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "serve_config.yaml"


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A running gateway."""
    async with running(tmp_path) as made:
        yield made


async def raygate(
    home: Path, *arguments: str, key: str = "", code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command in a home of its own; nothing it says is a traceback."""
    ours = ("RAYGATE_", "RAY_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"HOME": str(home), "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    if key:
        environment["RAYGATE_ADMIN_KEY"] = key
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "deployments.cli", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


async def test_a_key_is_made_listed_and_revoked_over_http(stack: Stack, tmp_path: Path) -> None:
    """The new key works until it is revoked; only `create` prints it."""
    at = ("--url", stack.url)
    made = await raygate(tmp_path, "keys", "create", "bob", "--team", "red", *at, key=stack.admin)
    secret = made.stdout.strip()
    assert (await stack.chat(key=secret))[0] == 200
    listed = await raygate(tmp_path, "keys", "list", *at, key=stack.admin)
    assert "bob" in listed.stdout
    assert secret not in listed.stdout
    id = next(line for line in listed.stdout.splitlines() if "bob" in line).split()[1]
    await raygate(tmp_path, "keys", "revoke", id, *at, key=stack.admin)
    assert (await stack.chat(key=secret))[0] == 401


async def test_status_tells_health_spend_and_breakers(stack: Stack, tmp_path: Path) -> None:
    """As JSON for programs; without a key only the one word; exit code 1 where nobody answers."""
    await stack.chat()
    await stack.settled()
    at = ("--url", stack.url)
    told = json.loads((await raygate(tmp_path, "status", "--json", *at, key=stack.admin)).stdout)
    assert told["status"] == "healthy"
    assert told["costs"]["today_cost"] > 0
    assert told["open_breakers"] == {}
    assert told["health"]["singletons"]["cost_tracker"]["reachable"]
    shown = await raygate(tmp_path, "status", *at, key=stack.admin)
    assert "spent today" in shown.stdout
    assert "cost_tracker" in shown.stdout
    plain = json.loads((await raygate(tmp_path, "status", "--json", *at)).stdout)
    assert (plain["status"], plain["costs"]) == ("healthy", None)
    nobody = await raygate(tmp_path, "status", "--url", "http://127.0.0.1:9", code=1)
    assert "down" in nobody.stdout


async def test_diff_says_what_restarts_and_what_does_not(stack: Stack, tmp_path: Path) -> None:
    """The shipped configuration against the policy in force of another."""
    told = await raygate(
        tmp_path, "config", "diff", str(CONFIG), "--url", stack.url, key=stack.admin
    )
    assert "replicas restart" in told.stdout
    assert "+ budgets.cluster-daily.amount_usd: 500.0" in told.stdout
    shown = await raygate(tmp_path, "config", "show", "--url", stack.url, key=stack.admin)
    assert "gpt-4o-mini" in shown.stdout
    assert "sk-sim" not in shown.stdout


async def test_check_lists_every_error_and_fails(tmp_path: Path) -> None:
    """Each on a line of its own; exit code 1."""
    spoiled = tmp_path / "spoiled.yaml"
    spoiled.write_text(
        CONFIG.read_text().replace("ttl_s", "tll_s").replace("amount_usd: 500}", "}")
    )
    told = await raygate(tmp_path, "config", "check", str(spoiled), code=1)
    paths = [line.split(": ")[0].rpartition("user_config.")[2] for line in told.stdout.splitlines()]
    assert sorted(paths) == ["budgets.0.amount_usd", "cache.tll_s"]
    assert "has 2 errors" in told.stderr
    await raygate(tmp_path, "config", "check", str(CONFIG))


@pytest.mark.parametrize(
    ("arguments", "key", "words"),
    [
        (["up", "--config", "missing.yaml"], "", "There is no file missing.yaml."),
        (["keys", "list"], "", "Give an admin's key"),
        (["keys", "list", "--url", "ftp://x"], "rg-x", "is not a gateway's URL"),
        (["keys", "list", "--url", "http://127.0.0.1:9"], "rg-x", "No gateway answers at"),
        (["keys", "bootstrap"], "", "Set RAY_ADDRESS"),
        (["config", "show"], "", "Give an admin's key"),
        (["simulate", "demo"], "", "needs an admin's key"),
        (["simulate", "nonsense"], "rg-x", "There is no scenario nonsense. There are:"),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_sentence(
    tmp_path: Path, arguments: list[str], key: str, words: str
) -> None:
    """Exit code 1, on stderr, nothing on stdout."""
    told = await raygate(tmp_path, *arguments, key=key, code=1)
    assert words in told.stderr
    assert told.stdout == ""


async def test_a_wrong_key_is_quoted_by_the_gateways_own_words(
    stack: Stack, tmp_path: Path
) -> None:
    """The reply's message, not its JSON."""
    told = await raygate(tmp_path, "keys", "list", "--url", stack.url, key="rg-wrong", code=1)
    assert told.stderr.strip() == "This API key is not known, or not valid any more."


async def test_down_with_nothing_up_is_no_error(tmp_path: Path) -> None:
    """It says so; and purges what is left when asked to."""
    folder = tmp_path / ".raygate" / "raygate"
    folder.mkdir(parents=True)
    (folder / "cost_tracker.sqlite").write_text("")
    assert "Nothing was up." in (await raygate(tmp_path, "down")).stderr
    assert folder.exists()
    await raygate(tmp_path, "down", "--purge", "--yes")
    assert not folder.exists()


async def test_the_demo_runs_from_the_command_line(stack: Stack, tmp_path: Path) -> None:
    """The report is printed, and the exit code says whether its claims hold."""
    told = await raygate(tmp_path, "simulate", "demo", "--url", stack.url, key=stack.admin)
    assert "13 of 13 requests got an answer" in told.stdout
