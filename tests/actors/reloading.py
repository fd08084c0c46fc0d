"""A crash and a reload as a step: one mechanism lives on, its twin is read from the rows."""

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

from actors.errors import RaygateError
from actors.mechanism import Changes, Mechanism, Result, Row
from actors.store import as_plain

Rows = dict[tuple[str, str], Any]


class Twin:
    """Two mechanisms that are told the same; one of them is killed and loaded at any time.

    make: a new, empty mechanism. hand_over: gives the loaded one what a restart forgets on
    purpose, from the one that lived. lazy: tables whose rows each may write, or drop, at a
    time of its own.

    lived, loaded: the two. rows: what the store of each would hold, the last value per key
    as msgpack gives it back. heard: the late results, oldest first.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        hand_over: Callable[[Any, Any], None] = lambda lived, loaded: None,
        lazy: Collection[str] = (),
    ) -> None:
        self._make, self._hand_over, self._lazy = make, hand_over, lazy
        self.lived, self.loaded = make(), make()
        self.rows: tuple[Rows, Rows] = ({}, {})
        self.heard: list[Result] = []
        self._dues: list[int | None] = [None, None]

    def do(self, now: int, command: str, *args: Any, by: str = "c") -> Any:
        """Run a command on both as a batch of its own: the reply of the one that lived.

        An error of ours is returned like a reply. Asserts that replies, rows, late results,
        views and owners are the same.
        """
        lived, loaded = (_run(each, now, by, command, args) for each in (self.lived, self.loaded))
        assert loaded == lived, command
        self.end_batch(now)
        return lived

    def end_batch(self, now: int, reloaded: bool = False) -> None:
        """What a host does after each batch. reloaded: one of them was loaded for it."""
        for number, each in enumerate((self.lived, self.loaded)):
            self._dues[number] = _asked(each.advance(now), now)
        lived, loaded = self._taken(0), self._taken(1)
        strict = [
            {row[:2]: as_plain(row.value) for row in changes.rows if row.table not in self._lazy}
            for changes in (lived, loaded)
        ]
        assert strict[1] == strict[0]
        assert _addressed(loaded.results) == _addressed(lived.results)
        # Of what became invisible while it was dead a restart must tell, and tells of all.
        assert loaded.views == lived.views or (reloaded and loaded.views > lived.views)
        assert set(loaded.shown) == set(lived.shown)
        self.heard += lived.results
        self._alike(now)

    def until(self, end: int) -> None:
        """Let time pass as hosts do: each is woken when it asked for it.

        Asserts that whenever only one of them has asked, nobody hears of it.
        """
        while (at := min((due for due in self._dues if due is not None), default=end)) < end:
            if self._dues == [at, at]:
                self.end_batch(at)
                continue
            number = self._dues.index(at)
            self._dues[number] = _asked((self.lived, self.loaded)[number].advance(at), at)
            changes = self._taken(number)
            assert not changes.results, "the other would sleep too long"
            assert not changes.views, "the other would sleep too long"
        self.end_batch(end)

    def crash(self, now: int) -> None:
        """The twin dies; a new one is loaded from its rows, given in no order that could help."""
        self.loaded = self._make()
        live = [
            Row(*place, as_plain(value))
            for place, value in sorted(self.rows[1].items(), reverse=True)
            if self.lived.TABLES[place[0]] == "live"
        ]
        self.loaded.load(live)
        self.loaded.restored(self.lived.head())
        assert self.loaded.take_changes() == ([], [], set(), []), "loading is no change"
        self._hand_over(self.lived, self.loaded)
        self.end_batch(now, reloaded=True)

    def _taken(self, number: int) -> Changes:
        """What one of them has changed, after it was stored."""
        changes: Changes = (self.lived, self.loaded)[number].take_changes()
        stored = self.rows[number]
        for table, key, value in changes.rows:
            if value is None:
                stored.pop((table, key), None)
            else:
                stored[table, key] = as_plain(value)
        return changes

    def _alike(self, now: int) -> None:
        assert set(self.loaded.owners()) == set(self.lived.owners())
        assert self.loaded.head() == self.lived.head()
        keys = set(self.lived.view_keys())
        assert set(self.loaded.view_keys()) == keys
        for key in keys:
            assert self.loaded.view(key, now) == self.lived.view(key, now), key


def _asked(due: int | None, now: int) -> int | None:
    assert due is None or due > now, "it asks for the past"
    return due


def _run(each: Mechanism, now: int, by: str, command: str, args: tuple[Any, ...]) -> Any:
    try:
        return getattr(each, command)(now, by, *args)
    except RaygateError as error:
        return type(error), error.args


def _addressed(results: list[Result]) -> dict[tuple[str, str], list[Any]]:
    """Between addresses there is no order that anybody could see."""
    found = defaultdict(list)
    for caller, id, reply in results:
        found[caller, id].append(reply)
    return found
