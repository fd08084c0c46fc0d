"""The standby's side: copies of hosts' rows, each fed by its primary on another node.

What is acknowledged here is on this node's disk. A copy that was released, to be gone on from
by a host of its own, takes nothing any more: an old primary that comes back finds it closed.
"""

import contextlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from actors import shipments
from actors.host_tables import HOST_TABLES
from actors.mechanism import mechanism_of
from actors.shipments import Position
from actors.store import Store, StoreError
from actors.store_files import hold
from actors.terms import Standing, copies, standing_of

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode

log = logging.getLogger(__name__)


class Refused(Exception):
    """This copy is not for who asks: another one feeds it, or it was released."""


class _Fed:
    """One copy. word: of the one incarnation that feeds it."""

    def __init__(self, store: Store, path: Path, word: str) -> None:
        self.store = store
        self.path = path
        self.word = word


class Standby:
    """All copies of one gateway on one node.

    folder: the gateway's, on this node.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fed: dict[str, _Fed] = {}

    def consult(self, payload: bytes) -> bytes:
        """What a primary says: `(verb, arguments)` → `(True, reply)` or `(False, reason)`."""
        verb, arguments = _unpack(payload)
        told: dict[str, Callable[..., Any]] = {
            "begin": self._begin,
            "ship": self._ship,
            "stand": self._stand,
        }
        try:
            return _pack((True, told[verb](*arguments)))
        except (Refused, StoreError) as refused:
            return _pack((False, str(refused)))

    async def watch(self, payload: bytes) -> bytes:
        """Nobody watches a standby."""
        raise Refused("there is nothing to watch")

    def release(self, host: str) -> None:
        """Let go of a copy's files; nothing is taken for it until somebody begins anew."""
        fed = self._fed.pop(host, None)
        if fed is not None:
            fed.store.close()

    def close(self) -> None:
        """Let go of everything."""
        for host in list(self._fed):
            self.release(host)

    def _begin(
        self, host: str, factory: str, number: int, file: str, word: str, fresh: bool
    ) -> Position:
        """A primary in its term `number` begins to feed a copy; where that has come to.

        fresh: it is to become a standby, and what another one has left in its file is of no
        use. Else it is the standby of this term, and is never emptied: whoever finds the
        primary gone puts it in charge.
        """
        path = self._folder / file
        before = self._fed.get(host)
        again = before is not None and (before.path, before.word) == (path, word)
        self.release(host)
        standing = standing_of(path)
        if standing.number > number:
            raise Refused(f"{file} is of a later term than {number}")
        # Not for a while, as `Store` does: all other copies here would wait too.
        os.close(hold(path.with_suffix(".lock"), 0.0))
        if fresh:
            if not again or standing.number != number:
                _remove(path)
                # First: a copy that says nothing of itself is taken for a primary's.
                Standing(number, "joining").write(path)
            self._remove_old(host, number, path)
        elif (standing.number, standing.role) not in ((number, "standby"), (number - 1, "joining")):
            raise Refused(f"{file} is no standby of term {number}")
        mechanism = mechanism_of(factory)
        store = Store(path, {**mechanism.TABLES, **HOST_TABLES}, mechanism.DURABLE)
        self._fed[host] = _Fed(store, path, word)
        return store.position()

    def _ship(self, host: str, word: str, packed: list[bytes]) -> None:
        """What the primary has written since; nothing: it only asks whether all is well."""
        store = self._mine(host, word).store
        if packed:
            store.apply([shipments.unpack(each) for each in packed])

    def _stand(self, host: str, word: str, number: int, peer: str) -> None:
        """From here on this copy is complete, and is kept so, in a term with a standby."""
        Standing(number, "standby", peer).write(self._mine(host, word).path)

    def _mine(self, host: str, word: str) -> _Fed:
        fed = self._fed.get(host)
        if fed is None or fed.word != word:
            raise Refused(f"the copy of {host} is not fed by this one any more")
        return fed

    def _remove_old(self, host: str, number: int, but: Path) -> None:
        """Copies that earlier terms have left on this node, unless somebody has them open.

        Not one that was alone: nobody can have gone on from it but by an operator's decision,
        who may want it back.
        """
        for copy, standing in copies(self._folder, host, "", ""):
            path = self._folder / copy.file
            alone = standing.role == "primary" and not standing.peer
            if path != but and standing.number < number and not alone:
                with contextlib.suppress(StoreError):
                    _remove(path)


def _remove(path: Path) -> None:
    """Remove a copy's files. Raises StoreError where a process has it open."""
    os.close(hold(path.with_suffix(".lock"), 0.0))
    # Without a dot in the table's name: months of `h.2.sqlite` are none of `h.sqlite`.
    month = re.compile(re.escape(path.stem) + r"\.[a-z_]+-\d{4}-\d\d\.sqlite")
    for file in list(path.parent.iterdir()):
        if month.fullmatch(file.name):
            file.unlink()
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    for suffix in (".head", ".term", ".lock"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def ask(verb: str, *arguments: Any) -> bytes:
    """A question to `Standby.consult`."""
    return _pack((verb, arguments))


def answer(payload: bytes) -> Any:
    """The reply in its answer. Raises Refused."""
    took, reply = _unpack(payload)
    if not took:
        raise Refused(reply)
    return reply
