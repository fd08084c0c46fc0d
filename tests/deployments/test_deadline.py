import asyncio

import pytest

from deployments.deadline import Deadline

pytestmark = pytest.mark.anyio


def soon() -> Deadline:
    """A deadline in a moment."""
    return Deadline(asyncio.get_running_loop().time() + 0.02)


async def test_it_ends_the_wait_that_is_under_way_and_all_later_ones() -> None:
    """Many waits pass before it, none after it, and the task goes on uncancelled."""
    deadline = soon()
    for _ in range(10):
        with deadline:
            await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(TimeoutError), deadline:
            await asyncio.sleep(60)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_it_does_not_reach_into_what_is_done_between_waits() -> None:
    """What a loop does with what it got is not cut off, only its next wait is."""
    deadline = soon()
    with deadline:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    with pytest.raises(TimeoutError), deadline:
        pytest.fail("a wait began after the deadline")


async def test_somebody_elses_cancellation_stays_one() -> None:
    """Cancelled and late in the same moment, a task is cancelled."""
    deadline = soon()

    async def wait() -> None:
        with deadline:
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    deadline._pass()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_closed_one_cuts_nothing() -> None:
    """Whoever is done with it leaves no timer behind."""
    deadline = soon()
    with deadline:
        deadline.close()
        await asyncio.sleep(0.05)
