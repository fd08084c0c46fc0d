"""The ledger: append-only rows, each carrying the hash of the one before it.

Whoever changes, removes or inserts a row breaks the chain behind it, and whoever cuts
off its end or writes it anew from somewhere on misses the head, which is also kept
outside the database. A row is hashed as it is stored (msgpack), and packed only once.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from actors import periods

TABLE = "ledger"
ACCEPTED = "accepted"
"""State of a row that is no charge: somebody has signed off damage to rows before it."""
BEGINNING = bytes(32)

Head = tuple[int, str]
"""Number and hash (hex) of a ledger's last row."""

_pack = msgspec.msgpack.Encoder().encode


class Entry(NamedTuple):
    """One row of the ledger.

    sequence: 1 for the first row, then without gaps.
    previous: SHA-256 of the row before it (32 bytes; zeros in the first).
    at_ns: when it was written, Unix time in nanoseconds.
    cluster: the cluster's id.
    charge_id: the provider call that this is about.
    state: "estimated" or "actual". An actual row after an estimated one corrects it. Or
        "accepted": see `actors/ledger_audit.py`.
    amount_nanos: what the call costs according to this row, nano-dollars.
    change_nanos: what this row adds to the sum of all: `amount_nanos`, or in a
        correction the difference to the estimate.
    reserved_nanos: what had been reserved for the call.
    key, team, user, model, target, price_version: as in `Facts`.
    input, cached, output, reasoning: tokens, as in `Usage`.
    day: the day on whose budget it counts, "YYYY-MM-DD".
    tags: the caller's own labels.
    """

    sequence: int
    previous: bytes
    at_ns: int
    cluster: str
    charge_id: str
    state: str
    amount_nanos: int
    change_nanos: int
    reserved_nanos: int
    key: str
    team: str
    user: str
    model: str
    target: str
    price_version: str
    input: int
    cached: int
    output: int
    reasoning: int
    day: str
    tags: dict[str, Any]


class Written(msgspec.Struct, array_like=True):
    """The first fields of an `Entry`, read without the others."""

    sequence: int
    previous: bytes
    at_ns: int
    cluster: str
    charge_id: str
    state: str


written = msgspec.msgpack.Decoder(Written).decode


class Damage(NamedTuple):
    """Where and why a chain does not hold. sequence: of the first row that is wrong."""

    sequence: int
    reason: str


class Chain:
    """The end of a ledger, where rows are appended.

    sequence, hash: those of the last row.
    """

    __slots__ = ("hash", "sequence")

    def __init__(self, sequence: int = 0, hash: bytes = BEGINNING) -> None:
        self.sequence = sequence
        self.hash = hash

    def append(self, fields: tuple[Any, ...]) -> tuple[str, msgspec.Raw]:
        """Chain a row on: the fields of `Entry` from `at_ns` on. Returns its key and value.

        What packing raises, it raises before anything has changed.
        """
        sequence = self.sequence + 1
        packed = _pack((sequence, self.hash, *fields))
        self.sequence = sequence
        self.hash = sha256(packed).digest()
        return row_key(sequence), msgspec.Raw(packed)

    def head(self) -> Head:
        """Number and hash (hex) of the last row."""
        return self.sequence, self.hash.hex()


def row_key(sequence: int) -> str:
    """The key of a row, such that keys sort as numbers do."""
    return str(sequence).zfill(20)


def hash_of(value: Any) -> bytes:
    """SHA-256 of a row, by which the next one names it. Raises what packing raises."""
    return sha256(_pack(value)).digest()


def written_ns(packed: Any) -> int | None:
    """When a packed row was written, Unix time in nanoseconds; None: it is not a ledger's."""
    try:
        return written(packed).at_ns
    except msgspec.DecodeError:
        return None


def month_of(ns: int) -> str:
    """The calendar month (UTC) of a Unix time in nanoseconds, "YYYY-MM"; "": of no time."""
    try:
        return datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m")
    except (ValueError, OverflowError, OSError):
        return ""


def month_ends_ns(ns: int) -> int:
    """The first nanosecond after that month; 0: of no time."""
    try:
        return periods.span("month", UTC, ns).end_ns or 0
    except (ValueError, OverflowError, OSError):
        return 0


def verify(
    rows: Iterable[tuple[str, Any]], head: Head, witness: Head | None = None
) -> Damage | None:
    """Check a whole ledger; None when it is sound.

    rows: all (key, value) pairs of the table, in order of key.
    head: the head as the database has it; the chain must end there.
    witness: a head noted elsewhere, earlier perhaps; the chain must pass through it.
    """
    previous, sequence = BEGINNING, 0
    witnessed = witness is None or tuple(witness) == (0, BEGINNING.hex())
    for key, value in rows:
        sequence += 1
        if not isinstance(value, (list, tuple)) or len(value) != len(Entry._fields):
            return Damage(sequence, "not a ledger row")
        if key != row_key(sequence) or value[0] != sequence:
            return Damage(sequence, f"row {sequence} is missing, or one was put in before it")
        if value[1] != previous:
            return Damage(sequence, "does not continue the row before it: one of them was changed")
        try:
            previous = sha256(_pack(value)).digest()
        except (TypeError, OverflowError, UnicodeEncodeError):
            return Damage(sequence, "holds what no row can hold")
        witnessed = witnessed or (sequence, previous.hex()) == tuple(witness or ())
    if (sequence, previous.hex()) != tuple(head):
        return Damage(sequence, f"ends at row {sequence}, which is not the head {tuple(head)}")
    if not witnessed:
        return Damage(sequence, f"does not pass through the head noted outside, {witness}")
    return None
