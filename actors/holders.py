"""Who holds what, by owner: so that what a dead process held is found without a search."""

from collections.abc import Iterator


class Holders:
    """Ids of holds, in order of their adding, by the owner of each."""

    def __init__(self) -> None:
        self._ids: dict[str, dict[str, None]] = {}

    def __iter__(self) -> Iterator[str]:
        """The owners that hold anything."""
        return iter(self._ids)

    def add(self, owner: str, id: str) -> None:
        """Note a hold."""
        self._ids.setdefault(owner, {})[id] = None

    def remove(self, owner: str, id: str) -> None:
        """Note its end. Raises KeyError where it is not known."""
        mine = self._ids[owner]
        del mine[id]
        if not mine:
            del self._ids[owner]

    def of(self, owner: str) -> list[str]:
        """What an owner holds."""
        return list(self._ids.get(owner, ()))
