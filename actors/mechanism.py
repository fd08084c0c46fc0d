"""What a host needs of a mechanism: the seam between plain state machines and actors.

A mechanism is a plain class: no Ray, no I/O, no `await`, no clock of its own. Its
commands are methods `command(now, caller, *args)`; `now` is integer nanoseconds on the
clock that the mechanism names in `CLOCK`, and never goes back. A command returns a
reply (a NamedTuple or a plain value) or PENDING, and may raise a `RaygateError`, but
only before it has changed anything.
"""

import importlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol


def owner_of(caller: str) -> str:
    """The process that a caller belongs to.

    Callers of one process are named `owner.…`, one per host and beginning; a caller whose
    name has no dot is its own owner.
    """
    return caller.partition(".")[0]


class Pending(NamedTuple):
    """The reply of a command whose result will come later, addressed by the id given with it.

    wait_ns: estimated time until then, nanoseconds; None when nobody can tell.
    """

    wait_ns: int | None = None


class Row(NamedTuple):
    """One changed row. value: anything msgpack can hold; None deletes the row."""

    table: str
    key: str
    value: Any


class Result(NamedTuple):
    """The late reply to a command that was PENDING, for the caller that asked with `id`."""

    caller: str
    id: str
    reply: Any


class Gone(NamedTuple):
    """Stored in place of a reply too large to keep: the caller asks again."""


class Changes(NamedTuple):
    """What a batch changed.

    views: keys of the view entries that are different now. shown: (caller, key) of entries
    that only this caller is to have from now on.
    """

    rows: list[Row]
    results: list[Result]
    views: set[str]
    shown: list[tuple[str, str]]


Kind = Literal["live", "archive"]
"""What becomes of a table's rows: see `Mechanism.TABLES`."""


class Mechanism(Protocol):
    """See the module's docstring.

    NAME: the singleton's name.
    DURABLE: True where losing a row loses money, keys, prompts or experiments
        (committed with fsync); otherwise rows survive a kill, not a power cut.
    MIRRORED: whether the rows are kept on a second node too, as far as there is one: where
        losing them breaks a promise. Without them the host begins anew, if it is not DURABLE.
    CLOCK: "steady" (durations; stands still while the machine is off) or
        "wall" (calendar; never goes back).
    TABLES: the tables of its rows; "live" ones come back through `load`, "archive" ones
        are only appended, with rising keys, and read page by page. What is archived are rows
        of a ledger (`actors/ledger.py`): by month they leave the database.
    COMMANDS: names of the methods that a consult may call. Where callers hold things,
        `bury(now, caller, owner: str, lost: bool) -> int` is among them: it ends all that a
        dead owner holds and says how much that was. lost: nobody knows what it had begun.
    REPEATABLE: those of them that may simply be asked again, by the id that comes with them:
        their replies are not stored.
    READS: those that change no row, so that they are answered while the store can't be written.
    """

    NAME: ClassVar[str]
    DURABLE: ClassVar[bool]
    MIRRORED: ClassVar[bool]
    CLOCK: ClassVar[Literal["steady", "wall"]]
    TABLES: ClassVar[Mapping[str, Kind]]
    COMMANDS: ClassVar[frozenset[str]]
    REPEATABLE: ClassVar[frozenset[str]]
    READS: ClassVar[frozenset[str]]

    def load(self, rows: Iterable[Row]) -> None:
        """Rebuild a new object from its live rows.

        Their values are as msgpack gives them back: tuples have become lists.
        """

    def advance(self, now: int) -> int | None:
        """Do what time brings; return when to be called next (same clock), or None."""

    def take_changes(self) -> Changes:
        """Hand out, and forget, what changed since the last call."""

    def view(self, key: str, now: int) -> Any:
        """The present value of one view entry (durations counted from `now`); None: gone."""

    def view_keys(self) -> Iterable[str]:
        """The view entries that every watcher is told of, also of what became of them."""

    def owners(self) -> Collection[str]:
        """The owners who hold anything now."""

    def keep(self, reply: Any) -> Any:
        """What of this reply may be stored for a resend after a restart (or Gone())."""

    def head(self) -> tuple[int, str] | None:
        """The head of a hash chain, (sequence, hash), to be written beside the database."""

    def restored(self, head: tuple[int, str] | None) -> None:
        """Told after `load`: the head that was found beside the database."""

    def damaged(self, what: str) -> None:
        """Told when rows of an archive are not what was written: which, and how."""


def mechanism_of(factory: str) -> Mechanism:
    """The mechanism that `module:Class` names."""
    module, _, name = factory.partition(":")
    made: Mechanism = getattr(importlib.import_module(module), name)()
    return made


class Bookkeeping:
    """The part of `Mechanism` that is the same for all: collecting changes."""

    REPEATABLE: ClassVar[frozenset[str]] = frozenset()
    READS: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Any] = {}
        self._results: list[Result] = []
        self._views: set[str] = set()
        self._shown_to: list[tuple[str, str]] = []

    def put(self, table: str, key: str, value: Any) -> None:
        """Note that a row has a new value."""
        self._rows[table, key] = value

    def drop(self, table: str, key: str) -> None:
        """Note that a row is gone."""
        self._rows[table, key] = None

    def answer(self, caller: str, id: str, reply: Any) -> None:
        """Give the late reply to a command that was PENDING."""
        self._results.append(Result(caller, id, reply))

    def show(self, key: str) -> None:
        """Note that a view entry is different now."""
        self._views.add(key)

    def show_to(self, caller: str, key: str) -> None:
        """Note that this caller is to have a view entry, and is told when it changes."""
        self._shown_to.append((caller, key))

    def take_changes(self) -> Changes:
        """See `Mechanism`."""
        # There are several to every command, and a tuple's own constructor is thrice as fast.
        new = tuple.__new__
        rows = [new(Row, (table, key, value)) for (table, key), value in self._rows.items()]
        changes = Changes(rows, self._results, self._views, self._shown_to)
        self._rows, self._results, self._views, self._shown_to = {}, [], set(), []
        return changes

    def view(self, key: str, now: int) -> Any:
        """See `Mechanism`; here: nothing to show."""
        return None

    def view_keys(self) -> Iterable[str]:
        """See `Mechanism`; here: nothing to show."""
        return ()

    def keep(self, reply: Any) -> Any:
        """See `Mechanism`; here: everything."""
        return reply

    def owners(self) -> Collection[str]:
        """See `Mechanism`; here: nobody holds anything."""
        return ()

    def head(self) -> tuple[int, str] | None:
        """See `Mechanism`; here: no chain."""
        return None

    def restored(self, head: tuple[int, str] | None) -> None:
        """See `Mechanism`; here: no chain."""

    def damaged(self, what: str) -> None:
        """See `Mechanism`; here: no archive."""
