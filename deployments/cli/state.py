"""What `up` writes down, so that `down` takes down that and nothing else, even after a kill -9.

`up.json` lies beside the gateway's stores, mode 0600. It holds no secrets: Ray's token is a file
of its own in the session's folder, which goes with the session.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deployments.cli.terminal import Problem

_LOCK_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Running:
    """What one `up` has started.

    name: of the gateway. url: where clients reach it.
    address: of Ray's head, "" until it is known.
    session: the folder of the local Ray (its logs, sockets, token, HAProxy's files); None on a
        cluster that was joined.
    pid, created: the local Ray's raylet, and when it began (seconds since 1970).
    applications: Serve applications, in the order in which they are taken down.
    started_serve: Serve did not run before on the joined cluster.
    nodes: ids of the cluster's nodes then; HAProxy's files are named by them.
    dashboard: its URL, or None.
    complete: it became ready; otherwise its `up` is at work, or died at it.
    """

    name: str
    url: str
    address: str = ""
    session: str | None = None
    pid: int | None = None
    created: float = 0.0
    applications: tuple[str, ...] = ()
    started_serve: bool = True
    nodes: tuple[str, ...] = ()
    dashboard: str | None = None
    complete: bool = False

    @property
    def token(self) -> Path | None:
        """The file with Ray's token, for a local Ray."""
        return Path(self.session, "token") if self.session else None


class StateFile:
    """`up.json` of one gateway. folder: `<storage_path>/<name>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "up.json"

    def read(self) -> Running | None:
        """What was written last, None where nothing is up. Raises Problem when it is garbled."""
        try:
            fields = json.loads(self._path.read_text())
            lists = {"applications": tuple(fields["applications"]), "nodes": tuple(fields["nodes"])}
            return Running(**{**fields, **lists})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Problem(f"{self._path} can't be read ({error}); remove it.") from None

    def write(self, running: Running) -> None:
        """Replace it, whole or not at all."""
        self._make_folder()
        fresh = self._path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
            json.dump(dataclasses.asdict(running), file, indent=1)
        fresh.replace(self._path)

    def clear(self) -> None:
        """Nothing is up any more."""
        self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One `up` or `down` of a gateway at a time. Raises Problem."""
        self._make_folder()
        lock = os.open(self.folder / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            give_up = time.monotonic() + _LOCK_PATIENCE_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise Problem(
                            f"Another `raygate up` or `down` of {self.folder.name} is under way."
                        ) from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(lock)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Problem(f"The storage path can't be used: {error}.") from None
