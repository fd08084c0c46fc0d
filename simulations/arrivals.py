"""When requests arrive: seconds from the start of a run, in ascending order.

Arrivals are decided before anything is sent, so that a slow gateway cannot slow its own load
down. That is what makes the driver open-loop.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator


def fixed_rate(rate_per_s: float, duration_s: float) -> Iterator[float]:
    """One arrival every 1/rate seconds, the first at 0; all of them before `duration_s`."""
    for number in itertools.count():
        at_s = number / rate_per_s
        if at_s >= duration_s:
            return
        yield at_s


def poisson(rate_per_s: float, duration_s: float, rng: random.Random) -> Iterator[float]:
    """Independent arrivals: exponential gaps with a mean of 1/rate seconds."""
    at_s = rng.expovariate(rate_per_s)
    while at_s < duration_s:
        yield at_s
        at_s += rng.expovariate(rate_per_s)


def bursts(
    rate_per_s: float, on_s: float, off_s: float, duration_s: float, rng: random.Random
) -> Iterator[float]:
    """Poisson arrivals for `on_s` seconds, silence for `off_s` seconds, and so on.

    rate_per_s: the rate within a burst; the long-run mean is rate·on/(on + off).
    """
    # Poisson time runs only while a burst is on; afterwards the silences are put back in.
    cycles = math.ceil(duration_s / (on_s + off_s))
    for busy_s in poisson(rate_per_s, cycles * on_s, rng):
        at_s = busy_s + math.floor(busy_s / on_s) * off_s
        if at_s >= duration_s:
            return
        yield at_s


def shaped(
    rate_at: Callable[[float], float], peak_per_s: float, duration_s: float, rng: random.Random
) -> Iterator[float]:
    """Poisson arrivals whose rate changes with time, by thinning (Lewis and Shedler, 1979).

    rate_at: seconds from the start -> arrivals per second, never above `peak_per_s`.
    """
    for at_s in poisson(peak_per_s, duration_s, rng):
        if rng.random() * peak_per_s < rate_at(at_s):
            yield at_s


def office_day(fraction: float) -> float:
    """How busy an office's service is, from 0 to 1, at a fraction of the day (0 = midnight).

    A quiet night, a peak before noon, a dip at lunch and a second, lower peak in the afternoon.
    """
    hour = 24 * fraction
    morning = math.exp(-(((hour - 10.5) / 2.2) ** 2))
    afternoon = 0.85 * math.exp(-(((hour - 15.5) / 2.4) ** 2))
    return min(1.0, 0.08 + 0.9 * max(morning, afternoon))
