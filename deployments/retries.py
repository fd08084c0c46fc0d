"""When a call to a provider is tried again, and how long to wait before."""

import random
import time

_RECENT_S = 10.0


def backoff_s(failures: int, base_s: float, cap_s: float, retry_after_s: float | None) -> float:
    """Seconds before the next attempt, full jitter; a longer Retry-After wins.

    failures: how many attempts have failed (1 for the first wait).
    Source: "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    jittered = random.uniform(0.0, min(cap_s, base_s * 2.0 ** (failures - 1)))
    return max(jittered, retry_after_s or 0.0)


class RetryBudget:
    """At most a share of recent calls may be retries, plus a floor: no retry storms.

    Counts calls and retries of one target in two halves of the last ten seconds.
    """

    def __init__(self, share: float, floor: int) -> None:
        self._share = share
        self._floor = floor
        self._until = 0.0
        self._calls = [0, 0]
        self._retries = [0, 0]

    def called(self) -> None:
        """A first attempt was made."""
        self._turn()
        self._calls[1] += 1

    def may_retry(self) -> bool:
        """Whether another attempt fits; when it does, it is counted."""
        self._turn()
        if sum(self._retries) >= self._floor + self._share * sum(self._calls):
            return False
        self._retries[1] += 1
        return True

    def _turn(self) -> None:
        now = time.monotonic()
        if now < self._until:
            return
        stale = now >= self._until + _RECENT_S / 2
        self._calls = [0 if stale else self._calls[1], 0]
        self._retries = [0 if stale else self._retries[1], 0]
        self._until = now + _RECENT_S / 2
