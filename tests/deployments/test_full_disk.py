"""The whole gateway on a file system that fills up."""

import asyncio
from pathlib import Path

import pytest

from actors import put_off, storage_trouble
from tests.full_disk import small_disk
from tests.replies import calls
from tests.stack import Stack, running

pytestmark = pytest.mark.anyio


async def storage(stack: Stack) -> dict[str, str]:
    """What health says of each singleton's storage."""
    status, health, _ = await stack.call("GET", "/health", key=stack.admin)
    assert status == 200
    assert (health["status"] == "degraded") == ("full" in str(health["singletons"]))
    return {name: one["storage"] for name, one in health["singletons"].items()}


async def test_a_full_disk_refuses_money_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3, I12: 503 storage_full at once, health and reports go on; then the books agree."""
    monkeypatch.setattr(storage_trouble, "PAUSE_S", 0.1)
    monkeypatch.setattr(put_off, "PAUSE_S", 0.1)
    with small_disk(tmp_path / "disk", 24) as disk:
        async with running(tmp_path, storage=disk.path) as stack:
            assert set((await storage(stack)).values()) == {"ok"}
            await stack.knobs(ttft_s=0.5)
            for turn in range(2):
                while len(stack.services.outbox):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                first = [stack.chat(f"{turn} on its way {n}") for n in range(5)]
                under_way = asyncio.gather(*first)
                while len(stack.services.outbox) < 5:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                disk.fill()
                refused = served = 0
                while refused < 10:
                    status, body, headers = await stack.chat(f"{turn} {served} {refused}")
                    if status == 200:
                        # From what had been lent before.
                        served += 1
                        continue
                    assert (status, body["error"]["code"]) == (503, "storage_full")
                    assert "storage_path" in body["error"]["message"]
                    assert float(headers["retry-after"]) > 0
                    refused += 1
                assert {status for status, _, _ in await under_way} == {200}
                assert (await storage(stack))["cost_tracker"] == "full"
                assert (await stack.call("GET", "/v1/models"))[0] == 200
                path = "/admin/v1/costs/summary"
                assert (await stack.call("GET", path, key=stack.admin))[0] == 200
                # Traces wait where they are bounded.
                assert len(stack.services.traces.put_off) <= 1
                disk.empty()
                async with asyncio.timeout(10):
                    while "full" in (await storage(stack)).values():  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                assert (await stack.chat(f"{turn} afterwards"))[0] == 200
            ledger = await stack.ledger()
            made = await calls(stack)
            assert len(made) > 10
            charged = sorted(row["charge_id"] for row in ledger)
            assert charged == sorted(call.charge_id for call in made)
            assert len(stack.services.outbox) == 0
