"""What an admission took from its limits, and what of it comes back at its end."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from actors.limits import Admitted, LimitState


class Hold(NamedTuple):
    """What one admission took.

    mark: its place among all admissions. ends_ns: end of its lifetime. quantities: in the
    order of `admitted.states`.
    """

    caller: str
    mark: int
    ends_ns: int
    admitted: Admitted
    quantities: tuple[int, ...]

    def row(self) -> tuple[Any, ...]:
        """As the value of a row."""
        return (self.caller, self.mark, self.ends_ns, *self.admitted, self.quantities)

    @staticmethod
    def of_row(value: list[Any]) -> "Hold":
        """From the value of a row, tuples having become lists."""
        caller, mark, ends_ns, at_ns, states, quantities = value
        admitted = Admitted(at_ns, tuple(LimitState(*state) for state in states))
        return Hold(caller, mark, ends_ns, admitted, tuple(quantities))

    def slots(self) -> Iterator[tuple[tuple[str, str], int]]:
        """((limit, subject), slots) for each limit on concurrency."""
        for state, quantity in zip(self.admitted.states, self.quantities, strict=True):
            if state.unit == "concurrent":
                yield (state.limit, state.subject), quantity

    def returns(self, tokens: int | None, undo: bool) -> Iterator[tuple[LimitState, int]]:
        """What each limit gets back when this ends; below 0, what it is debited on top.

        tokens: the actual number, None keeps the estimate. undo: all was for nothing.
        """
        for state, quantity in zip(self.admitted.states, self.quantities, strict=True):
            if undo or state.unit == "concurrent":
                yield state, quantity
            elif state.unit == "tokens" and tokens is not None and quantity:
                yield state, quantity - tokens
            else:
                yield state, 0
