"""A damaged ledger made usable again, while no host has it: nothing is invented, nothing hidden.

What can be read of a broken database is written anew, and its sums are counted again from the
ledger. Rows that are lost or changed stay so, and are signed off by a row of the ledger itself
(see `actors/ledger_audit.py`). Of every file that changes a copy is left beside it.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from actors import ledger
from actors.archive import Block, Month, block_before
from actors.cost_tracker import CostTracker
from actors.host_tables import HOST_TABLES
from actors.ledger import ACCEPTED, Chain
from actors.ledger_audit import Audit, Finding
from actors.mechanism import Row
from actors.offline_store import OfflineStore
from actors.recount import charges, counted
from actors.store import Store
from actors.store_errors import StoreError

_TABLES = {**CostTracker.TABLES, **HOST_TABLES}
_ROWS_AT_ONCE = 20_000


class Diagnosis(NamedTuple):
    """What is wrong.

    anew: the database must be written anew, because of these problems; months: so must the files
    of these.
    accept: findings that nobody has accepted yet. lost: the first and last number of rows that
    were written behind the last one there is. noted: what a host has noted about damage.
    """

    anew: list[str]
    months: list[str]
    accept: list[Finding]
    lost: tuple[int, int] | None
    noted: str | None

    @property
    def sound(self) -> bool:
        """Whether there is nothing to mend."""
        return not (self.anew or self.months or self.accept or self.lost or self.noted)


def diagnosed(store: OfflineStore) -> Diagnosis:
    """Look at all of it."""
    audit = Audit(store.archive.before, store.start(), store.noted)
    while not audit.done:
        audit.step(_ROWS_AT_ONCE)
    last = _last(store)
    ends = max(head[0] for head in (store.head, store.noted, (0, "")) if head is not None)
    lost = (last.sequence + 1, ends) if ends > last.sequence else None
    accept = [
        each
        for each in audit.findings
        if each.accepted is None and not (lost and each.first >= lost[0])
    ]
    noted = store.live.get("meta", {}).get("damage")
    anew = [*store.problems, *(str(one.problem) for one in audit.bad if not one.place[0])]
    months = {one.place[0] for one in audit.bad if one.place[0]}
    return Diagnosis(anew, sorted(months), _merged(accept), lost, noted)


def mend(path: Path, found: Diagnosis, now: int, by: str, reason: str) -> list[Path]:
    """Do it; returns the copies of what was there before.

    by, reason: who signs off what is lost, and why. now: Unix time, nanoseconds. Raises
    StoreError where a host has the store.
    """
    store = OfflineStore(path)
    try:
        copies = _copied(path, now)
        for month in list(store.archive.months):
            if month.file.month in found.months:
                copies.append(_month_anew(month, now))
        store.archive.look_again()
        last = _last(store)
        signed = [(each, _hash_of_row(store, each.first - 1)) for each in reversed(found.accept)]
        meta = store.live.get("meta", {}).get("ledger")
        if found.anew:
            _write_anew(store, now)
    finally:
        store.close()
    # What is noted beside it may be ahead of what there is.
    path.with_suffix(".head").write_bytes(b"")
    opened = Store(path, _TABLES, durable=True)
    try:
        rows: list[Row] = [Row("meta", "damage", None)]
        at_ns, cluster = max(now, last.at_ns), last.cluster
        for each, below in signed:
            tags = {"first": each.first, "last": each.last, "below": below}
            tags |= {"by": by, "reason": reason, "found": each.reason}
            rows.append(_signed(last.chain, at_ns, cluster, tags))
        if found.lost:
            # Their numbers are used again, so these are told under other names.
            tags = {"lost_first": found.lost[0], "lost_last": found.lost[1]}
            tags |= {"by": by, "reason": reason}
            rows.append(_signed(last.chain, at_ns, cluster, tags))
        overruns = list(meta[2:]) if meta else [0, 0]
        rows.append(Row("meta", "ledger", [last.chain.sequence, last.chain.hash, *overruns]))
        opened.commit(rows, last.chain.head())
    finally:
        opened.close()
    return copies


class _Last(NamedTuple):
    """The last row that there is. chain: what continues it."""

    sequence: int
    at_ns: int
    cluster: str
    chain: Chain


def _last(store: OfflineStore) -> _Last:
    place = None
    while True:
        block = store.archive.before(place)
        if block is None:
            return _Last(0, 0, "default", Chain())
        if block.rows:
            break
        place = block.place
    key, raw = block.rows[-1]
    sequence = int(key)
    hash = sha256(raw).digest()
    heads = [head for head in (store.head, store.noted) if head is not None]
    for head in heads:
        if head[0] == sequence:
            # What the row was, whatever it has become.
            hash = bytes.fromhex(head[1])
    at_ns = ledger.written_ns(raw)
    try:
        cluster = ledger.written(raw).cluster
    except msgspec.DecodeError:
        cluster = "default"
    return _Last(sequence, at_ns or 0, cluster, Chain(sequence, hash))


def _merged(findings: list[Finding]) -> list[Finding]:
    """Findings of rows next to each other as one, last ones first."""
    merged: list[Finding] = []
    for each in sorted(findings, reverse=True):
        if merged and each.last >= merged[-1].first - 1:
            before = merged.pop()
            reason = before.reason if before.reason == each.reason else "damaged"
            each = Finding(each.first, max(each.last, before.last), reason)
        merged.append(each)
    return merged


def _hash_of_row(store: OfflineStore, sequence: int) -> str:
    """The hash of a row as it is, hex; "" where there is none that can be read."""
    if sequence < 1:
        return ledger.BEGINNING.hex()
    try:
        [value] = store.page(sequence - 1, 1)
        return ledger.hash_of(value).hex() if value[0] == sequence else ""
    except (StoreError, sqlite3.Error, ValueError, TypeError):
        return ""


def _signed(chain: Chain, at_ns: int, cluster: str, tags: Mapping[str, Any]) -> Row:
    """A row that is no charge and says this."""
    nothing = (0, 0, 0, "", "", "", "", "", "", 0, 0, 0, 0)
    day = datetime.fromtimestamp(at_ns // 10**9, UTC).date().isoformat()
    id = f"accepted-{chain.sequence + 1}"
    return Row(
        ledger.TABLE, *chain.append((at_ns, cluster, id, ACCEPTED, *nothing, day, dict(tags)))
    )


def _copied(path: Path, now: int) -> list[Path]:
    """Copies of the files that change."""
    copies = []
    for file in (path, Path(f"{path}-wal"), path.with_suffix(".head")):
        if file.exists():
            copy = file.with_name(f"{file.name}.before-{now // 10**9}")
            shutil.copy2(file, copy)
            copies.append(copy)
    return copies


def _month_anew(month: Month, now: int) -> Path:
    """Leave in a month's file what can be read there; returns the copy of what was."""
    blocks, number = [], None
    while (block := block_before(month.file, number)) is not None:
        number = block.place[1]
        blocks += [block.rows] if block.rows else []
    path = month.file.path
    old = path.with_name(f"{path.name}.before-{now // 10**9}")
    shutil.copy2(path, old)
    month.file.path = path.with_suffix(".mending")
    month.file.path.unlink(missing_ok=True)
    for rows in reversed(blocks):
        month.file.append(rows)
    if blocks:
        os.replace(month.file.path, path)
    else:
        path.unlink()
    return old


