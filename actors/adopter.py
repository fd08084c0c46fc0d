"""What is done for a process that died: its calls are settled, its holds end.

To be run on the machine where its outbox is. Everything here may be done twice: whoever does
it may die as well, and is followed by another one.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal

from actors.charges import Facts, Paid, Usage
from actors.consultant import Consultant
from actors.errors import RaygateError, StorageFull
from actors.life import Life
from actors.outbox import Entry, read, seize

LEDGER = "cost_tracker"

Outcome = Literal["alive", "buried", "missing"]
"""alive: its lock is held (by it, or by whoever looks after it). missing: no word of it here."""

Singletons = Callable[[], AbstractAsyncContextManager[Mapping[str, Consultant]]]
"""Opens consultants of all singletons where a process may hold something."""

_AT_ONCE = 1_000

log = logging.getLogger(__name__)


async def adopt(life: Life, at_home: bool, singletons: Singletons) -> Outcome:
    """Find out whether a process lives; if it is dead, settle, bury, and remove its files.

    at_home: this is the very node on which it ran, so that no file means a clean end; on
        another one, even of the same machine's name, it means nothing.
    Raises OSError or OutboxError where its files can't be read; nothing is settled then.
    """
    path = Path(life.path)
    try:
        seized = seize(path)
    except (FileNotFoundError, NotADirectoryError):
        if not at_home or not path.parent.is_dir():
            return "missing"
        async with singletons() as consultants:
            await bury(life.owner, False, consultants)
        return "buried"
    if seized is None:
        return "alive"
    try:
        entries = await asyncio.to_thread(read, path)
        async with singletons() as consultants:
            # First the calls: a bury gives back what the ledger holds for them.
            await settle(entries, consultants[LEDGER])
            await bury(life.owner, False, consultants)
        seized.remove()
    finally:
        seized.release()
    log.warning("process %s died; %d of its calls are settled", life.owner, len(entries))
    return "buried"


async def bury(owner: str, lost: bool, consultants: Mapping[str, Consultant]) -> int:
    """End all holds of a dead process; how many there were.

    lost: what it had begun can't be known any more.
    """
    asked = [consultant.ask("bury", owner, lost) for consultant in consultants.values()]
    return sum(await asyncio.gather(*asked))


async def settle(entries: list[Entry], ledger: Consultant) -> None:
    """Tell the ledger of each call what it does not know yet: its cost, or the worst case.

    What it refuses is logged and left: one odd entry must not keep all holds for ever.
    """
    for start in range(0, len(entries), _AT_ONCE):
        told = [_tell(entry, ledger) for entry in entries[start : start + _AT_ONCE]]
        await asyncio.gather(*told)


async def _tell(entry: Entry, ledger: Consultant) -> None:
    try:
        await ledger.ask(*_command(entry))
    except StorageFull:
        # It is in the outbox still, which stays until somebody comes again.
        raise
    except (RaygateError, ValueError, TypeError) as error:
        log.error("a dead process's call can't be settled: %s: %s", entry, error)


def _command(entry: Entry) -> tuple[Any, ...]:
    """What the ledger is told of an entry."""
    match entry.how:
        case ["reserved", worst_nanos]:
            return "post", entry.charge_id, worst_nanos, Usage(), True
        case ["leased", paid] | ["charge", paid]:
            return "charge", _paid(*paid)
        case ["post", amount_nanos, usage, estimated]:
            return "post", entry.charge_id, amount_nanos, Usage(*usage), estimated
        case ["void"]:
            return "void", entry.charge_id
    raise ValueError(f"an outbox says {entry}, which nobody understands")


def _paid(
    owner: str,
    charge_id: str,
    accounts: list[str],
    covered: int,
    amount_nanos: int,
    reserved: int,
    usage: list[int],
    facts: list[Any],
    estimated: bool,
    day: str,
) -> Paid:
    return Paid(
        owner,
        charge_id,
        tuple(accounts),
        covered,
        amount_nanos,
        reserved,
        Usage(*usage),
        Facts(*facts),
        estimated,
        day,
    )
