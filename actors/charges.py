"""What callers say about a charge and hear of it, and one charge as the tracker keeps it."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import msgspec

from actors import fields
from actors.budgets import Account
from actors.errors import InvalidRequest

State = Literal["held", "estimated", "actual", "void"]

Subjects = tuple[tuple[str, str], ...]
"""(budget, subject) pairs: the budgets that a charge falls under, and as whose."""

MAX_CHARGE_NANOS = 10**15
"""A million dollars for one provider call is a mistake."""

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


class Reserved(NamedTuple):
    """The money is held. day: the day ("YYYY-MM-DD") on which the charge counts."""

    day: str


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
    """A refusal that is remembered. digest: of the refused content; at_ns: when."""

    digest: bytes
    reply: Exhausted
    at_ns: int

    def again(self, now: int) -> Exhausted:
        """The same reply, its duration counted from `now`."""
        left = self.reply.resets_in_ns
        if left is None:
            return self.reply
        return self.reply._replace(resets_in_ns=max(0, left - (now - self.at_ns)))


class Charge:
    """One charge: held, estimated, actual or void.

    The last two keep only what tells a repeat from a mistake.

    digest: of its content. day: on which it counts. reserved: nano-dollars.
    expires_ns: when a held one is posted as estimated.
    amount, usage: what an estimate was posted at.
    closed_ns, order: when it was closed, and after how many others.
    """

    __slots__ = (
        "accounts",
        "amount",
        "closed_ns",
        "day",
        "digest",
        "expires_ns",
        "facts",
        "id",
        "order",
        "reserved",
        "state",
        "usage",
    )

    def __init__(self, id: str, state: State, digest: bytes, day: str) -> None:
        self.id = id
        self.state = state
        self.digest = digest
        self.day = day
        self.reserved = 0
        self.expires_ns = 0
        self.accounts: tuple[Account, ...] = ()
        self.facts: Facts | None = None
        self.amount = 0
        self.usage: Usage = Usage()
        self.closed_ns = 0
        self.order = 0

    def finish(self, state: Literal["actual", "void"]) -> None:
        """Reach a state that nothing changes any more; let go of what only changes need."""
        self.state = state
        self.accounts, self.facts, self.usage = (), None, _NOTHING

    def row(self) -> tuple[Any, ...]:
        """Its row, from which `from_row` makes it again."""
        head = (self.state, self.digest, self.day)
        if self.state == "held":
            keys = [account.key for account in self.accounts]
            return (*head, self.reserved, self.expires_ns, keys, self.facts)
        if self.state == "estimated":
            keys = [account.key for account in self.accounts]
            closed = (self.closed_ns, self.order, self.amount, self.usage)
            return (*head, self.reserved, self.expires_ns, keys, self.facts, *closed)
        return (*head, self.closed_ns, self.order)

    @classmethod
    def from_row(cls, id: str, row: Sequence[Any], accounts: Mapping[str, Account]) -> "Charge":
        """The charge of that row.

        accounts: by key; those that are gone are made up again, outside of the books.
        """
        state, digest, day, *rest = row
        charge = cls(id, state, digest, day)
        if state in ("held", "estimated"):
            charge.reserved, charge.expires_ns, keys, facts, *rest = rest
            charge.accounts = tuple(accounts.get(key) or Account(key) for key in keys)
            charge.facts = Facts(*facts)
        if state != "held":
            charge.closed_ns, charge.order, *rest = rest
        if state == "estimated":
            charge.amount, usage = rest
            charge.usage = Usage(*usage)
        return charge


_NOTHING = Usage()


def fingerprint(subjects: Subjects, amount_nanos: int, facts: Facts) -> bytes:
    """A digest of all that must be the same when a charge id comes again.

    Raises InvalidRequest for facts that can't be stored.
    """
    try:
        packed = _pack((subjects, amount_nanos, facts))
    except (TypeError, OverflowError, UnicodeEncodeError):
        raise InvalidRequest(
            "A charge's facts and tags must be plain values: text without lone surrogates, "
            "numbers within 64 bits, lists and mappings.",
            param="facts",
        ) from None
    return blake2b(packed, digest_size=16).digest()


def check_amount(nanos: int) -> None:
    """Raise InvalidRequest unless it is an amount that one provider call can cost."""
    if type(nanos) is not int or not 0 <= nanos <= MAX_CHARGE_NANOS:
        raise fields.invalid("amount_nanos", f"an integer from 0 to {MAX_CHARGE_NANOS}")
