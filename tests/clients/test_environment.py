import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize(("module", "there"), [("openai", True), ("ray", False)])
def test_clients_share_no_package_with_the_gateway(
    clients_python: Path, module: str, there: bool
) -> None:
    """The clients' interpreter has the clients, and nothing that only the gateway needs."""
    done = subprocess.run([clients_python, "-c", f"import {module}"], capture_output=True)
    assert (done.returncode == 0) is there
