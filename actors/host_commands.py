"""The commands that every host has, whatever its mechanism."""

from collections.abc import Callable
from typing import Any, ClassVar

from actors import inspection, wire
from actors.callers import Callers
from actors.errors import InvalidRequest
from actors.ledger_audit import Progress
from actors.life import Life, Lives
from actors.mechanism import Mechanism, Pending, Row, owner_of
from actors.storage_trouble import StorageTrouble
from actors.store import Store


class HostCommands:
    """Called as a mechanism's commands are, and undone with them.

    view_ns: how long anybody trusts a view. protection: what protects the rows, in words.

    trouble: whether the store can be written.
    barriers: (caller, id) of each `everywhere` since the last batch.
    """

    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"rows", "everywhere", "hello", "goodbye", "bury", "lives", "inspect", "audit"}
    )
    # They change no row. Not worth a place in the store: whoever misses the reply asks again.
    TRANSIENT: ClassVar[frozenset[str]] = frozenset(
        {"rows", "everywhere", "lives", "inspect", "audit"}
    )

    def __init__(
        self,
        mechanism: Mechanism,
        store: Store,
        callers: Callers,
        lives: Lives,
        trouble: StorageTrouble,
        protection: Callable[[], str],
        view_ns: int,
    ) -> None:
        self._mechanism = mechanism
        self._store = store
        self._callers = callers
        self._lives = lives
        self.trouble = trouble
        self._protection = protection
        self._view_ns = view_ns
        self.barriers: list[tuple[str, str]] = []

    def rows(self, now: int, caller: str, table: str, after: str, limit: int) -> list[Row]:
        """See `Store.page`."""
        return self._store.page(table, after, limit)

    def inspect(self, now: int, caller: str) -> dict[str, Any]:
        """What there is of the ledger: see `inspection.inspected`.

        And `format` of the store; `looked_at`: how many of the last day's rows since the start,
        and whether that is `complete`. Raises InvalidRequest where there is no ledger.
        """
        store = self._store
        told: dict[str, Any] = store.inspected(self._mechanism.head())
        if store.audit is not None:
            told |= {"looked_at": store.audit.checked, "complete": store.audit.done}
        return told

    def audit(self, now: int, caller: str, progress: Any = None) -> dict[str, Any]:
        """Look at some more of the ledger: see `inspection.audited`.

        progress: where the last one has come to; None: from the end. Raises InvalidRequest.
        """
        start = self._mechanism.head() or (0, "")
        try:
            known = None if progress is None else Progress.read(progress)
        except ValueError as error:
            raise InvalidRequest(f"That is no audit's progress: {error}.") from None
        return inspection.audited(self._store.archive(), known or start, self._store.head())

    def take_barriers(self) -> list[tuple[str, str]]:
        """Hand out, and forget, `barriers`."""
        barriers, self.barriers = self.barriers, []
        return barriers

    def everywhere(self, now: int, caller: str, id: str) -> Pending:
        """True comes late, under `id`, when no view holds what was changed before."""
        # Raised only once this batch's own changes are there to be seen.
        self.barriers.append((caller, id))
        return Pending(self._view_ns)

    def hello(self, now: int, caller: str, *life: str) -> None:
        """The first word of each new caller: where its process is (the fields of `Life`)."""
        self._lives.hello(Life(*life))

    def goodbye(self, now: int, caller: str) -> None:
        """The last word of a caller: its process ends."""
        self._lives.goodbye(owner_of(caller))

    def bury(self, now: int, caller: str, owner: str, lost: bool) -> int:
        """End what a dead owner holds here, and say how many holds that were.

        lost: nobody knows what it had begun. Its callers are forgotten: what they said last
        and comes only now is not run, and one that lives after all begins anew, with a hello.
        """
        ended = 0
        if "bury" in self._mechanism.COMMANDS:
            command: Any = self._mechanism
            ended = command.bury(now, caller, owner, lost)
        self._lives.forget(owner)
        self._callers.forget_owner(owner)
        return ended

    def lives(self, now: int, caller: str) -> dict[str, Any]:
        """For health: see `Lives.status`; `storage`, "ok" or "full"; `protection`, in words."""
        told = {**self._lives.status(), "storage": self.trouble.word()}
        return {**told, "protection": self._protection()}


def commands_of(
    mechanism: Mechanism, own: HostCommands
) -> Callable[[int, str, str, tuple[Any, ...]], Any]:
    """What runs a command: `(now, caller, command, args)` → its reply.

    Raises InvalidRequest for an unknown one, or arguments that could not be read; StorageFull
    for what would change something while the store can't be written. The host's own come first.
    """
    reads, trouble = own.TRANSIENT | mechanism.READS, own.trouble
    known = {name: getattr(one, name) for one in (mechanism, own) for name in one.COMMANDS}

    def run(now: int, caller: str, command: str, args: tuple[Any, ...]) -> Any:
        found = known.get(command)
        if found is None:
            raise InvalidRequest(f"{mechanism.NAME} has no command {command}")
        if trouble.lasts and command not in reads:
            raise trouble.refusal()
        if type(args) is wire.Unreadable:
            wire.refuse(command, args)
        return found(now, caller, *args)

    return run
