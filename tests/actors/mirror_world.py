"""A primary and its standby in one process, with a line between them that can fail."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from actors import wire
from actors.host import Host
from actors.mirror import Mirror, Place
from actors.standby import Standby
from actors.tenure import Tenure
from actors.terms import Copy, Standing, Term, Terms
from actors.transport import TransportError
from tests.actors.counter import CALENDAR
from tests.actors.kv import Kv


class Line:
    """The way to the standby. cut: nothing gets there; deaf: it gets there, no answer comes."""

    def __init__(self, standby: Standby) -> None:
        self.standby = standby
        self.cut = self.deaf = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def consult(self, payload: bytes) -> bytes:
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.cut:
            raise TransportError("the line is cut")
        answer = self.standby.consult(payload)
        await asyncio.sleep(0)
        if self.deaf:
            raise TransportError("no answer came")
        return answer

    async def watch(self, payload: bytes) -> bytes:
        raise NotImplementedError


class Primary:
    """One life of a host, with its mirror."""

    def __init__(self, world: "MirrorWorld", copy: Copy) -> None:
        self._world = world
        terms, term = world.terms, world.term
        assert term.primary == copy
        path = world.folder / copy.machine / copy.file
        path.parent.mkdir(exist_ok=True)
        self.host = Host(CALENDAR, str(path), f"claim {copy.file}", least_epoch=term.number)
        peer = term.standby.machine if term.standby is not None else ""
        Standing(term.number, "primary", peer).write(path)
        self.over = False
        self.tenure = Tenure(lambda: not self.over, self.end)
        self.mirror = Mirror(
            "counter", CALENDAR, self.host.store, self.host.lived, path, terms, term, self.tenure,
            self._place, self.end,
        )  # fmt: skip
        self.number = 0
        # Of its own, so that no thread of a dead process goes on in the next one's life.
        self._threads = ThreadPoolExecutor()
        asyncio.get_running_loop().set_default_executor(self._threads)
        self.tasks = [asyncio.create_task(one()) for one in (self.tenure.run, self.mirror.run)]

    async def _place(self, term: Term) -> Place | None:
        if self._world.line is None:
            return None
        copy = term.standby or Copy("s", "standby", f"counter.{term.number}.sqlite")
        return Place(copy, self._world.line)

    def end(self) -> None:
        self.over = True

    def send(self, caller: str, number: int, *items: tuple[Any, ...]) -> "asyncio.Future[Any]":
        """What the door does: the future has the replies once they may be told."""
        payload = wire.pack_batch(caller, number, [(name, tuple(args)) for name, *args in items])
        told = asyncio.get_running_loop().create_future()
        reply = self.host.consult(payload)

        def tell() -> None:
            if not told.done():
                told.set_result(wire.unpack_reply(reply).replies)

        self.mirror.when_safe(tell)
        return told

    def add(self, amount: int, caller: str = "c") -> "asyncio.Future[Any]":
        self.number += 1
        return self.send(caller, self.number, ("add", amount))

    async def kill(self) -> None:
        """As by -9: what was committed is on disk, and nothing else happens."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self._threads.shutdown()
        self.host.close()


class MirrorWorld:
    """What outlives a primary."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.terms = Terms(Kv(), "gw")
        self.terms.begin("counter", Term(1, Copy("p", "primary", "counter.sqlite")))
        (folder / "standby").mkdir()
        self.standby = Standby(folder / "standby")
        self.line: Line | None = Line(self.standby)

    @property
    def term(self) -> Term:
        found = self.terms.latest("counter")
        assert found is not None
        return found

    def primary(self) -> Primary:
        """A new life of whoever is in charge."""
        return Primary(self, self.term.primary)

    def promote(self) -> bool:
        """What somebody does who finds the primary's node gone."""
        term = self.term
        assert term.standby is not None
        promoted = self.terms.follow("counter", term, term.standby, None)
        self.standby.release("counter")
        return promoted is not None


async def until(true: Any, within_s: float = 5.0) -> None:
    """Wait until that is so."""
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 (anything at all is waited for)
            await asyncio.sleep(0.001)
