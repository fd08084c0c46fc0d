"""The simplest mechanism of which things can be held, and to which calls can be paid."""

from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Literal

from actors.charges import Paid, Usage
from actors.errors import Conflict
from actors.mechanism import Bookkeeping, Row, owner_of


class Holdings(Bookkeeping):
    """Things by name, each held by one owner; and a note of every word about a call."""

    NAME: ClassVar[str] = "holdings"
    DURABLE: ClassVar[bool] = False
    MIRRORED: ClassVar[bool] = False
    CLOCK: ClassVar[Literal["steady", "wall"]] = "steady"
    TABLES: ClassVar[dict[str, Literal["live", "archive"]]] = {"held": "live", "said": "live"}
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"take", "give", "bury", "held", "said", "post", "charge", "void", "recall"}
    )

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[str, str] = {}
        self._said: list[Any] = []

    def load(self, rows: Iterable[Row]) -> None:
        for table, key, value in sorted(rows):
            if table == "held":
                self._held[key] = value
            else:
                self._said.append(value)

    def advance(self, now: int) -> None:
        return None

    def owners(self) -> Collection[str]:
        return set(self._held.values())

    def take(self, now: int, caller: str, name: str) -> None:
        self._held[name] = owner_of(caller)
        self.put("held", name, self._held[name])

    def give(self, now: int, caller: str, name: str) -> None:
        self._held.pop(name, None)
        self.drop("held", name)

    def recall(self, now: int, caller: str, name: str) -> None:
        self.answer(caller, f"recall {name}", name)

    def bury(self, now: int, caller: str, owner: str, lost: bool) -> int:
        mine = [name for name, holder in self._held.items() if holder == owner]
        for name in mine:
            self.give(now, caller, name)
        self._say("bury", owner, lost)
        return len(mine)

    def held(self, now: int, caller: str) -> dict[str, str]:
        return dict(self._held)

    def said(self, now: int, caller: str) -> list[Any]:
        return list(self._said)

    def post(
        self, now: int, caller: str, charge_id: str, amount: int, usage: Usage, estimated: bool
    ) -> str:
        if charge_id == "refused":
            raise Conflict("not this one")
        self._say("post", charge_id, amount, usage, estimated)
        return "posted"

    def charge(self, now: int, caller: str, charge: Paid) -> str:
        self._say("charge", charge)
        return "posted"

    def void(self, now: int, caller: str, charge_id: str) -> str:
        self._say("void", charge_id)
        return "voided"

    def _say(self, *words: Any) -> None:
        self._said.append([*words])
        self.put("said", f"{len(self._said):06d}", [*words])


FACTORY = "tests.actors.holdings:Holdings"
