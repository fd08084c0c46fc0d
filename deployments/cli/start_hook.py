"""What `ray start` runs, before it starts anything, for a local Ray of ours (RAY_START_HOOK)."""

from typing import Any


def no_ray_client(params: Any, head: bool) -> None:
    """Leave Ray Client's server out: nobody asks it, and no option of `ray start` does so."""
    params.ray_client_server_port = None
