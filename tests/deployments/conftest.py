"""One gateway per module, put back to where it began before each test."""

from collections.abc import AsyncIterator

import pytest

from tests.stack import Stack, running


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The module's gateway."""
    async with running(tmp_path_factory.mktemp("gateway")) as stack:
        yield stack


@pytest.fixture
async def stack(shared: Stack) -> Stack:
    """The module's gateway with the small policy, a quick provider and closed breakers."""
    await shared.settled()
    services = shared.services
    for target in (await services.breaker.ask("status"))["targets"]:
        await services.breaker.ask("force", target, "reset")
    await services.cache.ask("purge", "all", "")
    await shared.policy()
    await shared.call("DELETE", "/admin/v1/providers/simulated/control", key=shared.admin)
    return shared
