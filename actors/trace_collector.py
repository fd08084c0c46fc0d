"""The last traces of the whole cluster, searchable, and cluster-wide counters.

Replicas hand over packed batches, which stay packed until somebody searches: taking one
in costs the same whatever it holds.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec

from actors import fields
from actors.errors import InvalidRequest
from actors.mechanism import Bookkeeping, Gone, Row

MAX_BATCH_TRACES = 100_000
MAX_COUNTERS = 5000
MAX_NAME = 300
MAX_PAGE = 200
MAX_EXAMINED = 2000
MAX_FILTERS = 20
IDS = ("trace_id", "request_id")
DEFAULT_POLICY = {"max_traces": 10_000, "max_bytes": 64 * 1024 * 1024}
_MOST = 2**63 - 1


class Page(NamedTuple):
    """Traces, newest first. cursor: where to go on; None at the end.

    A page may be short, even empty, and still have a cursor: a search looks at no more
    than MAX_EXAMINED traces at once.
    """

    traces: tuple[dict[str, Any], ...]
    cursor: str | None


class _Batch(NamedTuple):
    number: int
    traces: int
    packed: bytes


def pack(traces: Sequence[dict[str, Any]]) -> bytes:
    """Traces as `TraceCollector.add` takes them, oldest first."""
    return msgspec.msgpack.encode(traces)


class TraceCollector(Bookkeeping):
    """See the module's docstring.

    policy: max_traces, how many of the newest can be found; max_bytes, how many bytes of
    packed batches are kept at most (a batch larger than that is dropped at once).
    """

    NAME: ClassVar[str] = "trace_collector"
    DURABLE: ClassVar[bool] = False
    MIRRORED: ClassVar[bool] = False
    CLOCK: ClassVar[Literal["steady", "wall"]] = "wall"
    TABLES: ClassVar[Mapping[str, Literal["live", "archive"]]] = {
        "batches": "live",
        "counters": "live",
        "state": "live",
    }
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"configure", "add", "search", "get", "counters", "status"}
    )
    READS: ClassVar[frozenset[str]] = frozenset({"search", "get", "counters", "status"})

    def __init__(self) -> None:
        super().__init__()
        self._batches: deque[_Batch] = deque()
        self._counters: dict[str, int | float] = {}
        self._policy = dict(DEFAULT_POLICY)
        self._revision = ""
        self._number = 0
        self._traces = 0
        self._bytes = 0
        self._refused = 0

    def configure(self, now: int, caller: str, revision: str, policy: dict[str, Any]) -> None:
        """Put a policy in force; what is over its bounds goes. Raises InvalidRequest."""
        if revision == self._revision:
            return
        policy = DEFAULT_POLICY | dict(fields.mapping(policy, "", DEFAULT_POLICY))
        good = {
            "max_traces": fields.whole(policy["max_traces"], "max_traces", 1, 10**7),
            "max_bytes": fields.whole(policy["max_bytes"], "max_bytes", 1, 2**40),
        }
        self._policy, self._revision = good, fields.text(revision, "revision", 1000)
        self.put("state", "policy", [revision, good])
        self._trim()

    def add(
        self,
        now: int,
        caller: str,
        count: int,
        packed: bytes,
        counters: Mapping[str, int | float],
    ) -> None:
        """Take in `count` traces (see `pack`) and add deltas to counters.

        Past MAX_COUNTERS names, a new name's deltas are dropped and counted. Raises
        InvalidRequest.
        """
        fields.whole(count, "count", 0, MAX_BATCH_TRACES)
        if not isinstance(packed, bytes):
            raise fields.invalid("packed", "bytes")
        if not isinstance(counters, Mapping):
            raise fields.invalid("counters", "a mapping of names to numbers")
        if count:
            self._number += 1
            batch = _Batch(self._number, count, packed)
            self._push(batch)
            self.put("batches", _key(batch), [count, packed])
            self._trim()
        before = self._refused
        for name, delta in counters.items():
            self._count(name, delta)
        if count or self._refused != before:
            self.put("state", "sums", [self._number, self._refused])

    def counters(self, now: int, caller: str) -> dict[str, int | float]:
        """All counters: sums of every delta since the store was made."""
        return dict(self._counters)

    def search(
        self,
        now: int,
        caller: str,
        filters: Mapping[str, Any],
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Traces that fit all filters, newest first.

        filters: a trace's field → the value that it must have; besides `since_ns` and
        `until_ns` (of `started_ns`, until exclusive), `min_duration_ns`,
        `min_cost_nanos`, and `tags`: a mapping that the trace's tags must contain.
        limit: 1 to MAX_PAGE. Raises InvalidRequest.
        """
        fields.whole(limit, "limit", 1, MAX_PAGE)
        _check_filters(filters)
        found: list[dict[str, Any]] = []
        for examined, (place, trace) in enumerate(self._newest(_place(cursor)), start=1):
            if _fits(trace, filters):
                found.append(trace)
            if len(found) == limit or examined == MAX_EXAMINED:
                return Page(tuple(found), f"{place[0]}.{place[1]}")
        return Page(tuple(found), None)

    def get(self, now: int, caller: str, id: str) -> dict[str, Any] | None:
        """The newest trace with this trace id or request id; None when it is not kept."""
        wanted = fields.text(id, "id", 200, least=1)
        # Looking for the bytes first spares unpacking every batch there is.
        needle = wanted.encode()
        for _, trace in self._newest(None, needle):
            if any(trace.get(name) == wanted for name in IDS):
                return trace
        return None

    def status(self, now: int, caller: str) -> dict[str, Any]:
        """What is kept, and the policy in force."""
        return {
            "traces": min(self._traces, self._policy["max_traces"]),
            "bytes": self._bytes,
            "batches": len(self._batches),
            "counters": len(self._counters),
            "refused_counters": self._refused,
            "revision": self._revision,
        } | self._policy

    def advance(self, now: int) -> int | None:
        """Nothing here comes with time."""
        return None

    def keep(self, reply: Any) -> Any:
        """Nothing of what was only read: it is simply asked for again."""
        return None if reply is None else Gone()

    def load(self, rows: Iterable[Row]) -> None:
        """See `Mechanism`."""
        batches = []
        for row in rows:
            if row.table == "batches":
                batches.append(_Batch(int(row.key), *row.value))
            elif row.table == "counters":
                self._counters[row.key] = row.value
            elif row.key == "policy":
                self._revision, self._policy = row.value
            else:
                self._number, self._refused = row.value
        for batch in sorted(batches):
            self._push(batch)

    def _push(self, batch: _Batch) -> None:
        self._batches.append(batch)
        self._traces += batch.traces
        self._bytes += len(batch.packed)

    def _trim(self) -> None:
        """Drop the oldest batches: those past the bytes, and those wholly past the count."""
        most, room = self._policy["max_traces"], self._policy["max_bytes"]
        while self._batches and (
            self._bytes > room or self._traces - self._batches[0].traces >= most
        ):
            oldest = self._batches.popleft()
            self._traces -= oldest.traces
            self._bytes -= len(oldest.packed)
            self.drop("batches", _key(oldest))

    def _count(self, name: Any, delta: Any) -> None:
        known = name in self._counters if isinstance(name, str) else False
        good = isinstance(delta, int | float) and math.isfinite(delta)
        room = len(self._counters) < MAX_COUNTERS and isinstance(name, str)
        if not good or not (known or (room and len(name) <= MAX_NAME)):
            self._refused += 1
            return
        total = self._counters.get(name, 0) + delta
        if isinstance(total, int):
            total = max(-_MOST, min(_MOST, total))
        self._counters[name] = total
        self.put("counters", name, total)

    def _newest(
        self, before: tuple[int, int] | None, needle: bytes = b""
    ) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
        """Places and traces, newest first, older than `before`, in batches with `needle`."""
        left = self._policy["max_traces"]
        for batch in reversed(self._batches):
            past = before is not None and batch.number > before[0]
            if not past and needle in batch.packed:
                traces = _unpacked(batch.packed)
                oldest = max(0, len(traces) - left)
                for index in range(len(traces) - 1, oldest - 1, -1):
                    place = (batch.number, index)
                    if before is None or place < before:
                        yield place, traces[index]
            left -= batch.traces
            if left <= 0:
                return


