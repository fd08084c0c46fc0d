"""What was spent, counted again from the ledger, where the sums themselves are lost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from actors import budget_terms, periods
from actors.added_budgets import TABLE as ADDED
from actors.budget_terms import Terms
from actors.charges import Facts, Usage
from actors.ledger import ACCEPTED, Entry
from actors.offline_store import OfflineStore
from actors.spending import Spending
from actors.store import Store
from actors.store_errors import StoreDamaged

_SUMMED = ("accounts", "spending")
_HELD_FIELDS = 5
"""Of the row of a charge that is held; see `Charge.row`."""

_entry = msgspec.msgpack.Decoder(Entry).decode


def counted(
    entries: Iterable[Entry], live: Mapping[str, Any], now: int
) -> dict[str, dict[str, Any]]:
    """The live rows with the sums counted anew from the ledger.

    What was spent by day, and of the present periods of all budgets. Charges that the ledger
    shows as paid are held no more.
    """
    meta = live.get("meta", {})
    known = [Terms(*each) for each in meta["policy"][2]] if "policy" in meta else []
    terms = known or list(budget_terms.parse({}))
    terms += [
        Terms(*each) for each in live.get(ADDED, {}).values() if len(each) == len(Terms._fields)
    ]
    spans = [(each, periods.span(each.period, periods.zone(each.timezone), now)) for each in terms]
    spending, accounts = Spending(), dict[str, int]()
    estimates: dict[str, Usage] = {}
    held = dict(live.get("charges", {}))
    for entry in entries:
        usage = Usage(entry.input, entry.cached, entry.output, entry.reasoning)
        facts = Facts(*entry[9:15], entry.tags)
        before = estimates.pop(entry.charge_id, None)
        if entry.state == "estimated":
            estimates[entry.charge_id] = usage
        if entry.charge_id in held and _over(entry, held[entry.charge_id]):
            del held[entry.charge_id]
        more = (
            usage if before is None else Usage(*(a - b for a, b in zip(usage, before, strict=True)))
        )
        spending.add(entry.day, facts, entry.change_nanos, int(before is None), more)
        for each, span in spans:
            subject = "" if each.scope == "cluster" else str(getattr(facts, each.scope, ""))
            if entry.at_ns >= span.start_ns and (subject or each.scope == "cluster"):
                key = f"{each.name}|{span.label}|{subject}"
                accounts[key] = accounts.get(key, 0) + entry.change_nanos
    kept = {table: dict(rows) for table, rows in live.items() if table not in _SUMMED}
    kept["charges"] = held
    kept["accounts"] = {key: [posted, False, 0] for key, posted in accounts.items() if posted}
    kept["spending"] = {row.key: row.value for row in spending.take_rows()}
    return kept


def _over(entry: Entry, row: Sequence[Any]) -> bool:
    """Whether this row of the ledger ends a charge; an estimate may still be corrected."""
    return entry.state != "estimated" or len(row) == _HELD_FIELDS


def charges(store: OfflineStore, made: Store) -> Iterator[Entry]:
    """Every charge that can be read: of the months, and of the new database."""
    for month in store.archive.months:
        try:
            for _, raw in month.file.later("") if month.span else ():
                yield from _charge(raw)
        except StoreDamaged:
            continue
    for key, value in made.archive().later(""):
        if key > store.archive.moved:
            yield from _charge(msgspec.msgpack.encode(value))


def _charge(raw: Any) -> Iterator[Entry]:
    try:
        entry = _entry(raw)
    except msgspec.DecodeError:
        return
    if entry.state != ACCEPTED:
        yield entry
