"""What a replica does when it is told to leave; `tests/cluster/test_draining.py` is on Ray."""

import asyncio
import time
from pathlib import Path

import pytest

from actors.consultant import Consultant
from tests.stack import running

pytestmark = pytest.mark.anyio


async def test_a_call_that_outlasts_the_patience_is_broken_off_and_charged(tmp_path: Path) -> None:
    """I3, I12: its client has gone; it becomes an estimate, and nothing is left to be adopted."""
    async with running(tmp_path) as stack:
        services = stack.services
        assert (await stack.chat("lends something"))[0] == 200
        await stack.knobs(ttft_s=60.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await stack.chat("never answered")
        assert len(services.outbox) == 1
        services.args = services.args.model_copy(update={"drain_s": 0.3})
        began = time.monotonic()
        await services.close()
        assert time.monotonic() - began < 5
        assert list((tmp_path / "outbox").iterdir()) == []
        ledger = Consultant("cost_tracker", stack.lines["cost_tracker"])
        limits = Consultant("rate_limiter", stack.lines["rate_limiter"])
        for one in (ledger, limits):
            one.start()
        rows = await ledger.ask("rows", "ledger", "", 10)
        status = await ledger.ask("status")
        lives = [await one.ask("lives") for one in (ledger, limits)]
        assert len(rows) == 2
        assert (status["pending"], status["slices"]) == (0, 0)
        assert (await limits.ask("status"))["slices"] == 0
        assert all((one["owners"], one["silent"]) == (0, 0) for one in lives)
        for one in (ledger, limits):
            await one.close()


async def test_leaving_while_singletons_are_silent_ends_in_time(tmp_path: Path) -> None:
    """Nobody takes back what it had: it ends all the same, and is found dead later."""
    async with running(tmp_path) as stack:
        assert (await stack.chat("lends something"))[0] == 200
        for line in stack.lines.values():
            line.silence()
        began = time.monotonic()
        await stack.services.close()
        assert time.monotonic() - began < 15
        for line in stack.lines.values():
            line.restore()
