"""Whose holds a host keeps, whether they are heard of, and whom it has looked after.

A hold ends by its holder's word. Silence is no proof of death, only a reason to look: a host
that has not heard of an owner for a while calls the undertaker, who finds out on the
owner's own machine.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from actors.alarm import Alarm
from actors.mechanism import Row, owner_of

TABLE = "_lives"

SILENCE_NS = 3_000_000_000
"""How long an owner may be silent; a live one that does nothing watches three times a view."""

# Who holds nothing is in nobody's way; its files are to be cleared away all the same.
_IDLE_FACTOR = 5
_AGAIN_NS = 5_000_000_000
_LOOKS_PER_SILENCE = 6

log = logging.getLogger(__name__)


class Life(NamedTuple):
    """What a process says of itself, so that its death can be found out.

    owner: of its outbox. node: the cluster's id of the node that it runs on; host: that
    machine's name. path: of its outbox, on that machine.
    """

    owner: str
    node: str
    host: str
    path: str


Undertaker = Callable[[Life], None]
"""Told of an owner that is silent; finds out whether it lives, without blocking."""


class Lives:
    """The owners that a host knows.

    undertaker: called for a silent owner, every 5 s at most; None: nobody is looked after.
    holding: gives the owners that hold something at present.
    silence_ns: after which the undertaker is called for one of them.
    """

    def __init__(
        self,
        undertaker: Undertaker | None,
        holding: Callable[[], Collection[str]],
        silence_ns: int = SILENCE_NS,
    ) -> None:
        self._undertaker = undertaker
        self._holding = holding
        self._silence_ns = silence_ns
        self._lives: dict[str, Life] = {}
        self._heard: dict[str, int] = {}
        self._called: dict[str, int] = {}
        self._rows: dict[str, Row] = {}
        self._listening_ns = self._looked_ns = time.monotonic_ns()
        self._alarm = Alarm(self._look_on_time)

    def load(self, rows: Iterable[Row]) -> None:
        """Take the lives from a host's rows; what was heard since stays heard."""
        self._lives = {row.key: Life(*row.value) for row in rows if row.table == TABLE}
        self._rows = {}

    def take_rows(self) -> list[Row]:
        """The rows that changed since the last call."""
        rows, self._rows = list(self._rows.values()), {}
        return rows

    def hello(self, life: Life) -> None:
        """A process says where it is."""
        if self._lives.get(life.owner) != life:
            self._lives[life.owner] = life
            self._rows[life.owner] = Row(TABLE, life.owner, tuple(life))

    def goodbye(self, owner: str) -> None:
        """A process ends; unless it still holds something, nobody needs to look after it."""
        if owner not in self._holding():
            self.forget(owner)

    def forget(self, owner: str) -> None:
        """It is over with this owner."""
        if self._lives.pop(owner, None) is not None:
            self._rows[owner] = Row(TABLE, owner, None)
        self._heard.pop(owner, None)
        self._called.pop(owner, None)

    def heard(self, caller: str) -> None:
        """A call came from there."""
        self._heard[owner_of(caller)] = time.monotonic_ns()

    def silent(self, now_ns: int) -> list[str]:
        """Owners that hold something and are silent, also those that never said hello."""
        return [
            owner for owner in self._holding() if self._silence(owner, now_ns) >= self._silence_ns
        ]

    def status(self) -> dict[str, int]:
        """owners: processes that are known; silent: those with holds that are not heard of."""
        return {"owners": len(self._lives), "silent": len(self.silent(time.monotonic_ns()))}

    def start(self) -> None:
        """Begin to look after the silent ones, on the running event loop."""
        if self._undertaker is not None:
            self._listening_ns = self._looked_ns = time.monotonic_ns()
            self._look_later()

    def close(self) -> None:
        """Stop looking."""
        self._alarm.close()

    def look(self, now_ns: int) -> None:
        """Call the undertaker for whoever has been silent for too long.

        now_ns: of the monotonic clock.
        """
        if now_ns - self._looked_ns >= self._silence_ns:
            # It was we who were away: everybody gets the time to be heard.
            self._listening_ns = now_ns
        self._looked_ns = now_ns
        silent = dict.fromkeys(self.silent(now_ns))
        idle_ns = _IDLE_FACTOR * self._silence_ns
        silent |= dict.fromkeys(o for o in self._lives if self._silence(o, now_ns) >= idle_ns)
        self._called = {owner: at for owner, at in self._called.items() if owner in silent}
        for owner in silent:
            life, called_ns = self._lives.get(owner), self._called.get(owner)
            if life is None or (called_ns is not None and now_ns - called_ns < _AGAIN_NS):
                continue
            self._called[owner] = now_ns
            self._call(life)
        if len(self._heard) > 2 * len(self._lives) + 1_000:
            # Callers that never said hello come and go.
            self._heard = {o: at for o, at in self._heard.items() if now_ns - at < idle_ns}

    def _silence(self, owner: str, now_ns: int) -> int:
        return now_ns - max(self._heard.get(owner, 0), self._listening_ns)

    def _call(self, life: Life) -> None:
        assert self._undertaker is not None
        try:
            self._undertaker(life)
        except Exception:
            log.exception("the undertaker failed for %s", life.owner)

    def _look_later(self) -> None:
        self._alarm.set(self._silence_ns / _LOOKS_PER_SILENCE / 1e9)

    def _look_on_time(self) -> None:
        try:
            self.look(time.monotonic_ns())
        except Exception:
            log.exception("looking for silent owners failed")
        self._look_later()
