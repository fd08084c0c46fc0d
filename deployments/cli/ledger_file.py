"""A ledger in a file: a line of JSON for each row, and a last one that says what there is."""

import json
from collections.abc import Iterable
from typing import IO, Any

from actors import inspection
from actors.ledger import BEGINNING, hash_of
from deployments.cli.ledger_source import Line
from deployments.cli.terminal import Problem


def write(lines: Iterable[Line], file: IO[str]) -> dict[str, Any]:
    """Write the rows, then what they are; returns that.

    `rows`, `first`, `last`: how many, and their numbers; `hash`: the last one's, which names
    them all.
    """
    rows, first, last, hash = 0, None, None, None
    for line in lines:
        file.write(json.dumps(line) + "\n")
        rows += 1
        first = line["sequence"] if first is None else first
        last, hash = line["sequence"], line["hash"]
    end = {"rows": rows, "first": first, "last": last, "hash": hash}
    file.write(json.dumps({"ledger": end}) + "\n")
    return end


def verify(file: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Check an exported ledger by itself: what it says that it holds, and what is wrong with it.

    Every row has its own hash and names the one before it. Whoever writes the file anew from
    somewhere on ends it with another hash: compare that with the gateway's.
    """
    found: list[str] = []
    previous, sequence, rows = None, None, 0
    for number, text in enumerate(file, 1):
        try:
            line = json.loads(text)
        except ValueError:
            found.append(f"line {number} is not JSON")
            continue
        if isinstance(line, dict) and "ledger" in line:
            end = line["ledger"]
            if (rows, sequence, previous) != (end["rows"], end["last"], end["hash"]):
                found.append(f"the file should end with row {end['last']}, {end['rows']} in all")
            return end, found
        try:
            row = inspection.read(line)
            hash = hash_of(row).hex()
        except (KeyError, ValueError, TypeError, OverflowError):
            found.append(f"line {number} holds no ledger row")
            continue
        if sequence is None and row[0] == 1 and row[1] != BEGINNING:
            found.append("ledger row 1 does not begin the ledger")
        if sequence is not None and row[0] != sequence + 1:
            found.append(f"ledger row {sequence + 1} is missing before line {number}")
        elif hash != line.get("hash"):
            found.append(f"ledger row {row[0]} is not what was written")
        elif previous is not None and line["previous"] != previous:
            found.append(f"ledger row {row[0]} does not continue the one before it")
        sequence, previous, rows = row[0], line.get("hash"), rows + 1
    raise Problem("The file has no last line: it was cut off, or is no exported ledger.")
