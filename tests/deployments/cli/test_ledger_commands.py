"""`raygate ledger` as a program: over HTTP while requests run, on files, on what it exported."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.actors.test_upkeep import World
from tests.deployments.cli.test_commands import raygate
from tests.stack import Stack, running

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A running gateway."""
    async with running(tmp_path / "gateway") as made:
        yield made


async def test_a_running_gateways_ledger_is_verified_and_exported(
    stack: Stack, tmp_path: Path
) -> None:
    """What it exports is complete, and is verified by itself; a changed word in it is found."""
    for n in range(5):
        await stack.chat(f"question {n}")
    at = ("--url", stack.url)
    seen = await raygate(tmp_path, "ledger", "inspect", "--json", *at, key=stack.admin)
    found = json.loads(seen.stdout)
    rows = found["head"][0]
    assert found["head"] == found["noted"]
    assert found["months"][-1]["last"] == rows >= 5
    done = await raygate(tmp_path, "ledger", "verify", "--json", *at, key=stack.admin)
    told = json.loads(done.stdout)
    assert told["sound"]
    assert told["rows"] == rows
    file = tmp_path / "ledger.jsonl"
    out = ("-o", str(file))
    await raygate(tmp_path, "ledger", "export", *at, *out, key=stack.admin)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["sequence"] for line in lines[:-1]] == list(range(1, rows + 1))
    assert lines[-1]["ledger"]["hash"] == told["hash"]
    checked = await raygate(tmp_path, "ledger", "verify", str(file))
    assert "is sound" in checked.stdout
    file.write_text(file.read_text().replace('"actual"', '"actuaL"', 1))
    broken = await raygate(tmp_path, "ledger", "verify", str(file), code=1)
    assert "ledger row 1 is not what was written" in broken.stdout
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    cut = await raygate(tmp_path, "ledger", "verify", str(file), code=1)
    assert "cut off" in cut.stderr


async def test_damaged_files_are_shown_and_mended(tmp_path: Path) -> None:
    """First it says what it would do, and does nothing without a reason and a yes."""
    home = tmp_path / "state" / "default"
    home.mkdir(parents=True)
    world = World(home)
    world.spend(4)
    at = ("--storage-path", str(tmp_path / "state"))
    held = await raygate(tmp_path, "ledger", "verify", *at, code=1)
    assert "held by another process" in held.stderr
    world.change(30, lambda blob: blob.replace(b"actual", b"actuaL", 1))
    found = await raygate(tmp_path, "ledger", "verify", *at, code=1)
    assert "ledger row 21 is not what was written" in found.stdout
    before = (home / "cost_tracker.sqlite").read_bytes()
    refused = await raygate(tmp_path, "ledger", "repair", *at, "--yes", code=1)
    assert "--accept" in refused.stderr
    assert (home / "cost_tracker.sqlite").read_bytes() == before
    why = ("--accept", "a broken disk")
    mended = await raygate(tmp_path, "ledger", "repair", *at, *why, "--yes")
    assert "can be used again" in mended.stdout
    [copy] = home.glob("cost_tracker.sqlite.before-*")
    assert copy.read_bytes() == before
    sound = await raygate(tmp_path, "ledger", "verify", *at)
    assert "accepted: ledger row 21 is not what was written" in sound.stdout
    assert "a broken disk" in sound.stdout
    again = await raygate(tmp_path, "ledger", "repair", *at)
    assert "nothing to mend" in again.stdout


async def test_a_month_is_exported_by_itself(tmp_path: Path) -> None:
    """From its file, or from the database; it verifies without the others."""
    stores = Path(__file__).parents[2] / "actors" / "stores"
    home = tmp_path / "state" / "default"
    home.mkdir(parents=True)
    for suffix in (".sqlite", ".head"):
        shutil.copy(stores / f"format-1{suffix}", home / f"cost_tracker{suffix}")
    at = ("--storage-path", str(tmp_path / "state"))
    for moved in (False, True):
        if moved:
            world = World(home)
            while world.host.store.move_months(1_798_000_000 * 10**9):
                pass
            world.host.close()
        for what, rows in ((("--month", "2026-10"), 35), (("--since", "2026-11-01"), 20)):
            file = tmp_path / f"{what[1]}-{moved}.jsonl"
            await raygate(tmp_path, "ledger", "export", *at, *what, "-o", str(file))
            checked = await raygate(tmp_path, "ledger", "verify", "--json", str(file))
            assert json.loads(checked.stdout)["rows"] == rows
        assert json.loads(checked.stdout)["last"] == 60
