"""Admissions: what is taken of limits at once, waited for, held, and given back."""

from actors import obstacles
from actors.errors import InvalidRequest, Overloaded
from actors.gates import Asks, Gates
from actors.limits import HIGH, LOW, Admitted, Refused, Take
from actors.mechanism import Bookkeeping, Pending
from actors.obstacles import Obstacle
from actors.rate_holds import HELD, Hold, Holds
from actors.rate_slices import RECALL_NS, Slices
from actors.waiting_room import Ticket, WaitingRoom

_new = tuple.__new__


class Admissions(Bookkeeping):
    """The commands of who asks directly. Whoever inherits them minds the time."""

    def __init__(self, max_tickets: int) -> None:
        super().__init__()
        self._max_tickets = max_tickets
        self._gates = Gates()
        self._holds = Holds()
        self._room = WaitingRoom(self, lambda now, gate: self._slices.recall(now, gate))
        self._slices = Slices(self, self._gates, self._room)
        self._now = -1  # how far `advance` has been

    def advance(self, now: int) -> int | None:
        """See `Mechanism`."""
        raise NotImplementedError

    def acquire(
        self,
        now: int,
        caller: str,
        take_id: str,
        takes: tuple[Take, ...],
        priority: int,
        max_wait_ns: int,
        held: bool = False,
    ) -> Admitted | Refused | Pending:
        """Take from all these limits, or from none.

        priority: HIGH, NORMAL or LOW. max_wait_ns: the longest time to wait for a turn; 0
        refuses at once. held: what is taken is not debited before `use`; until then nobody
        else gets it, no time brings it back, and an `undo` returns all of it.
        Who is stopped only by what others were lent, or hold, is not refused before they had
        RECALL_NS to return it. Takes that name a limit which the policy does not have are
        passed over. An id that holds gets its admission again (with the limits as they stand
        now), and one that waits goes on waiting, for this caller. Raises InvalidRequest, and
        Overloaded when too many wait.
        """
        if now > self._now:
            self.advance(now)
        hold = self._holds.by_id.get(take_id)
        if hold is not None:
            return Admitted(hold.at_ns, self._gates.states(now, hold.asks))
        if ticket := self._room.tickets.get(take_id):
            self._room.asked_again(ticket, caller)
            return Pending(obstacles.longest(ticket.obstacles(now)))
        if not 0 <= priority <= LOW:
            raise InvalidRequest("Field `priority` must be 0, 1 or 2.", param="priority")
        asks = self._gates.asks(now, takes)
        high = priority == HIGH
        for gate, quantity in asks:
            if quantity and (
                gate.line is not None
                or quantity > gate.limit.burst
                or gate.meter.wait(now, quantity, high) != 0
            ):
                return self._wait(now, caller, take_id, asks, priority, max_wait_ns, held)
        return self._admit(now, caller, take_id, asks, held)

    def use(self, now: int, caller: str, take_id: str) -> None:
        """Debit what was taken with `held`; an unknown id changes nothing."""
        if now > self._now:
            self.advance(now)
        if hold := self._holds.end(take_id):
            self._holds.keep(take_id, self._debited(now, hold))

    def settle(self, now: int, caller: str, take_id: str, tokens: int | None) -> None:
        """Close a hold: slots come back, tokens are corrected to `tokens` unless it is None.

        A ticket of this id goes; an unknown id changes nothing.
        """
        if tokens is not None and tokens < 0:
            raise InvalidRequest("Field `tokens` must be 0 or more.", param="tokens")
        self._end(now, take_id, tokens)

    def undo(self, now: int, caller: str, take_id: str) -> None:
        """Cancel a ticket, or give back what nobody can have used again of a hold.

        An unknown id changes nothing.
        """
        self._end(now, take_id, None, undo=True)

    def _admit(self, now: int, caller: str, id: str, asks: Asks, held: bool) -> Admitted:
        self._gates.number = mark = self._gates.number + 1
        changed = self._gates.changed
        states = []
        for gate, quantity in asks:
            if not quantity:
                states.append(gate.state(now))
            elif held:
                gate.meter.lend(quantity)
                states.append(gate.state(now))
            else:
                states.append(gate.take(now, quantity, mark))
                changed.add(gate)
        self._holds.keep(id, _new(Hold, (caller, HELD if held else mark, now, asks)))
        return _new(Admitted, (now, tuple(states)))

    def _wait(
        self,
        now: int,
        caller: str,
        id: str,
        asks: Asks,
        priority: int,
        max_wait_ns: int,
        held: bool,
    ) -> Admitted | Refused | Pending:
        """The reply to one who may have to wait, or can't."""
        max_wait_ns = max(0, max_wait_ns)
        if never := obstacles.beyond_burst(asks):
            return obstacles.refused(now, asks, never)
        found = obstacles.met(now, asks, priority, self._gates.number + 1)
        if not found:
            return self._admit(now, caller, id, asks, held)
        waits = obstacles.unlent(now, found, priority)
        if any(obstacles.too_long(wait, max_wait_ns) for wait in waits):
            return obstacles.refused_for_now(now, asks, found, priority)
        if len(self._room.tickets) >= self._max_tickets:
            raise Overloaded(f"{self._max_tickets} requests wait for their limits; try later.")
        if any(gate.meter.held for gate, _, _ in found):
            max_wait_ns = max(max_wait_ns, RECALL_NS)
        self._gates.number += 1
        place, deadline_ns = self._gates.number, now + max_wait_ns
        self._room.enter(Ticket(id, caller, priority, place, asks, deadline_ns, held))
        self._room.watch(now, found)
        return Pending(obstacles.longest(waits))

    def _serve(self, now: int) -> None:
        for ticket in self._room.served(now):
            self._grant(now, ticket)

    def _grant(self, now: int, ticket: Ticket) -> None:
        reply = self._admit(now, ticket.caller, ticket.id, ticket.asks, ticket.held)
        self.answer(ticket.caller, ticket.id, reply)

    def _refuse_late(self, now: int, until_ns: int) -> None:
        while ticket := self._room.late(until_ns):
            found = ticket.obstacles(now)
            grace_ns = self._slices.grace_ns(now, found, ticket.priority == HIGH)
            grace_ns = min(grace_ns, ticket.deadline_ns + RECALL_NS)
            if grace_ns > now:
                self._room.extend(ticket, grace_ns)
                continue
            self._room.leave(now, ticket)
            found = found or [Obstacle(gate, quantity, 0) for gate, quantity in ticket.asks]
            reply = obstacles.refused_for_now(now, ticket.asks, found, ticket.priority)
            self.answer(ticket.caller, ticket.id, reply)

    def _end(self, now: int, id: str, tokens: int | None, undo: bool = False) -> None:
        if now > self._now:
            self.advance(now)
        if hold := self._holds.end(id):
            if undo and hold.mark == HELD:
                self._let_go(now, hold)
            else:
                self._close(now, self._debited(now, hold), tokens, undo)
        elif ticket := self._room.tickets.get(id):
            self._room.leave(now, ticket)
        if self._room.ready:
            self._serve(now)

    def _debited(self, now: int, hold: Hold) -> Hold:
        """The same hold, after what it only held was debited."""
        if hold.mark != HELD:
            return hold
        self._gates.number = mark = self._gates.number + 1
        for asked, quantity in hold.asks:
            asked.meter.lend(-quantity)
            gate = self._gates.living(now, asked, make=True)
            if gate is not None and quantity:
                gate.meter.take(now, quantity, mark)
                self._gates.changed.add(gate)
        return hold._replace(mark=mark)

    def _let_go(self, now: int, hold: Hold) -> None:
        """Give back what is only held, as if it had never been taken."""
        for gate, quantity in hold.asks:
            self._room.easing(now, gate)
            gate.meter.lend(-quantity)

    def _close(self, now: int, hold: Hold, tokens: int | None, undo: bool = False) -> None:
        for asked, quantity in hold.asks:
            # Of requests nothing comes back, which is what most takes are of.
            plain = asked.limit.unit == "requests" and not undo
            back = 0 if plain else asked.returns(quantity, tokens, undo)
            gate = self._gates.living(now, asked, make=back < 0) if asked.dead else asked
            if gate is not None:
                if back:
                    # That a take gives nothing back is worth no write: at worst a restarted
                    # bucket remembers, until it is full, a take that nobody will close.
                    self._room.easing(now, gate)
                    self._gates.changed.add(gate)
                gate.meter.close(now, hold.mark, back)
