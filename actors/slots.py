"""The meter of a limit on concurrent requests."""


class Slots:
    """So many slots, which come back from their holders and not with time.

    used: taken directly. held: lent, whether their holder uses them or not.
    """

    __slots__ = ("burst", "held", "used")

    def __init__(self, burst: int) -> None:
        """burst: how many slots there are."""
        self.burst = burst
        self.used = 0
        self.held = 0

    def wait(self, now: int, quantity: int, high: bool = False) -> int | None:
        """0: there are `quantity` free slots. None: not now, and nobody can tell when."""
        return 0 if self.used + self.held + quantity <= self.burst else None

    def take(self, now: int, quantity: int, mark: int) -> tuple[int, int]:
        """Occupy `quantity` slots; returns the `standing` after it."""
        self.used += quantity
        return self.standing(now)

    def close(self, now: int, mark: int, quantity: int) -> None:
        """Free `quantity` slots."""
        self.used -= quantity

    def lend(self, quantity: int) -> None:
        """Let so many slots more be lent; below 0: so many are lent no longer."""
        self.held += quantity

    def spare(self, now: int, most: int) -> int:
        """Slots that can be lent while at most `most` are used or lent; may be below 0."""
        return most - self.used - self.held

    def standing(self, now: int) -> tuple[int, int]:
        """(free slots, never below 0; always 0, as nobody can tell when all are free)."""
        return max(0, self.burst - self.used - self.held), 0
