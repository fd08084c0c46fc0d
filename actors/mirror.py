"""The primary's side of a standby: nothing is told before it is on another node's disk too.

What the store has committed is sent after it, and a reply waits until that has arrived. A
standby that does not answer is given up: the primary goes on alone, once it has claimed the
next term for that. Somebody else may have claimed it to put the standby in charge; then it is
this primary that is over. So two never both go on.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from actors.shipments import Position, Shipment, after, pack
from actors.standby import Refused, answer, ask
from actors.store import Store
from actors.tenure import Act, Tenure
from actors.terms import Copy, Standing, Term, Terms, standing_of
from actors.transport import Transport, TransportError

_PIECE_BYTES = 4 << 20
_MOST_BEHIND_BYTES = 64 << 20
_PING_S = 1.0
_AGAIN_S = 2.0
_KV_AGAIN_S = 0.5

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A node for a standby. copy: what it is to hold; transport: the way to `Standby`."""

    copy: Copy
    transport: Transport


Places = Callable[[Term], Awaitable[Place | None]]
"""Finds the standby of this term, or a place for one where it has none."""


class Mirror:
    """Keeps one host's standby.

    host, factory: as the standby has to know them. lived: whether the store's history holds
    the commit with this mark. path: of the store.
    term: the one in force. on_over: called once somebody else is in charge.
    """

    def __init__(
        self,
        host: str,
        factory: str,
        store: Store,
        lived: Callable[[tuple[str, int]], bool],
        path: Path,
        terms: Terms,
        term: Term,
        tenure: Tenure,
        places: Places,
        on_over: Act,
    ) -> None:
        self.term = term
        self._host = host
        self._factory = factory
        self._store = store
        self._lived = lived
        self._path = path
        self._terms = terms
        self._tenure = tenure
        self._places = places
        self._on_over = on_over
        self._word = secrets.token_hex(8)
        self._over = self._doubtful = self._complete = False
        # Bound: nothing is told before the standby has it. So it is after a restart, until
        # it is known what the standby has.
        self._bound = term.standby is not None
        self._sent = 1 if self._bound else 0
        self._arrived = 0
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._untold: deque[tuple[int, Act]] = deque()
        self._news = asyncio.Event()
        store.ship = self._take

    @property
    def protection(self) -> str:
        """What protects this host's rows at present, in a word for operators."""
        standby = self.term.standby
        if self._complete and standby is not None:
            return f"standby on {standby.machine}"
        return "store only"

    def when_safe(self, act: Act) -> None:
        """Do this once all that is committed by now is safe, and this host is in charge."""
        if self._bound and self._arrived < self._sent:
            self._untold.append((self._sent, act))
        else:
            self._tenure.when_held(act)

    async def run(self) -> None:
        """Find a standby, feed it, go on without it, find another one."""
        while not self._over:
            try:
                if self.term.standby is not None:
                    await self._resume()
                else:
                    await self._join()
                if self._bound:
                    await self._feed()
            except (TransportError, Refused, TimeoutError) as error:
                log.warning("%s: the standby does not answer: %s", self._host, error)
            except Exception:
                log.exception("%s: the standby can't be kept", self._host)
            if self._bound and not self._over:
                await self._go_alone()
            await asyncio.sleep(_AGAIN_S)

    def _take(self, shipment: Shipment | None) -> None:
        """The store has committed something; None: nobody knows what."""
        self._sent += 1
        if not self._bound:
            self._arrived = self._sent
            return
        self._news.set()
        self._doubtful |= shipment is None
        if shipment is None or self._doubtful:
            # It will be done without.
            return
        packed = pack(shipment)
        self._unsent.append(packed)
        self._unsent_bytes += len(packed)

    async def _resume(self) -> None:
        """After a restart: the standby of this term gets what it lacks."""
        place = await self._places(self.term)
        if place is None:
            raise TransportError("its node is gone")
        self._transport = place.transport
        at = await self._begin(place, fresh=False)
        if at.page and not self._lived(at.mark):
            # A disk has lost what it had promised; the other one has it.
            log.error("%s: the standby is ahead of the primary, and takes its place", self._host)
            await self._follow(place.copy, None)
            self._end()
            return
        lacking = self._store.since(at, _MOST_BEHIND_BYTES)
        if not at.page or not lacking.whole:
            raise Refused("the standby lacks too much")
        # Whatever was committed since this process began is in there.
        self._unsent.clear()
        self._unsent_bytes = 0
        await self._ship([pack(lacking)])
        # Perhaps this is what a crash has prevented.
        await self._stand()
        self._complete = True

    async def _join(self) -> None:
        """Bring a new standby to where this store is, and make it part of the next term."""
        # Also to see whether the disk takes such a note, before anything is copied.
        await self._note("")
        place = await self._places(self.term)
        if place is None:
            return
        self._transport = place.transport
        at = await self._begin(place, fresh=True)
        while not self._bound:
            piece = self._store.since(at, _PIECE_BYTES)
            if piece.whole:
                # From this very moment on it gets all that is committed.
                self._unsent.clear()
                self._unsent_bytes = 0
                self._bound = True
            await self._ship([pack(piece)])
            at = after(at, piece)
        # Before there is a standby that may be put in charge: this copy is not alone.
        await self._note(place.copy.machine)
        if not await self._follow(self.term.primary, place.copy):
            self._end()
            return
        await self._stand()
        await self._note(place.copy.machine)
        self._complete = True
        log.info("%s has a standby on %s", self._host, place.copy.machine)

    async def _feed(self) -> None:
        """Send what is committed, until the standby is lost."""
        while not self._over:
            self._tell()
            if not self._unsent:
                self._news.clear()
                try:
                    async with asyncio.timeout(_PING_S):
                        await self._news.wait()
                except TimeoutError:
                    pass
            if self._unsent_bytes > _MOST_BEHIND_BYTES or self._doubtful:
                raise Refused("it can't keep up, or it is not known what it lacks")
            sent, packed = self._sent, list(self._unsent)
            self._unsent.clear()
            self._unsent_bytes = 0
            await self._ship(packed)
            self._arrived = sent

    def _tell(self) -> None:
        while self._untold and self._untold[0][0] <= self._arrived:
            self._tenure.when_held(self._untold.popleft()[1])

    async def _go_alone(self) -> None:
        # For as long as the cluster is silent nothing more is kept for the standby.
        self._doubtful = True
        self._unsent.clear()
        while True:
            try:
                won = await self._follow(self.term.primary, None)
                break
            except Exception as error:
                log.error("%s can't go on alone, the cluster is silent: %s", self._host, error)
                await asyncio.sleep(_KV_AGAIN_S)
        if not won:
            self._end()
            return
        log.warning("%s goes on without a standby", self._host)
        try:
            await self._note("")
        except OSError as error:
            # Until a disk that is full takes it, a cluster without memory waits in vain.
            log.error("%s can't note that it is alone: %s", self._host, error)
        self._bound = self._doubtful = self._complete = False
        self._unsent.clear()
        self._unsent_bytes = 0
        self._arrived = self._sent
        self._tell()

    async def _follow(self, primary: Copy, standby: Copy | None) -> bool:
        before = self.term
        term = await asyncio.to_thread(self._terms.follow, self._host, before, primary, standby)
        if term is None:
            # Perhaps it was this very claim, whose answer was lost.
            latest = await asyncio.to_thread(self._terms.latest, self._host)
            if latest is None or latest[:3] != (before.number + 1, primary, standby):
                return False
            term = latest
        self.term = term
        return True

    def _end(self) -> None:
        self._over = True
        log.error("%s: another one is in charge; this one ends", self._host)
        self._on_over()

    async def _note(self, peer: str) -> None:
        """Write beside the rows that they are the primary's, and who has the others."""
        standing = Standing(self.term.number, "primary", peer)
        if await asyncio.to_thread(standing_of, self._path) != standing:
            await asyncio.to_thread(standing.write, self._path)

    async def _stand(self) -> None:
        term = self.term
        await self._call("stand", self._host, self._word, term.number, term.primary.machine)

    async def _begin(self, place: Place, fresh: bool) -> Position:
        number, file = self.term.number, place.copy.file
        told = await self._call("begin", self._host, self._factory, number, file, self._word, fresh)
        page, batches, mark = told
        return Position(page, batches, tuple(mark))

    async def _ship(self, packed: list[bytes]) -> None:
        await self._call("ship", self._host, self._word, packed)

    async def _call(self, verb: str, *arguments: Any) -> Any:
        return answer(await self._transport.consult(ask(verb, *arguments)))
