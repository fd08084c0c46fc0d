"""What the rate limiter's tests share: a caller in virtual time, its store, and limits."""

from collections.abc import Iterable
from typing import Any

import msgspec

from actors.limits import NORMAL, Lent, LimitState, Recall, Take, Wish
from actors.mechanism import Row
from actors.rate_limiter import RateLimiter

S = 1_000_000_000
WAIT = 10 * S


def ns(at: float) -> int:
    """Seconds as nanoseconds."""
    return round(at * S)


def requests(name: str, rate: int, burst: int, debt: int = 0, scope: str = "cluster") -> Any:
    """A limit on requests; `rate` is per second."""
    return limit(name, "requests", rate, burst, scope) | {"debt": debt}


def tokens(name: str, rate: int, burst: int, scope: str = "cluster") -> Any:
    """A limit on tokens; `rate` is per second."""
    return limit(name, "tokens", rate, burst, scope)


def slots(name: str, burst: int, scope: str = "cluster") -> Any:
    """A limit on concurrent requests."""
    return {"name": name, "scope": scope, "unit": "concurrent", "burst": burst}


def limit(name: str, unit: str, rate: int, burst: int, scope: str) -> dict[str, Any]:
    """A limit as policy writes it."""
    given = {"name": name, "scope": scope, "unit": unit}
    return given | {"rate": rate, "period_ns": S, "burst": burst}


def takes(*named: tuple[str, int] | tuple[str, int, str]) -> tuple[Take, ...]:
    """(limit, quantity), or (limit, quantity, subject) where it is not the cluster's."""
    return tuple(Take(name, subject[0] if subject else "", q) for name, q, *subject in named)


class Caller:
    """A gateway replica in virtual time, and the store of its host; `at` is in seconds."""

    at = 0.0

    def __init__(self, *limits: dict[str, Any], max_tickets: int = 10_000) -> None:
        self.limiter = RateLimiter(max_tickets)
        self.ids = 0
        self.heard: dict[str, Any] = {}
        self.recalls: list[tuple[str, str, str]] = []
        self.stored: dict[tuple[str, str], bytes] = {}
        self.policy(0, *limits)

    def clock(self, at: float) -> int:
        """Nanoseconds of `at`, which is remembered."""
        self.at = max(self.at, at)
        return ns(at)

    def policy(self, at: float, *limits: dict[str, Any]) -> None:
        """Put these limits in force."""
        revision = str(hash(str(limits)))
        self.limiter.configure(self.clock(at), "c", revision, {"limits": list(limits)})

    def acquire(
        self,
        at: float,
        *named: tuple[str, int] | tuple[str, int, str],
        id: str | None = None,
        priority: int = NORMAL,
        wait: float = 0,
        caller: str = "c",
    ) -> Any:
        """Acquire, with the ids "1", "2", ... unless one is given."""
        if id is None:
            self.ids += 1
            id = str(self.ids)
        given = takes(*named)
        return self.limiter.acquire(self.clock(at), caller, id, given, priority, ns(wait))

    def exchange(self, at: float, name: str, *, caller: str = "a.1", **wish: Any) -> Lent:
        """Exchange one wish; what it does not say is 0, "" or nothing."""
        fields = {"subject": "", "used": 0, "takes": 0, "back": 0, "more": 0, "closes": ()}
        [lent] = self.limiter.exchange(self.clock(at), caller, (Wish(name, **(fields | wish)),))
        return lent

    def bury(self, at: float, owner: str) -> int:
        """Bury."""
        return self.limiter.bury(self.clock(at), "c", owner, False)

    def settle(self, at: float, id: str, tokens: int | None = None) -> None:
        """Settle."""
        self.limiter.settle(self.clock(at), "c", id, tokens)

    def undo(self, at: float, id: str) -> None:
        """Undo."""
        self.limiter.undo(self.clock(at), "c", id)

    def look(self, at: float, name: str, subject: str = "") -> LimitState:
        """How one limit stands."""
        return self.limiter.look(self.clock(at), "c", takes((name, 0, subject)))[0]

    def remaining(self, at: float, name: str, subject: str = "") -> int:
        """What is left of one limit."""
        return self.look(at, name, subject).remaining

    def status(self, at: float) -> dict[str, Any]:
        """The status."""
        return self.limiter.status(self.clock(at), "c")

    def advance(self, at: float) -> float | None:
        """Advance; the time of the next call, in seconds."""
        due = self.limiter.advance(self.clock(at))
        return None if due is None else due / S

    def late(self) -> dict[str, Any]:
        """The late replies since the last call, in their order; rows go to the store.

        Recalls are kept apart, in `recalls`, as (caller, limit, subject).
        """
        changes = self.limiter.take_changes()
        store(self.stored, changes.rows)
        heard, self.heard = self.heard, {}
        for caller, id, reply in changes.results:
            if isinstance(reply, Recall):
                assert id == f"recall {reply.limit} {reply.subject}"
                self.recalls.append((caller, *reply))
            else:
                heard[id] = reply
        return heard

    def recalled(self) -> list[tuple[str, str, str]]:
        """The recalls since the last call, as (caller, limit, subject)."""
        self.heard |= self.late()
        recalls, self.recalls = self.recalls, []
        return recalls

    def until(self, at: float) -> dict[str, tuple[float, Any]]:
        """Advance whenever it is asked for, up to `at`: {id: (seconds, late reply)}."""
        came: dict[str, tuple[float, Any]] = {}
        due = self.advance(self.at)
        while due is not None and due <= at:
            due, now = self.advance(due), due
            came |= {id: (now, reply) for id, reply in self.late().items()}
        return came

    def restart(self) -> None:
        """Kill the host and start it from its store."""
        self.late()
        self.limiter = restarted(self.stored)


def store(stored: dict[tuple[str, str], bytes], rows: Iterable[Row]) -> None:
    """Commit rows."""
    for table, key, value in rows:
        if value is None:
            stored.pop((table, key), None)
        else:
            stored[table, key] = msgspec.msgpack.encode(value)


def restarted(stored: dict[tuple[str, str], bytes]) -> RateLimiter:
    """A new object from the stored rows."""
    fresh = RateLimiter()
    fresh.load(Row(*key, msgspec.msgpack.decode(value)) for key, value in stored.items())
    return fresh
