"""What callers say about a charge and hear of it, and one charge as the tracker keeps it."""

from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from actors import fields
from actors.accounts import Account
from actors.errors import InvalidRequest

Subjects = tuple[tuple[str, str], ...]
"""(budget, subject) pairs: the budgets that a charge falls under, and as whose."""

MAX_CHARGE_NANOS = 10**15
"""A million dollars for one provider call is a mistake."""

UNSTORABLE = (TypeError, OverflowError, UnicodeEncodeError)
"""What packing raises for values that can't be stored."""

_new = tuple.__new__
_pack = msgspec.msgpack.Encoder().encode


class Usage(NamedTuple):
    """Tokens of one provider call.

    input: all input tokens, the cached ones among them.
    cached: those of the input that the provider read from its cache.
    output: all output tokens, the reasoning ones among them.
    reasoning: those of the output that were reasoning.
    """

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


class Facts(NamedTuple):
    """What the ledger notes of a call.

    key: the id of the API key; team, user: of the caller ("" where there is none);
    model, target: what was asked for, and the provider and model that it goes to;
    price_version: which prices its amounts are from; tags: the caller's own labels.
    """

    key: str
    team: str
    user: str
    model: str
    target: str
    price_version: str
    tags: dict[str, Any]


class Paid(NamedTuple):
    """A call that was paid from slices.

    owner: whose slices. accounts: row keys of all accounts that the call falls under, and of
    each of which the slice has paid `covered` nano-dollars.
    amount_nanos: what it cost. reserved: the most that it might have cost.
    usage, facts: as `Usage` and `Facts`; plain tuples of the same will do, and travel faster.
    estimated: the cost is not known; this is the most that it can be.
    day: "YYYY-MM-DD", on which it counts.
    """

    owner: str
    charge_id: str
    accounts: tuple[str, ...]
    covered: int
    amount_nanos: int
    reserved: int
    usage: Usage
    facts: Facts
    estimated: bool
    day: str


class Reserved(NamedTuple):
    """The money is held.

    day: the day ("YYYY-MM-DD") on which the charge counts.
    accounts: row keys of all accounts that hold it. They are the same for whoever has the
        same facts and subjects, while the revision is the same.
    revision: of the budgets; see the view entry "budgets". 0, with no accounts: the charge
        has been closed meanwhile.
    """

    day: str
    accounts: tuple[str, ...]
    revision: int


class Exhausted(NamedTuple):
    """Refused: a budget has too little left. Final for its charge id.

    budget, subject: which budget, and whose ("" for the cluster).
    amount_nanos: the budget. available_nanos: what it has left (0 when overspent).
    resets_in_ns: time until its next period; None: it has none.
    """

    budget: str
    subject: str
    amount_nanos: int
    available_nanos: int
    resets_in_ns: int | None


class Refusal(NamedTuple):
    """A refusal that is remembered. check: of the refused contents; at_ns: when."""

    check: int
    reply: Exhausted
    at_ns: int

    def again(self, now: int) -> Exhausted:
        """The same reply, its duration counted from `now`."""
        left = self.reply.resets_in_ns
        if left is None:
            return self.reply
        return self.reply._replace(resets_in_ns=max(0, left - (now - self.at_ns)))


class Charge:
    """One charge that is held, or posted as estimated.

    owner: who holds it. contents: see `contents`. day, revision: as in `Reserved`.
    reserved: nano-dollars. accounts: that hold it, or on which it was posted.
    amount, usage, closed_ns: what an estimate was posted at, and when.
    """

    __slots__ = (
        "accounts",
        "amount",
        "closed_ns",
        "contents",
        "day",
        "estimated",
        "facts",
        "id",
        "owner",
        "reserved",
        "revision",
        "usage",
    )

    def __init__(
        self,
        id: str,
        owner: str,
        contents: bytes,
        day: str,
        revision: int,
        reserved: int,
        accounts: tuple[Account, ...],
        facts: Facts,
    ) -> None:
        self.id = id
        self.owner = owner
        self.contents = contents
        self.day = day
        self.revision = revision
        self.reserved = reserved
        self.accounts = accounts
        self.facts = facts
        self.estimated = False

    def estimate(self, now: int, amount: int, usage: Usage) -> None:
        """Become an estimate, posted at `amount`."""
        self.estimated = True
        self.amount, self.usage, self.closed_ns = amount, usage, now

    def reply(self) -> Reserved:
        """What its holder hears."""
        keys = tuple([account.key for account in self.accounts])
        # The quick way to make one, as this runs for every request.
        return _new(Reserved, (self.day, keys, self.revision))

    def row(self) -> tuple[Any, ...]:
        """Its row, from which `from_row` makes it again."""
        keys = [account.key for account in self.accounts]
        head = (self.owner, self.day, self.revision, keys, msgspec.Raw(self.contents))
        return (*head, self.amount, self.usage, self.closed_ns) if self.estimated else head

    @classmethod
    def from_row(cls, id: str, row: Sequence[Any], accounts: Mapping[str, Account]) -> "Charge":
        """The charge of that row.

        accounts: by key; those that are gone are made up again, outside of the books.
        """
        owner, day, revision, keys, told, *estimate = row
        subjects, reserved, facts = told
        found = tuple(accounts.get(key) or Account(key) for key in keys)
        packed = contents(subjects, reserved, facts)
        charge = cls(id, owner, packed, day, revision, reserved, found, Facts(*facts))
        if estimate:
            amount, usage, closed_ns = estimate
            charge.estimate(closed_ns, amount, Usage(*usage))
        return charge


def contents(subjects: Sequence[Any], amount_nanos: int, facts: Sequence[Any]) -> bytes:
    """All that must be the same when a charge id comes again, packed.

    Raises InvalidRequest for facts that can't be stored.
    """
    try:
        return _pack((subjects, amount_nanos, facts))
    except UNSTORABLE:
        raise unstorable() from None


def unstorable() -> InvalidRequest:
    """The error for facts that can't be stored."""
    return InvalidRequest(
        "A charge's facts and tags must be plain values: text without lone surrogates, "
        "numbers within 64 bits, lists and mappings.",
        param="facts",
    )


def check_amount(nanos: int, param: str = "amount_nanos") -> None:
    """Raise InvalidRequest unless it is an amount that one provider call can cost."""
    if type(nanos) is not int or not 0 <= nanos <= MAX_CHARGE_NANOS:
        raise fields.invalid(param, f"an integer from 0 to {MAX_CHARGE_NANOS}")


# A charge that nothing changes any more is one number, of which hundreds of thousands are
# kept: how it ended, a checksum of its contents, and the day on which it counts.

POSTED, VOID, PAID = 1, 2, 3
"""How a charge ended: posted, given back, paid from slices (one that was never held)."""
_CHECK = 2**32 - 1


class Closed(NamedTuple):
    """What is kept of a closed charge: how it ended, a checksum of its contents, its day."""

    end: int
    check: int
    day: str


def seal(end: int, contents: bytes, day: str) -> int:
    """A closed charge as one number."""
    return _ordinal(day) << 34 | crc32(contents) << 2 | end


def unseal(seal: int) -> Closed:
    """The charge that was made a number."""
    return Closed(seal & 3, seal >> 2 & _CHECK, date.fromordinal(seal >> 34 or 1).isoformat())


def checksum(contents: bytes) -> int:
    """Tells repeats from mistakes where the contents themselves are kept no more."""
    return crc32(contents)


@lru_cache(maxsize=64)
def _ordinal(day: str) -> int:
    return date.fromisoformat(day).toordinal()
