"""How long a connection may take over what it does, and how many there may be."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of the connections of one replica.

    connections: open at once. look_s: each is looked at so often.
    head_s, head_bytes: of a request's head; head_s counts from the opening of a connection
        that has not asked anything yet.
    send_s, send_bytes: of what waits to be sent, a client has to take so much in such a time.
    rest_s: how long the rest of a body may go on coming after its request was answered.
    """

    connections: int = 20_000
    look_s: float = 5.0
    head_s: float = 30.0
    head_bytes: int = 65_536
    send_s: float = 30.0
    send_bytes: int = 16_384
    rest_s: float = 30.0


class Pace:
    """One connection's. Times are seconds on the event loop's clock."""

    __slots__ = ("_bounds", "_over_since", "_sent", "_stuck_since", "head_bytes", "head_since")

    def __init__(self, bounds: Bounds, now: float) -> None:
        self._bounds = bounds
        self.head_since: float | None = now
        self.head_bytes = 0
        self._over_since: float | None = None
        self._stuck_since: float | None = None
        self._sent = 0

    def more_head(self, size: int, now: float) -> bool:
        """A part of a head came, and its end is not among it; False where it gets too long."""
        if self.head_since is None:
            self.head_since = now
        self.head_bytes += size
        return self.head_bytes <= self._bounds.head_bytes

    def head_ended(self) -> None:
        """A request's head is here."""
        self.head_since = None
        self.head_bytes = 0

    def too_slow(self, sent: int, unsent: int, answered: bool, now: float) -> str | None:
        """What this connection is to be cut off for; None: nothing.

        sent, unsent: bytes, of all that was ever written. answered: its request was, and the
        request's own body still comes.
        """
        bounds = self._bounds
        if self.head_since is not None and now - self.head_since >= bounds.head_s:
            return "head"
        if not answered:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        elif now - self._over_since >= bounds.rest_s:
            return "rest"
        if not unsent:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since, self._sent = now, sent
        elif now - self._stuck_since >= bounds.send_s:
            if sent - self._sent < bounds.send_bytes:
                return "send"
            self._stuck_since, self._sent = now, sent
        return None
