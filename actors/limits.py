"""Limits as policy states them, and the words in which takes are asked for and answered."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from actors.fields import identifier, invalid, mapping, sequence, whole

Scope = Literal["cluster", "team", "key", "model", "key_model", "user"]
Unit = Literal["requests", "tokens", "concurrent"]

HIGH, NORMAL, LOW = 0, 1, 2

_MOST = 2**62
_MOST_LIMITS = 1000


class Limit(NamedTuple):
    """One limit of the policy; it has a bucket for each subject of its scope.

    unit: what it counts; "tokens" are input and output together.
    rate: units per `period_ns`; without meaning for "concurrent".
    burst: units in a full bucket, or the number of slots.
    debt: units below empty that takes of high priority may go ("requests" only).
    """

    name: str
    scope: Scope
    unit: Unit
    rate: int
    period_ns: int
    burst: int
    debt: int


class Take(NamedTuple):
    """What is asked of one limit.

    subject: the scope's value, "" for the cluster. quantity: units; 0 only looks.
    """

    limit: str
    subject: str
    quantity: int


class LimitState(NamedTuple):
    """How a limit stands for one subject.

    remaining: whole units, never below 0. reset_ns: nanoseconds until it is full again; 0
    for slots, where nobody can tell.
    """

    limit: str
    subject: str
    unit: Unit
    burst: int
    remaining: int
    reset_ns: int


class Admitted(NamedTuple):
    """All limits agreed.

    at_ns: the admission stamp, the host's steady clock at the debit. states: each limit
    right after it.
    """

    at_ns: int
    states: tuple[LimitState, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        # The most frequent of all replies: as plain tuples it is pickled in a third of the time.
        return _admitted, (self.at_ns, [tuple(state) for state in self.states])


def _admitted(at_ns: int, states: list[tuple[Any, ...]]) -> Admitted:
    """What was pickled, made again."""
    return Admitted(at_ns, tuple(map(LimitState._make, states)))


class Refused(NamedTuple):
    """Nothing was taken.

    limit, subject, unit: the limit that refused, or the one with the longest wait.
    retry_after_ns: when a repeat may succeed; None when quantity > burst (never) or, for
        "concurrent", when nobody can tell.
    quantity, burst: what was asked of that limit, and the most that it ever gives.
    states: each limit that was asked, now.
    """

    limit: str
    subject: str
    unit: Unit
    retry_after_ns: int | None
    quantity: int
    burst: int
    states: tuple[LimitState, ...]


class Wish(NamedTuple):
    """What an owner reports of a slice, returns of it, and wishes for on top of it.

    used: units spent since its last exchange. takes: how many of the takes that spent them
        are not ended yet; they are debited under one mark.
    back: units that it returns unused.
    more: units that it wishes to be lent on top.
    closes: (mark, takes ended, units given back) for takes that were reported earlier; units
        below 0 are debited on top.

    A limit on concurrency has no `used`, `takes` and `closes`: what is lent there are the
    slots themselves.
    """

    limit: str
    subject: str
    used: int
    takes: int
    back: int
    more: int
    closes: tuple[tuple[int, int, int], ...]


class Lent(NamedTuple):
    """The answer to one wish.

    granted: units lent on top, at most as many as were wished for. mark: names what was
    reported as used, when its takes end; 0 when nothing was. at_ns: the host's steady clock.
    state: the limit right after it, what is lent being counted as used.
    """

    granted: int
    mark: int
    at_ns: int
    state: LimitState


class Recall(NamedTuple):
    """Somebody waits for what is lent: return what is unused of it with an exchange.

    Comes as a result under the id that `recall_id` tells, without having been asked for.
    """

    limit: str
    subject: str


def recall_id(limit: str, subject: str) -> str:
    """The id under which the holder of a slice is told to return it."""
    return f"recall {limit} {subject}"


def read_limits(policy: Mapping[str, Any]) -> dict[str, Limit]:
    """The limits of a policy, {"limits": [{fields as in `Limit`}]}, by name.

    Raises InvalidRequest, whose `param` is the path of the field at fault.
    """
    entries = mapping(policy, "", ("limits",)).get("limits", ())
    limits: dict[str, Limit] = {}
    for index, entry in enumerate(sequence(entries, "limits", 0, _MOST_LIMITS)):
        limit = _read_limit(entry, f"limits[{index}]")
        if limit.name in limits:
            raise invalid(
                f"limits[{index}].name", f"another name than {limit.name}, which is taken"
            )
        limits[limit.name] = limit
    return limits


def _read_limit(entry: Any, path: str) -> Limit:
    mapping(entry, path, Limit._fields)

    def one_of(field: str, allowed: tuple[str, ...]) -> Any:
        value = entry.get(field)
        if value not in allowed:
            raise invalid(f"{path}.{field}", "one of " + ", ".join(allowed))
        return value

    def units(field: str, least: int, default: int | None = None) -> int:
        return whole(entry.get(field, default), f"{path}.{field}", least, _MOST)

    name = identifier(entry.get("name"), f"{path}.name")
    scope = one_of("scope", get_args(Scope))
    unit = one_of("unit", get_args(Unit))
    burst = units("burst", 1)
    if unit == "concurrent":
        return Limit(name, scope, unit, 0, 0, burst, 0)
    debt = units("debt", 0, burst) if unit == "requests" else 0
    return Limit(name, scope, unit, units("rate", 1), units("period_ns", 1), burst, debt)