# filter → the field that it bounds, and from which side
_BOUNDS: dict[str, tuple[str, Literal["from", "below"]]] = {
    "since_ns": ("started_ns", "from"),
    "until_ns": ("started_ns", "below"),
    "min_duration_ns": ("duration_ns", "from"),
    "min_cost_nanos": ("cost_nanos", "from"),
}


def _check_filters(filters: Any) -> None:
    if not isinstance(filters, Mapping) or len(filters) > MAX_FILTERS:
        raise fields.invalid("filters", f"a mapping of at most {MAX_FILTERS} fields")
    for name in _BOUNDS.keys() & filters.keys():
        fields.whole(filters[name], f"filters.{name}", 0, _MOST)
    if not isinstance(filters.get("tags", {}), Mapping):
        raise fields.invalid("filters.tags", "a mapping")


def _fits(trace: dict[str, Any], filters: Mapping[str, Any]) -> bool:
    for name, wanted in filters.items():
        if name in _BOUNDS:
            field, side = _BOUNDS[name]
            value = trace.get(field)
            if not isinstance(value, int | float) or (value >= wanted) != (side == "from"):
                return False
        elif name == "tags":
            tags = trace.get("tags")
            if not isinstance(tags, dict) or any(tags.get(k) != v for k, v in wanted.items()):
                return False
        elif trace.get(name) != wanted:
            return False
    return True


def _unpacked(packed: bytes) -> list[dict[str, Any]]:
    try:
        return msgspec.msgpack.decode(packed, type=list[dict[str, Any]])
    except (ValueError, RecursionError):  # damaged: nothing in it can be found
        return []


def _key(batch: _Batch) -> str:
    return f"{batch.number:016d}"


def _place(cursor: str | None) -> tuple[int, int] | None:
    if cursor is None:
        return None
    number, _, index = str(cursor)[:100].partition(".")
    if not (number.isdecimal() and index.isdecimal()):
        raise InvalidRequest("Field `cursor` must come from an earlier page.", param="cursor")
    return int(number), int(index)
