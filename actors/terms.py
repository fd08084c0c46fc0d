"""Who is in charge of a host's rows: its terms, one after another.

A term says on which node a host runs, in which file its rows are, and where its standby is. It
never changes. The next one is claimed by put-if-absent: of all who want it, exactly one gets
it, and whoever finds that a later term than his own was claimed has nothing to say any more.
Each copy of the rows has its standing written beside it, so that a cluster that has lost all
memory finds out which of them to go on from.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

# So many may be claimed while a process sleeps between two lines of `follow`.
_KEPT = 100
# A database of the first term on its node, or of the term in which it was begun as a standby.
_COPY = re.compile(r"[a-z_]+(-\d+)?(\.\d+)?\.sqlite")


class Copy(NamedTuple):
    """One copy of a host's rows. node: the cluster's id of the node; machine: its name.

    file: of the database, below the gateway's folder there.
    """

    node: str
    machine: str
    file: str


class Term(NamedTuple):
    """One term. number: without gaps on one cluster.

    moved: another copy was in charge in the term before.
    """

    number: int
    primary: Copy
    standby: Copy | None = None
    moved: bool = False


class Memory(Protocol):
    """What the cluster remembers for as long as it lives. All of it blocks."""

    def get(self, key: str) -> bytes | None:
        """The value, or None."""

    def put(self, key: str, value: bytes) -> None:
        """Set a value, whatever was there."""

    def put_new(self, key: str, value: bytes) -> bool:
        """Set a value where there is none; whether it was set."""

    def delete(self, key: str) -> None:
        """Forget a value."""


class Terms:
    """The terms of one gateway's hosts, in the cluster's memory."""

    def __init__(self, memory: Memory, name: str) -> None:
        self._memory = memory
        self._name = name

    def latest(self, host: str) -> Term | None:
        """The term in force; None where none was ever claimed on this cluster."""
        found = self._first(host)
        if found is None:
            return None
        hint = self._memory.get(self._key(host, "latest"))
        if hint is not None:
            found = self._read(host, int(hint)) or found
        while (later := self._read(host, found.number + 1)) is not None:
            found = later
        return found

    def begin(self, host: str, term: Term) -> bool:
        """Claim the cluster's first term of a host, of any number; False: there was one."""
        return self._memory.put_new(self._key(host), _written(term))

    def follow(self, host: str, before: Term, primary: Copy, standby: Copy | None) -> Term | None:
        """Claim the term after this one; None where another one was claimed in its place."""
        # Of old terms nothing is left: without this look, the next of one could be claimed anew.
        if self.latest(host) != before:
            return None
        term = Term(before.number + 1, primary, standby, primary != before.primary)
        if not self._memory.put_new(self._key(host, term.number), _written(term)):
            return None
        self._memory.put(self._key(host, "latest"), str(term.number).encode())
        self._memory.delete(self._key(host, term.number - _KEPT))
        return term

    def give_up(self, host: str) -> None:
        """Forget all terms of a host."""
        latest = self.latest(host)
        # Without the first there are none, whatever else is left for a moment.
        self._memory.delete(self._key(host))
        if latest is not None:
            for number in range(max(1, latest.number - _KEPT), latest.number + 1):
                self._memory.delete(self._key(host, number))
        self._memory.delete(self._key(host, "latest"))

    def _first(self, host: str) -> Term | None:
        return _term(self._memory.get(self._key(host)))

    def _read(self, host: str, number: int) -> Term | None:
        return _term(self._memory.get(self._key(host, number)))

    def _key(self, host: str, what: int | str = "first") -> str:
        return f"term/{self._name}/{host}/{what}"


def _written(term: Term) -> bytes:
    return json.dumps(term._asdict()).encode()


def _term(written: bytes | None) -> Term | None:
    if written is None:
        return None
    fields = json.loads(written)
    standby = fields["standby"]
    primary = Copy(*fields["primary"])
    return Term(fields["number"], primary, standby and Copy(*standby), fields["moved"])


Role = Literal["primary", "standby", "joining"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What a copy says of itself.

    number: of the term in which it last was what it is. peer: the machine of the other copy
    in that term ("": there was none). joining: not complete yet, of no use alone.
    """

    number: int
    role: Role
    peer: str = ""

    def write(self, database: Path) -> None:
        """Write it beside a database, whole or not at all, also if the power fails."""
        path = standing_path(database)
        draft = path.with_suffix(".draft")
        with draft.open("w") as out:
            json.dump(asdict(self), out)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)


def standing_path(database: Path) -> Path:
    """Where the standing of this copy is written."""
    return database.with_suffix(".term")


def standing_of(database: Path) -> Standing:
    """What a copy says of itself; one that says nothing is from before there were terms."""
    try:
        fields: dict[str, Any] = json.loads(standing_path(database).read_text())
    except FileNotFoundError:
        return Standing(0, "primary")
    return Standing(**fields)


class Found(NamedTuple):
    """A copy that was found on a node that lives."""

    copy: Copy
    standing: Standing


class Lost(Exception):
    """Nobody can tell from which copy to go on; the message says what is missing."""


def copies(folder: Path, host: str, node: str, machine: str) -> list[Found]:
    """All copies of a host's rows in a folder; of all hosts, where it is "*"."""
    found = sorted(path for path in folder.glob(f"{host}.*") if _COPY.fullmatch(path.name))
    return [Found(Copy(node, machine, path.name), standing_of(path)) for path in found]


def choose(found: Iterable[Found]) -> Found | None:
    """The copy to go on from where the cluster has no memory; None: there is none at all.

    What was alone in its term is the latest there is: nobody else can have been put in charge
    after it. What had a peer may have been left behind by that one. Raises Lost where the
    peer, or all that is complete, is not here.
    """
    every = list(found)
    whole = [one for one in every if one.standing.role != "joining"]
    if not whole:
        if every:
            raise Lost(f"{every[0].copy.file} is not a complete copy, and no other was found")
        return None
    best = max(whole, key=lambda one: (one.standing.number, one.standing.role == "primary"))
    peer = best.standing.peer
    # A pair's standings are of one term, or of two where one of them died as it began.
    others = [one for one in whole if one is not best]
    recent = [one for one in others if one.standing.number >= best.standing.number - 1]
    if peer and not any(one.copy.machine == peer for one in recent):
        raise Lost(
            f"the other copy of {best.copy.file}, which may be ahead of this one, was on "
            f"{peer}, which is not here"
        )
    return best


def successor(term: Term, alive: Iterable[str], found: Iterable[Found]) -> Copy | None:
    """Where a host goes on whose node is gone; None: nowhere.

    alive: ids of living nodes; found: the copies that are on them. The standby has all that
    was acknowledged. So has the primary's own copy, which may have come back with its machine,
    or moved to another one.
    """
    here = set(alive)
    if term.standby is not None and term.standby.node in here:
        return term.standby
    role: Role
    for role in ("primary", "standby"):
        for one in found:
            if one.standing.number == term.number and one.standing.role == role:
                return one.copy
    return None
