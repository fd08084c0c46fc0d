"""Where the commands of `raygate ledger` find a ledger: at a gateway that runs, or in its files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from actors import inspection
from actors.errors import RaygateError
from actors.ledger import TABLE, row_key
from actors.offline_store import OfflineStore
from actors.store_errors import StoreError
from deployments.cli import configuration
from deployments.cli.gateway_client import GatewayClient
from deployments.cli.reach import reach
from deployments.cli.terminal import Problem

FILE = "cost_tracker.sqlite"
_PAGE = 1_000

Line = dict[str, Any]
"""A ledger row, as `inspection.shown` shows it."""


class Source(Protocol):
    """One ledger. All raise Problem. shared: a gateway is at work on it."""

    shared: bool

    def inspect(self) -> dict[str, Any]:
        """See `inspection.inspected`."""

    def audit(self, progress: Any) -> dict[str, Any]:
        """See `inspection.audited`; progress None: from the end."""

    def page(self, after: int) -> list[Line]:
        """Rows whose numbers come after this one."""


class OverHttp:
    """Of a gateway, with an admin's key."""

    shared = True

    def __init__(self, client: GatewayClient) -> None:
        self._client = client

    def inspect(self) -> dict[str, Any]:
        """See `Source`."""
        found: dict[str, Any] = self._client.call("GET", "/admin/v1/ledger")
        return found

    def audit(self, progress: Any) -> dict[str, Any]:
        """See `Source`."""
        found: dict[str, Any] = self._client.call(
            "POST", "/admin/v1/ledger/audit", {"progress": progress}
        )
        return found

    def page(self, after: int) -> list[Line]:
        """See `Source`."""
        path = f"/admin/v1/costs/ledger?limit={_PAGE}&after={row_key(after)}"
        found: list[Line] = self._client.call("GET", path)["data"]
        return found


class OverRay:
    """Of a gateway, by its Ray."""

    shared = True

    def __init__(self, name: str) -> None:
        self._name = name

    def _ask(self, command: str, *args: Any) -> Any:
        from deployments.cli import admin_key

        try:
            return admin_key.ask(self._name, "cost_tracker", command, *args)
        except RaygateError as error:
            raise Problem(str(error)) from None

    def inspect(self) -> dict[str, Any]:
        """See `Source`."""
        found: dict[str, Any] = self._ask("inspect")
        return found

    def audit(self, progress: Any) -> dict[str, Any]:
        """See `Source`."""
        found: dict[str, Any] = self._ask("audit", progress)
        return found

    def page(self, after: int) -> list[Line]:
        """See `Source`."""
        return [
            inspection.shown(row.value) for row in self._ask("rows", TABLE, row_key(after), _PAGE)
        ]


class InFiles:
    """Of the files of a gateway that does not run."""

    shared = False

    def __init__(self, store: OfflineStore) -> None:
        self._store = store

    def inspect(self) -> dict[str, Any]:
        """See `Source`."""
        return self._store.inspected()

    def audit(self, progress: Any) -> dict[str, Any]:
        """See `Source`."""
        return self._store.audited(progress)

    def page(self, after: int) -> list[Line]:
        """See `Source`."""
        try:
            return [inspection.shown(value) for value in self._store.page(after, _PAGE)]
        except StoreError as error:
            raise Problem(str(error)) from None


class Where(NamedTuple):
    """What the options say about where the ledger is."""

    config: Path | None
    url: str | None
    key: str | None
    storage_path: Path | None
    name: str | None


@contextmanager
def source(where: Where) -> Iterator[Source]:
    """The ledger that the options name. Raises Problem where there is none."""
    if where.storage_path is not None:
        with offline(where) as store:
            yield InFiles(store)
        return
    at = reach(where.config, where.url)
    if where.key:
        yield OverHttp(GatewayClient(at.url, where.key))
    elif at.ray is not None and where.url is None:
        with at.connected():
            yield OverRay(at.name)
    else:
        raise Problem(
            "Give an admin's key (--key, or RAYGATE_ADMIN_KEY) for a gateway that runs, or "
            "--storage-path for the files of one that does not."
        )


@contextmanager
def offline(where: Where) -> Iterator[OfflineStore]:
    """The files that the options name, for as long as no gateway may have them."""
    assert where.storage_path is not None
    path = folder(where) / FILE
    if not path.exists():
        raise Problem(f"There is no ledger at {path}.")
    try:
        store = OfflineStore(path)
    except StoreError as error:
        raise Problem(str(error)) from None
    try:
        yield store
    finally:
        store.close()


def folder(where: Where) -> Path:
    """The folder of the gateway that the options name: `--storage-path`, and its name in it."""
    assert where.storage_path is not None
    if where.name is not None:
        return configuration.folder_of(str(where.storage_path), where.name)
    found = [one.parent for one in where.storage_path.expanduser().glob(f"*/{FILE}")]
    if len(found) == 1:
        return found[0].absolute()
    names = ", ".join(sorted(one.name for one in found))
    raise Problem(
        f"{where.storage_path} holds {f'the ledgers of {names}' if found else 'no ledger'}; "
        "say which with --name."
    )
