"""What was told and could not be written down: it is told again, in its order, after a pause."""

import asyncio
from collections import deque
from collections.abc import Iterator

from actors.batches import Item
from actors.departure import Departure
from actors.storage_trouble import PAUSE_S


class PutOff:
    """Stands between who tells and a consultant's queue.

    While something is here, what is told later waits here too, behind it.
    queue: of the consultant; departure: of its next batch.
    """

    def __init__(self, queue: deque[Item], departure: Departure) -> None:
        self._queue = queue
        self._departure = departure
        self._items: deque[Item] = deque()
        self._refused: list[Item] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def tell(self, item: Item, within_s: float) -> None:
        """Put this into the queue, or behind what waits here."""
        if self._items:
            self._items.append(item)
        else:
            self._queue.append(item)
            self._departure.within(within_s)

    def refused(self, item: Item) -> None:
        """This was refused, as the next of its batch."""
        self._refused.append(item)

    def settle(self) -> None:
        """Put off what was refused of the batch, and what was told since."""
        if not self._refused:
            return
        told = [item for item in self._queue if item.future is None]
        asked = [item for item in self._queue if item.future is not None]
        self._queue.clear()
        self._queue.extend(asked)
        self._items.extendleft(reversed([*self._refused, *told]))
        self._refused = []
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._tell_again)

    def close(self) -> None:
        """Nothing is told again."""
        if self._timer is not None:
            self._timer.cancel()
        self._items.clear()

    def _tell_again(self) -> None:
        self._timer = None
        self._queue.extendleft(reversed(self._items))
        self._items.clear()
        self._departure.within(0.0)
