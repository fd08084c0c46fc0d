"""Client programs run as processes of their own, with an interpreter of their own."""

from pathlib import Path

import pytest

from tests.clients.environment import clients_python as installed_clients


@pytest.fixture(scope="session")
def clients_python() -> Path:
    """The interpreter that has the `openai` client."""
    return installed_clients()
