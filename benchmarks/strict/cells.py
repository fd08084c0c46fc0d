"""The cells of the table: how many replicas, how many clients, and what goes wrong."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, get_args

Trouble = Literal["plain", "leaving", "replica", "singleton", "scarce", "chaos"]
"""What a cell's clients meet.

plain: nothing. leaving: a tenth of the requests is broken off by its client. replica, singleton:
one of them is killed with -9 every few seconds. scarce: limits and budgets are nearly used up.
chaos: whatever can go wrong, one thing after the other, and clients that leave; it is in no
table (`benchmarks/chaos`).
"""
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)[:-1]
REPLICAS = (1, 2, 4, 8)
CLIENTS = (32, 256)


class Cell(NamedTuple):
    """One cell. clients: how many ask at the same time, each one request after the other."""

    replicas: int
    clients: int
    trouble: Trouble

    @property
    def name(self) -> str:
        """As it is chosen on the command line, such as 2x32-plain."""
        return f"{self.replicas}x{self.clients}-{self.trouble}"

    @property
    def tag(self) -> str:
        """What it is called within one gateway."""
        return f"{self.clients}-{self.trouble}"


ALL = tuple(
    Cell(replicas, clients, trouble)
    for replicas in REPLICAS
    for clients in CLIENTS
    for trouble in TROUBLES
)
SHORT = tuple(cell for cell in ALL if (cell.replicas, cell.clients) == (2, 32))


def choose(patterns: Sequence[str], among: Iterable[Cell] = ALL) -> tuple[Cell, ...]:
    """The cells whose names fit one of these patterns (`*`, `?`), in the table's order.

    Raises ValueError for a pattern that no cell fits.
    """
    cells = tuple(among)
    for pattern in patterns:
        if not any(fnmatchcase(cell.name, pattern) for cell in cells):
            raise ValueError(f"no cell is called {pattern}; there are {cells[0].name} and so on")
    return tuple(
        cell for cell in cells if any(fnmatchcase(cell.name, pattern) for pattern in patterns)
    )
