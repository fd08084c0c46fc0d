"""The meter of a limit on concurrent requests."""


class Slots:
    """So many slots, which come back from their holders and not with time."""

    __slots__ = ("burst", "used")

    def __init__(self, burst: int) -> None:
        """burst: how many slots there are."""
        self.burst = burst
        self.used = 0

    def wait(self, now: int, quantity: int, high: bool = False) -> int | None:
        """0: there are `quantity` free slots. None: not now, and nobody can tell when."""
        return 0 if self.used + quantity <= self.burst else None

    def take(self, now: int, quantity: int, mark: int) -> None:
        """Occupy `quantity` slots."""
        self.used += quantity

    def close(self, now: int, mark: int, quantity: int) -> None:
        """Free `quantity` slots."""
        self.used -= quantity

    def standing(self, now: int) -> tuple[int, int]:
        """(free slots, never below 0; always 0, as nobody can tell when all are free)."""
        return max(0, self.burst - self.used), 0
