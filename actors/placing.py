"""Where a host runs: by the term in force, or by the copies of its rows that are found.

A durable host never begins empty while the cluster may have a copy of its rows: it goes on
from the one that has all that was acknowledged, or it waits until somebody says from which.
All functions here block: call them off the event loop.
"""

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from actors import home as homes
from actors import nodes
from actors.home import Home
from actors.mechanism import mechanism_of
from actors.nodes import Node
from actors.terms import Copy, Found, Lost, Term, choose, copies, successor

_LOOK_S = 20.0
_LOOK_AGAIN_S = 5.0

log = logging.getLogger(__name__)


def term_of(name: str, host: str, factory: str, place: Home) -> tuple[Term, bool]:
    """The term in force of a host; and whether it was claimed here, after one on another node.

    Raises Lost where nobody can tell from which copy the host may go on.
    """
    terms = homes.terms_of(name)
    latest = terms.latest(host)
    if latest is None:
        first = _first(name, host, factory, place)
        terms.begin(host, first)
        latest = terms.latest(host)
        if latest is None:
            raise LookupError(f"the singletons of {name} were ended; start its replicas anew")
        return latest, False
    alive = nodes.preferred()
    if any(node.id == latest.primary.node for node in alive):
        return latest, False
    copy = _next(name, host, factory, place, latest, alive)
    log.warning("%s was on a node that is gone; it goes on on %s", host, copy.machine)
    taken = terms.follow(host, latest, copy, None)
    if taken is None:
        raise Lost(f"somebody else has just placed {host}")
    return taken, True


def node_is_gone(name: str, host: str) -> bool:
    """Whether the node is gone on which a host runs, by the term in force."""
    latest = homes.terms_of(name).latest(host)
    return latest is not None and all(node.id != latest.primary.node for node in nodes.preferred())


def survey(name: str, place: Home, at: list[Node]) -> dict[str, list[Found]]:
    """All copies of all hosts' rows on these nodes, by node."""
    told = nodes.everywhere(look, at, _LOOK_S, name, place.folder)
    by_id = {node.id: node for node in at}
    return {
        id: [
            Found(one.copy._replace(node=id, machine=by_id[id].machine), one.standing)
            for one in found
        ]
        for id, found in told.items()
    }


def look(name: str, folder: str) -> list[Found]:
    """The copies of all hosts' rows on this machine."""
    return copies(Path(folder).expanduser() / name, "*", "", "")


def _first(name: str, host: str, factory: str, place: Home) -> Term:
    alive = nodes.preferred()
    home_node = next((node for node in alive if node.id == place.node), alive[0])
    fresh = Copy(home_node.id, home_node.machine, f"{host}.sqlite")
    mechanism = mechanism_of(factory)
    found, silent = _found(name, host, place, alive, home_node)
    if not mechanism.MIRRORED:
        # A later one than any before: nobody may take this life for an earlier one.
        return Term(1 + max((one.standing.number for one in found), default=0), fresh)
    try:
        best = choose(found)
    except Lost:
        if mechanism.DURABLE:
            raise
        # It begins anew: in a file, and a term, that no other copy can be taken for.
        number = 1 + max(one.standing.number for one in found)
        return Term(number, fresh._replace(file=f"{host}.{number}.sqlite"))
    if best is None:
        if silent and mechanism.DURABLE:
            raise Lost(f"no copy of {host} was found, and {', '.join(silent)} has not answered yet")
        return Term(1, fresh)
    return Term(best.standing.number + 1, best.copy)


def _next(name: str, host: str, factory: str, place: Home, latest: Term, alive: list[Node]) -> Copy:
    """The copy to go on from, where the node of the term in force is gone."""
    copy = successor(latest, (node.id for node in alive), ())
    if copy is not None:
        return copy
    if not mechanism_of(factory).DURABLE:
        return Copy(alive[0].id, alive[0].machine, f"{host}.{latest.number + 1}.sqlite")
    copy = successor(latest, (), _found(name, host, place, alive, alive[0])[0])
    if copy is None:
        raise Lost(
            f"the rows of {host} were on {latest.primary.machine}, which is gone, and no other "
            "copy is complete. Bring that machine back, or decide: raygate ledger adopt"
        )
    return copy


_looking = threading.Lock()
_looked: dict[tuple[str, str], tuple[float, list[Found], list[str]]] = {}


def _found(
    name: str, host: str, place: Home, alive: list[Node], first: Node
) -> tuple[list[Found], list[str]]:
    """The copies of one host's rows on living nodes, those of `first` first.

    And the machines that have not said what they have. All hosts are looked for at once, and
    not again at once.
    """
    with _looking:
        at_s, found, silent = _looked.get((name, place.claim), (0.0, [], []))
        if not at_s or time.monotonic() - at_s > _LOOK_AGAIN_S:
            surveyed = survey(name, place, alive)
            order = sorted(surveyed, key=lambda id: id != first.id)
            found = [one for id in order for one in surveyed[id]]
            silent = [node.machine for node in alive if node.id not in surveyed]
            _looked.clear()
            _looked[name, place.claim] = (time.monotonic(), found, silent)
    mine = (f"{host}.",)
    seen: set[tuple[str, str]] = set()
    own = []
    for one in found:
        # Several nodes may be one machine, with one folder.
        where = (one.copy.machine, one.copy.file)
        if one.copy.file.startswith(mine) and where not in seen:
            seen.add(where)
            own.append(one)
    return own, silent


class Waiting(NamedTuple):
    """A host that nobody can place. why: in a sentence; found: the copies that there are."""

    host: str
    why: str
    found: list[Found]


def waiting(name: str, place: Home, factories: Mapping[str, str]) -> list[Waiting]:
    """The hosts that wait for somebody's decision. factories: by the names of all hosts."""
    lost = []
    for host, factory in factories.items():
        try:
            term_of(name, host, factory, place)
        except Lost as error:
            alive = nodes.preferred()
            found, _ = _found(name, host, place, alive, alive[0])
            lost.append(Waiting(host, str(error), found))
    return lost


def adopt(name: str, host: str, chosen: Copy | None) -> Term:
    """Have a host that waits go on from this copy; None: begin empty, and lose what it had.

    Raises Lost where somebody else has decided meanwhile.
    """
    terms = homes.terms_of(name)
    place = homes.home(name)
    if place is None:
        raise LookupError(f"no gateway named {name} runs on this cluster")
    alive = nodes.preferred()
    known = [one.standing.number for one in _found(name, host, place, alive, alive[0])[0]]
    latest = terms.latest(host)
    number = max([*known, latest.number if latest is not None else 0]) + 1
    while latest is not None and latest.number + 1 < number:
        # A later term than any copy is of, and without gaps.
        latest = terms.follow(host, latest, latest.primary, None)
        if latest is None:
            raise Lost(f"somebody else has just decided for {host}")
    # A file of its own: what is lost today may be found tomorrow.
    copy = chosen or Copy(alive[0].id, alive[0].machine, f"{host}.{number}.sqlite")
    if latest is None:
        taken = Term(number, copy) if terms.begin(host, Term(number, copy)) else None
    else:
        taken = terms.follow(host, latest, copy, None)
    if taken is None:
        raise Lost(f"somebody else has just decided for {host}")
    log.warning("%s goes on from %s on %s, as an operator says", host, copy.file, copy.machine)
    return taken
