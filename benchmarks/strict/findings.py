"""What a judge says: figures, and where a bound is broken."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Breach(NamedTuple):
    """A bound that does not hold. invariant: I1 to I13, as in the design; times: how often."""

    invariant: str
    times: int
    text: str


@dataclass(slots=True)
class Findings:
    """figures: by their names. breaches: none where all is well."""

    figures: dict[str, Any] = field(default_factory=dict)
    breaches: list[Breach] = field(default_factory=list)

    def breach(self, invariant: str, times: int, text: str) -> None:
        """Note a broken bound, if it is one."""
        if times:
            self.breaches.append(Breach(invariant, times, text))

    def add(self, other: "Findings") -> None:
        """Take over what another judge found."""
        self.figures |= other.figures
        self.breaches += other.breaches
