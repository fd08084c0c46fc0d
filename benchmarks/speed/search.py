"""The largest number that still goes well."""

from collections.abc import Callable


def largest(
    goes_well: Callable[[int], bool], start: int, at_most: int, step: float = 2.0, fine: float = 1.1
) -> int:
    """By steps from `start`, then by halves; 0 where not even one goes well.

    goes_well: asked for numbers from 1 to at_most; true up to some number, false above it.
    step: factor between the first tries. fine: the answer is at most this factor too small
    (or 1 too small).
    """
    start = max(1, min(start, at_most))
    good, bad = 0, at_most + 1
    number = start
    while good < number < bad:
        if goes_well(number):
            good = number
            number = min(max(round(number * step), number + 1), at_most)
        else:
            bad = number
            number = max(round(number / step), 1) if good == 0 else good
    while bad - good > 1 and bad > good * fine and good > 0:
        middle = max(good + 1, min(bad - 1, round((good * bad) ** 0.5)))
        if goes_well(middle):
            good = middle
        else:
            bad = middle
    return good
