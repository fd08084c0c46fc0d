"""The part of a consultant that knows the singleton's view entries, and how old they may be."""

import logging
import time
from collections.abc import Callable
from typing import Any

from actors.host import VIEW_NS
from actors.watchers import News

MOST_VIEWED = 100_000

log = logging.getLogger(__name__)


class Viewer:
    """view: the entries, by key. on_view: called after each change of them.

    Where a singleton shows only what was asked for, the oldest of more than MOST_VIEWED go:
    what is not there is asked for again.
    """

    def __init__(self) -> None:
        self.view: dict[str, Any] = {}
        self.on_view: Callable[[], None] | None = None
        self._viewed_ns = -VIEW_NS
        self._arrived_ns: dict[str, int] = {}

    def view_age_ns(self) -> int:
        """How old `view` may be, counted from the sending of the last watch that returned."""
        return time.monotonic_ns() - self._viewed_ns

    def fresh(self) -> bool:
        """Whether `view` may still be used without asking."""
        return self.view_age_ns() < VIEW_NS

    def since_ns(self, key: str) -> int:
        """How long ago this view entry arrived; its durations count from then."""
        return time.monotonic_ns() - self._arrived_ns.get(key, 0)

    def _take_views(self, news: News, asked_ns: int) -> None:
        """Take over what a watch brought that was sent at `asked_ns`."""
        now = time.monotonic_ns()
        if news.snapshot:
            self.view, self._arrived_ns = {}, {}
        for key, value in news.views:
            if value is None:
                self.view.pop(key, None)
                self._arrived_ns.pop(key, None)
            else:
                self.view[key] = value
                self._arrived_ns[key] = now
        while len(self.view) > MOST_VIEWED:
            oldest = next(iter(self.view))
            del self.view[oldest], self._arrived_ns[oldest]
        if self.on_view is not None and (news.views or news.snapshot):
            call_back(self.on_view)
        self._viewed_ns = asked_ns


def call_back(listener: Callable[..., None], *args: Any) -> None:
    """Call back; what goes wrong there must not end the sending or the watching."""
    try:
        listener(*args)
    except Exception:
        log.exception("%s failed", listener)
