"""Which gateway a command speaks to: the one that is named, or the one that is up here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from deployments.cli import configuration, local_ray, ready
from deployments.cli.state import Running, StateFile
from deployments.cli.terminal import Problem


@dataclass(frozen=True, slots=True)
class Reach:
    """name: of the gateway. url: of its HTTP. running: what `up` wrote down here, if it did."""

    name: str
    url: str
    running: Running | None

    @contextmanager
    def connected(self) -> Iterator[ModuleType]:
        """The module `serving`, connected to the gateway's Ray. Raises Problem."""
        if self.ray is None:
            raise Problem("Set RAY_ADDRESS to the cluster that the gateway runs on (HOST:6379).")
        address, _ = self.ray
        from deployments.cli import serving

        serving.connect(address)
        try:
            yield serving
        finally:
            serving.disconnect()

    @property
    def ray(self) -> tuple[str, str | None] | None:
        """Address and session of its Ray, where one is known."""
        if address := os.environ.get("RAY_ADDRESS"):
            return address, None
        if self.running is not None and self.running.address:
            return self.running.address, self.running.session
        return None


def reach(config: Path | None, url: str | None) -> Reach:
    """The gateway of a configuration; `url` overrides where it is.

    Call it first: for a local Ray of ours it sets the variables that Ray reads when imported.
    """
    try:
        raw = configuration.read(configuration.find(config))
    except Problem:
        if config is not None:
            raise
        raw = {}
    name, storage_path = configuration.identity(raw)
    running = StateFile(configuration.folder_of(storage_path, name)).read()
    known = running.url if running else ready.url_of(raw.get("http_options") or {})
    found = Reach(name, url or known, running)
    if found.ray is not None and found.ray[1] is not None:
        os.environ.update(local_ray.access(found.ray[1]))
    return found
