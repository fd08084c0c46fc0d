"""`raygate ledger`: what the money's ledger holds, whether it is sound, and a copy of it."""

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from actors.ledger import month_of
from actors.ledger_audit import Finding
from deployments.cli import ledger_file
from deployments.cli.ledger_adopt import adopt
from deployments.cli.ledger_repair import repair
from deployments.cli.ledger_source import Line, Source, Where, source
from deployments.cli.options import ConfigOption, JsonOption, KeyOption, UrlOption
from deployments.cli.terminal import Problem, answers, line, notice, progress

app = typer.Typer(help="The ledger: inspect, verify, export, repair, adopt.", no_args_is_help=True)

StorageOption = Annotated[
    Path | None,
    typer.Option("--storage-path", help="The files of a gateway that does not run."),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Which gateway's, where that folder holds several.")
]

_SHOWN = 50


@app.command()
def inspect(
    config: ConfigOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    storage_path: StorageOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """What there is: months, rows, sizes, heads, and what is wrong at first sight."""
    with source(Where(config, url, key, storage_path, name)) as ledger:
        found = ledger.inspect()
    if as_json:
        line(json.dumps(found))
        return
    table = Table("month", "first row", "last row", "MiB", "file", "problem")
    for month in found["months"]:
        cells = [month["month"] or "running", month["first"] or "-", month["last"] or "-"]
        size = f"{month['bytes'] / 2**20:,.1f}"
        table.add_row(*map(str, cells), size, month["file"], month["problem"] or "")
    answers.print(table)
    for word, head in (("ends at", found["head"]), ("noted beside it", found["noted"])):
        line(f"{word}: " + (f"row {head[0]}, {head[1]}" if head else "nothing"))
    line(f"format: {found['format']}")
    if "looked_at" in found:
        how = "all" if found["complete"] else "so far"
        line(f"looked at since the start: {found['looked_at']:,} rows of the last day ({how})")
    for problem in found.get("problems", ()):
        line(f"problem: {problem}")


@app.command()
def verify(
    file: Annotated[Path | None, typer.Argument(help="An exported ledger.")] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    storage_path: StorageOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every row, of a gateway that runs, of its files, or of an exported file.

    Exit code 1 where rows are missing or not what was written, unless that was accepted.
    """
    if file is not None:
        with file.open() as opened:
            end, wrong = ledger_file.verify(opened)
        _report(end["rows"], end["last"], end["hash"], wrong, [], as_json)
        return
    with source(Where(config, url, key, storage_path, name)) as ledger:
        found = ledger.inspect()
        checked, findings = audited(ledger)
    wrong = [str(each) for each in findings if each.accepted is None]
    accepted = [f"{each} ({each.accepted})" for each in findings if each.accepted is not None]
    wrong += found.get("problems", [])
    last, hash = found["head"] or (0, None)
    _report(checked, last, hash, wrong, accepted, as_json)


def audited(ledger: Source) -> tuple[int, list[Finding]]:
    """Look through all of a ledger: how many rows there were, and what was found."""
    checked, findings, at = 0, [], None
    with progress() as say:
        while True:
            began = time.monotonic()
            told = ledger.audit(at)
            checked += told["checked"]
            findings += [Finding(*each) for each in told["findings"]]
            at = told["progress"]
            if at is None:
                return checked, findings
            say(f"Verifying: {at[1]:,} rows to go")
            if ledger.shared:
                # At least half of its time is for those who ask the gateway.
                time.sleep(time.monotonic() - began)


def _report(
    rows: int, last: int, hash: str | None, wrong: list[str], accepted: list[str], as_json: bool
) -> None:
    if as_json:
        told = {"rows": rows, "last": last, "hash": hash, "wrong": wrong, "accepted": accepted}
        line(json.dumps({"sound": not wrong, **told}))
    else:
        for text in accepted[:_SHOWN]:
            line(f"accepted: {text}")
        for text in wrong[:_SHOWN]:
            line(text)
        if len(wrong) > _SHOWN:
            line(f"and {len(wrong) - _SHOWN:,} more")
        state = "is NOT sound" if wrong else "is sound"
        line(f"The ledger {state}: {rows:,} rows, the last is {last}, {hash}")
    if wrong:
        raise typer.Exit(1)


@app.command()
def export(
    month: Annotated[str | None, typer.Option(help="Only rows written in it, YYYY-MM.")] = None,
    since: Annotated[str | None, typer.Option(help="Only rows from that day on, UTC.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: stdout.")] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    storage_path: StorageOption = None,
    name: NameOption = None,
) -> None:
    """Every row as a line of JSON, while requests run; `raygate ledger verify FILE` checks it."""
    since_ns = 0 if since is None else _day_ns(since)
    if month is not None and (len(month) != 7 or _day_ns(f"{month}-01") < 0):
        raise Problem("--month is a year and a month, such as 2026-10.")
    with source(Where(config, url, key, storage_path, name)) as ledger:
        lines = _lines(ledger, month, since_ns)
        if output is None:
            end = ledger_file.write(lines, sys.stdout)
        else:
            with output.open("x") as file:
                end = ledger_file.write(lines, file)
    notice(f"{end['rows']:,} rows; the last is {end['last']}, {end['hash']}")


def _lines(ledger: Source, month: str | None, since_ns: int) -> Iterator[Line]:
    """The rows of a month, or all, that were written since then, in order."""
    found = ledger.inspect()
    # Rows that come while this runs are for the next time.
    last = (found["head"] or (0, ""))[0]
    first = 0
    for each in found["months"]:
        if month is not None and each["month"] == month:
            first, last = (each["first"] or 1) - 1, min(last, each["last"] or last)
            break
        past = each["month"] < (month or month_of(since_ns)) and each["month"] and each["last"]
        first = max(first, int(each["last"])) if past else first
    while first < last:
        page = ledger.page(first)
        for row in page:
            if row["sequence"] > last or (month and month_of(row["at_ns"]) > month):
                return
            if row["at_ns"] >= since_ns and month in (None, month_of(row["at_ns"])):
                yield row
        if not page:
            return
        first = page[-1]["sequence"]


def _day_ns(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9
    except ValueError:
        raise Problem(f"{text} is no day, such as 2026-11-29.") from None


app.command()(repair)
app.command()(adopt)
