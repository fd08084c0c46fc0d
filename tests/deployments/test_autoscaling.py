"""What a replica reports of its work, and what is made of it."""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import AutoscalingPolicy

from deployments.autoscaling import WORKING, Queue, Work, by_work
from tests.stack import running

pytestmark = pytest.mark.anyio

ONE_SLOT = [{"name": "one", "scope": "team", "unit": "concurrent", "burst": 1}]


def context(reported: dict[str, float], queued: float = 0.0, target: float = 10.0) -> Any:
    """As much of Serve's context as the policy looks at; three replicas are wanted so far."""
    return SimpleNamespace(
        aggregated_metrics={WORKING: reported} if reported else {},
        total_queued_requests=queued,
        target_num_replicas=3,
        config=SimpleNamespace(target_ongoing_requests=target),
    )


@pytest.mark.parametrize(
    ("reported", "queued", "wanted"),
    [
        ({}, 0.0, 3),
        ({"a": 0.0, "b": 0.0}, 0.0, 0.0),
        ({"a": 12.0, "b": 8.0}, 0.0, 2.0),
        ({"a": 12.0, "b": 8.0}, 5.0, 2.5),
    ],
)
def test_replicas_are_wanted_for_work_and_for_what_nobody_has_taken_yet(
    reported: dict[str, float], queued: float, wanted: float
) -> None:
    """10 requests each; without any report nothing changes."""
    assert by_work(context(reported, queued)) == (wanted, {})


def test_the_policy_runs_where_this_project_is_not(tmp_path: Path) -> None:
    """Serve's controller gets it by value, and may have none of our modules."""
    policy = AutoscalingPolicy(policy_function="deployments.autoscaling:by_work")
    (tmp_path / "policy").write_bytes(policy.get_serialized_policy_def() or b"")
    program = """
from types import SimpleNamespace as Some
from ray import cloudpickle
policy = cloudpickle.load(open("policy", "rb"))
config = Some(target_ongoing_requests=10)
metrics = {"raygate_working": {"a": 15.0}}
print(policy(Some(aggregated_metrics=metrics, total_queued_requests=0, config=config)))
"""
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.stdout.split("\n")[0] == "(1.5, {})", told.stderr


async def test_work_is_what_is_in_hand_and_does_not_wait() -> None:
    """From a request's arrival to its last byte, but for the time in a queue; errors too."""
    queue = Queue()
    work = Work(lambda: queue.length)
    go, queued = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope == "waits":
            with queue:
                await queued.wait()
        await go.wait()
        if scope == "breaks":
            raise ValueError

    counted = work.counted(app)
    kinds = ["works", "works", "waits", "breaks"]
    requests = [asyncio.create_task(counted(kind, None, None)) for kind in kinds]
    await asyncio.sleep(0)
    assert work.stats() == {WORKING: 3}
    queued.set()
    await asyncio.sleep(0.01)
    assert work.stats() == {WORKING: 4}
    go.set()
    await asyncio.gather(*requests, return_exceptions=True)
    assert work.stats() == {WORKING: 0}


async def test_tickets_and_waits_for_a_leader_are_waiting(tmp_path: Path) -> None:
    """One has the only slot, two wait for it; of three with one question two wait for an answer."""
    async with running(tmp_path, None, ttft_s=0.5) as stack:
        services = stack.services
        await stack.policy(limits=ONE_SLOT)
        slots = [asyncio.create_task(stack.chat(f"{n}", temperature=1.0)) for n in range(3)]
        while services.waiting < 2:  # noqa: ASYNC110 (anything at all is waited for)
            await asyncio.sleep(0.005)
        assert services.running == 3
        await asyncio.gather(*slots)
        await stack.policy()
        same = [asyncio.create_task(stack.chat("the same")) for _ in range(3)]
        while services.waiting < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert services.running == 3
        await asyncio.gather(*same)
        assert services.waiting == 0
