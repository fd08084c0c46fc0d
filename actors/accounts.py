"""What is spent and held of one budget: accounts, and the period that they are for.

An account belongs to one budget, one subject (a team, a key, ...; "" for the cluster)
and one period. Its row key is `budget|period|subject`; only the subject may hold a bar.
"""

from datetime import tzinfo

from actors import periods
from actors.budget_terms import Terms

NEVER_NS = 2**63 - 1


class Account:
    """What one subject has used of one budget in one period.

    posted, pending: nano-dollars spent and held. lent: those of the held ones that are in
    slices. open: held charges and slices. recalled_ns: when slices were last recalled.
    ended: its period is over, or its budget gone; it goes with the last that it holds.
    kept: it is in the books.

    Its row says what the rows of charges and slices do not: what is posted, and the rest of
    its own. So holding money costs an account no row.
    """

    __slots__ = ("ended", "kept", "key", "lent", "open", "pending", "posted", "recalled_ns")

    def __init__(self, key: str) -> None:
        self.key = key
        self.posted = self.pending = self.lent = self.open = self.recalled_ns = 0
        self.ended = self.kept = False

    @property
    def budget(self) -> str:
        """The name of its budget."""
        return self.key.split("|", 1)[0]

    @property
    def label(self) -> str:
        """Its period's label."""
        return self.key.split("|", 2)[1]

    @property
    def subject(self) -> str:
        """Whose it is."""
        return self.key.split("|", 2)[2]


class Budget:
    """One budget, with its present period. prefix: what that period's row keys begin with."""

    __slots__ = ("amount_nanos", "end_ns", "label", "prefix", "terms", "zone")

    def __init__(self, terms: Terms, zone: tzinfo) -> None:
        self.terms = terms
        self.zone = zone
        self.amount_nanos = terms.amount_nanos
        self.label = ""
        self.prefix = ""
        self.end_ns = 0

    def roll(self, now: int) -> None:
        """Enter the period that `now` lies in."""
        self.label, _, end_ns = periods.span(self.terms.period, self.zone, now)
        self.prefix = f"{self.terms.name}|{self.label}|"
        self.end_ns = NEVER_NS if end_ns is None else end_ns

    def resets_in_ns(self, now: int) -> int | None:
        """Time until its next period, or None."""
        return None if self.end_ns == NEVER_NS else self.end_ns - now


Picked = list[tuple[Budget, Account]]
"""The accounts that a charge falls under, each with its budget."""
