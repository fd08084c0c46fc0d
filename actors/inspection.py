"""What there is of a store's ledger, in plain values: for a host that runs, and for its files."""

from pathlib import Path
from typing import Any

from actors import ledger
from actors.archive import Archive
from actors.ledger import Head
from actors.ledger_audit import Audit, Progress

AUDITED_ROWS = 2_000
"""So many rows a host looks at in one piece when it is asked to: some 10 ms."""


def inspected(path: Path, archive: Archive, head: Head | None, noted: Head | None) -> Any:
    """Months, rows, sizes.

    `months`: each with its file, bytes, first and last row, and what is wrong with it; then the
    database itself, under the month "". `head`: of the live rows; `noted`: beside the database.
    """
    months = [
        {
            "month": month.file.month,
            "file": month.file.path.name,
            "bytes": month.file.path.stat().st_size if month.file.path.exists() else 0,
            "first": int(month.span.first) if month.span else None,
            "last": int(month.span.last) if month.span else None,
            "problem": month.problem,
        }
        for month in archive.months
    ]
    after = int(archive.moved or 0)
    block = archive.before(None)
    last = int(block.rows[-1][0]) if block is not None and block.rows else None
    months.append(
        {
            "month": "",
            "file": path.name,
            "bytes": path.stat().st_size,
            "first": after + 1 if last is not None and last > after else None,
            "last": last if last is not None and last > after else None,
            "problem": block.problem if block is not None and block.place[0] == "" else None,
        }
    )
    return {
        "head": list(head) if head else None,
        "noted": list(noted) if noted else None,
        "months": months,
    }


def audited(
    archive: Archive, start: Head | Progress, noted: Head | None, rows: int = AUDITED_ROWS
) -> dict[str, Any]:
    """Look at some rows from there on backwards.

    `progress`: where to go on, as `Progress` (None: all are looked at); `checked`: how many
    there were; `findings`: as `Finding`, plain.
    """
    audit = Audit(archive.before, start, noted)
    audit.step(rows)
    return {
        "progress": None if audit.done else [*audit.progress],
        "checked": audit.checked,
        "findings": [[*finding] for finding in audit.findings],
    }


def shown(value: Any) -> dict[str, Any]:
    """A ledger row in words that JSON has: `hash` is its own, by which the next one names it."""
    entry = ledger.Entry(*value)._asdict()
    return {**entry, "previous": entry["previous"].hex(), "hash": ledger.hash_of(value).hex()}


def read(line: dict[str, Any]) -> list[Any]:
    """The row that was shown so. Raises KeyError, ValueError, TypeError where it is none."""
    return [
        bytes.fromhex(line[name]) if name == "previous" else line[name]
        for name in ledger.Entry._fields
    ]
