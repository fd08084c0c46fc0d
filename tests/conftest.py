"""What every test shares: the event loop that async tests run on, and hypothesis's profiles."""

import os

import pytest
from hypothesis import settings

# Locally new examples are tried at every run; in CI the same ones, so that a red run repeats.
settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True, database=None)
# For `scripts/fuzz`.
settings.register_profile("long", max_examples=300, deadline=None, database=None)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "quick")
)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, the loop that Ray uses."""
    return "asyncio"