def _write_anew(store: OfflineStore, now: int) -> None:
    """Put what can be read into a new database, in the place of the old one."""
    path = store.path
    new = path.with_name(f"{path.stem}.mending.sqlite")
    for file in new.parent.glob(f"{new.stem}*"):
        file.unlink()
    made = Store(new, _TABLES, durable=True)
    try:
        for block in _blocks(store):
            made.archive().put_back(block)
        live = {table: rows for table, rows in store.live.items() if table in _TABLES}
        for table, rows in counted(charges(store, made), live, now).items():
            made.commit(Row(table, key, value) for key, value in rows.items())
    finally:
        made.close()
    store.let_go()
    # The old one's WAL must never meet the new one.
    Path(f"{path}-wal").unlink(missing_ok=True)
    os.replace(new, path)
    for file in new.parent.glob(f"{new.stem}*"):
        file.unlink()


def _blocks(store: OfflineStore) -> Iterator[Block]:
    """What can be read in the database itself: from the end, then from the beginning."""
    place, first = None, None
    try:
        while (block := store.archive.before(place)) is not None and block.place[0] == "":
            place, first = block.place, block.place[1]
            if block.rows:
                yield block
        return
    except sqlite3.DatabaseError:
        pass
    yield from store.archive.from_the_beginning(first)
