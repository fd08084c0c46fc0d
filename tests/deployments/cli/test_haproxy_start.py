import subprocess
from pathlib import Path

import pytest

from deployments.cli import local_ray
from deployments.cli.haproxy_start import write_script

pytestmark = pytest.mark.skipif(not local_ray.has_haproxy(), reason="HAProxy is for Linux")


def test_a_new_haproxy_begins_with_the_routes_that_were_known(tmp_path: Path) -> None:
    """What the last change of the routes said; before any, what Serve says."""
    script = str(write_script(tmp_path / "haproxy"))
    config = tmp_path / "haproxy.cfg"

    def start(routes: str, *more: str) -> str:
        config.write_text(routes)
        # It tells its version and ends.
        subprocess.run([script, "-v", "-f", str(config), *more], check=True, capture_output=True)
        return config.read_text()

    assert start("none") == "none"
    assert start("to all replicas", "-sf", "1") == "to all replicas"
    assert start("none") == "to all replicas"
    assert start("to one", "-sf", "1") == "to one"
