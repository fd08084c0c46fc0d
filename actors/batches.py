"""What a consultant sends at once: as many commands as one payload should hold."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from actors.viewer import call_back
from actors.wire import pack_batch

_MAX_BYTES = 8_000_000

log = logging.getLogger(__name__)


class Item(NamedTuple):
    """One queued command.

    future: None for what was told. on_pending: see `Consultant.submit`; heard: `report`.
    """

    command: str
    args: tuple[Any, ...]
    future: "asyncio.Future[Any] | None" = None
    on_pending: Callable[[], None] | None = None
    heard: Callable[[Any], None] | None = None

    def fail(self, error: Exception) -> None:
        """Let who waits for the reply have this instead."""
        if self.heard is not None:
            call_back(self.heard, error)
        elif self.future is not None and not self.future.done():
            self.future.set_exception(error)


class Packed(NamedTuple):
    """A batch as it travels. items: what is in it; rest: what has to wait for the next one."""

    payload: bytes
    items: tuple[Item, ...]
    rest: tuple[Item, ...]


def packed(caller: str, number: int, items: Sequence[Item]) -> Packed:
    """The batch `number` of a caller, of the first of these items.

    At most about 8 MB, or one item, whatever its size. What can't be pickled is left out,
    and its future says so.
    """
    items = tuple(items)
    rest: tuple[Item, ...] = ()
    while True:
        try:
            payload = _dumps(caller, number, items)
        except Exception:
            items = tuple(item for item in items if _fit(item))
            continue
        if len(payload) <= _MAX_BYTES or len(items) == 1:
            return Packed(payload, items, rest)
        half = len(items) // 2
        items, rest = items[:half], items[half:] + rest


def _dumps(caller: str, number: int, items: Sequence[Item]) -> bytes:
    return pack_batch(caller, number, [item[:2] for item in items])


def _fit(item: Item) -> bool:
    try:
        _dumps("", 0, [item])
    except Exception as error:
        if item.future is None:
            log.exception("%s can't be told", item.command)
        item.fail(error)
        return False
    return True
