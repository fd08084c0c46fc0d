"""The ledger looked through, backwards from its head, a few rows at a time.

What the head says of the last row, that row says of the one before it, down to the first. So
each row is compared with what a row that is known to be right says of it, and a changed row is
named itself, not its neighbour.

Damage that can't be undone may be signed off: a row of state "accepted", chained on as any
other, names the rows (tags `first`, `last`), the hash of the row before them (`below`, hex), who
did it and why (`by`, `reason`). It is met first, and from then on that damage is told apart. It
never goes unmentioned.
"""

import sqlite3
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from actors.archive import Block, Place
from actors.ledger import ACCEPTED, BEGINNING, Entry, Head, written

MOST_FINDINGS = 1_000
"""More are only counted."""

_BEFORE_THE_DATABASE: Place = ("9999-99", 0)

_entry = msgspec.msgpack.Decoder(Entry).decode


class Finding(NamedTuple):
    """Rows that are not what was written.

    first, last: their numbers. reason: what is wrong. accepted: who signed that off, and why;
    None: nobody.
    """

    first: int
    last: int
    reason: str
    accepted: str | None = None

    def __str__(self) -> str:
        rows = f"row {self.first}" if self.first == self.last else f"rows {self.first}-{self.last}"
        return f"ledger {rows} {self.reason}"


class Progress(NamedTuple):
    """How far an audit is, in plain values, so that another one goes on from there.

    sequence, hash: of the row that must come next (hash "": nobody can tell). accepted: what
    was signed off, as (first, last, below, why).
    """

    place: Place | None
    sequence: int
    hash: str
    accepted: tuple[tuple[int, int, str, str], ...] = ()

    @classmethod
    def read(cls, told: Any) -> "Progress":
        """Of what JSON has made of one. Raises ValueError where it is none."""
        try:
            found = msgspec.convert(told, cls)
            for hash in (found.hash, *(below for _, _, below, _ in found.accepted)):
                bytes.fromhex(hash)
            return found
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None


class Audit:
    """See the module's docstring.

    before: reads the batch before a place, as `Archive.before`. start: where to begin.
    witness: a head that was noted elsewhere; the chain must pass through it.
    since_ns: rows written before are not looked at, nor whether they are there; None: all are.

    checked: how many rows have been looked at. done: whether there are no more.
    findings: what was found, newest first; `found` counts those that nobody has accepted.
    bad: the batches that can't be read, or are not where they should be.
    """

    def __init__(
        self,
        before: Callable[[Place | None], Block | None],
        start: Head | Progress,
        witness: Head | None = None,
        since_ns: int | None = None,
    ) -> None:
        self._before = before
        self._at = start if isinstance(start, Progress) else Progress(None, *start)
        self._hash = bytes.fromhex(self._at.hash) or None
        self._sequence = self._at.sequence
        self._accepted = list(self._at.accepted)
        self._place = self._at.place
        self._witness = witness
        self._since_ns = since_ns
        self._crossing = False
        self.checked = 0
        self.done = False
        self.found = 0
        self.findings: list[Finding] = []
        self.bad: list[Block] = []

    @property
    def progress(self) -> Progress:
        """Where it is."""
        hash = self._hash.hex() if self._hash else ""
        return Progress(self._place, self._sequence, hash, tuple(self._accepted))

    def step(self, rows: int) -> None:
        """Look at about so many more rows: by whole batches."""
        until = self.checked + rows
        while not self.done and self.checked < until:
            try:
                block = self._before(self._place)
            except sqlite3.DatabaseError as error:
                self._find(self._sequence, self._sequence, f"can't be read: {error}")
                self._hash, self._place = None, _BEFORE_THE_DATABASE
                continue
            if block is None:
                self._begins()
                break
            # Rows that were looked at in the database may have moved into a file since.
            before = self._place
            self._crossing |= before is not None and before[0] == "" != block.place[0]
            self._place = block.place
            if block.problem is not None:
                self.bad.append(block)
                last = int(block.rows[-1][0]) if block.rows else self._sequence
                self._find(last, last, f"can't be trusted: {block.problem}")
            for key, raw in reversed(block.rows):
                self._row(int(key), bytes(raw))
            # An empty batch must not make this go on for ever.
            self.checked += len(block.rows) or 1

    def _row(self, number: int, raw: bytes) -> None:
        if number > self._sequence:
            if self._crossing:
                return
            self._find(number, number, "is there twice, or was put in")
            return
        self._crossing = False
        if number < self._sequence:
            self._find(number + 1, self._sequence, "missing")
            self._go_on(number, None)
        try:
            row = written(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._find(number, number, "can't be read")
            self._go_on(number - 1, None)
            return
        if self._since_ns is not None and row.at_ns < self._since_ns:
            self.done = True
        digest = sha256(raw).digest()
        seen = self._witness is not None and self._witness[0] == number
        if row.sequence != number or (self._hash is not None and digest != self._hash):
            self._find(number, number, "is not what was written")
            self._go_on(number - 1, None)
            return
        if seen and self._witness is not None and self._witness[1] != digest.hex():
            self._find(number, number, "is not the one that was noted beside the database")
        if row.state == ACCEPTED:
            self._accept(raw)
        self._go_on(number - 1, row.previous)

    def _go_on(self, sequence: int, hash: bytes | None) -> None:
        self._sequence, self._hash = sequence, hash
        if hash is None:
            # Who signed it off has noted what the row before it was.
            for first, _, below, _ in self._accepted:
                if first == sequence + 1 and below:
                    self._hash = bytes.fromhex(below)

    def _accept(self, raw: bytes) -> None:
        entry = _entry(raw)
        try:
            told = entry.tags
            first, last, below = int(told["first"]), int(told["last"]), str(told["below"])
            bytes.fromhex(below)
        except (KeyError, ValueError):
            return
        why = f"accepted in row {entry.sequence} by {told.get('by')}: {told.get('reason')}"
        self._accepted.append((first, last, below, why))

    def _begins(self) -> None:
        """See whether the last one looked at is the beginning, as there are no more."""
        self.done = True
        if self._sequence:
            self._find(1, self._sequence, "missing")
        elif self._hash not in (None, BEGINNING):
            self._find(1, 1, "does not begin the ledger")
        self._sequence = 0

    def _find(self, first: int, last: int, reason: str) -> None:
        why = next((why for a, b, _, why in self._accepted if a <= first and last <= b), None)
        self.found += why is None
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(Finding(first, last, reason, why))
