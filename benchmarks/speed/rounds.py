"""Alternating rounds: everybody in turn, again and again, and what comes of it in the middle."""

import statistics
import sys
import time
from collections.abc import Sequence


class Progress:
    """Says on standard error what was found, how far it is, and about how long it will take.

    seconds: what all of it takes, as planned.
    """

    def __init__(self, seconds: float) -> None:
        self._planned_s = self._left_s = max(seconds, 1.0)
        self._began = time.monotonic()

    def done(self, seconds: float, text: str) -> None:
        """Something that was planned to take so long is done."""
        self._left_s -= seconds
        spent_s = time.monotonic() - self._began
        share = 1 - self._left_s / self._planned_s
        left_s = spent_s * (1 / share - 1) if share > 0.05 else self._left_s
        left = f"{left_s / 60:3.0f} min left" if left_s >= 60 else "nearly done"
        print(f"{min(share, 1.0):4.0%}  {left:>12}  {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Something to know."""
        print(f"{'':18}  {text}", file=sys.stderr, flush=True)


def median(values: Sequence[float]) -> float:
    """The one in the middle, to four digits that mean something."""
    return float(f"{statistics.median(values):.4g}")


def share(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios, round by round: what both met at the same time cancels out."""
    pairs = zip(ours, theirs, strict=True)
    return median([one / other for one, other in pairs if other])
