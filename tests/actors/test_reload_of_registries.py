"""Keys, prompts, experiments and traces: one that was reloaded is the one that lived."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from actors import trace_collector
from actors.experiment_manager import ExperimentManager
from actors.key_store import KeyRecord, KeyStore
from actors.keys import id_of
from actors.prompt_registry import PromptRegistry
from actors.tallies import Interaction
from actors.trace_collector import TraceCollector
from tests.actors.reloading import Twin

SECOND = 10**9
START = 1_764_541_800 * SECOND
STEPS = settings(max_examples=settings.default.max_examples, stateful_step_count=30)
texts = st.text(max_size=8)


class Reloaded(RuleBasedStateMachine):
    """What the four have in common: time that passes, and the crash."""

    MAKE: Any

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.twin = Twin(self.MAKE)

    def do(self, command: str, *args: Any, by: str = "c") -> Any:
        return self.twin.do(self.now, command, *args, by=by)

    @rule(seconds=st.sampled_from([0, 1, 9, 10, 100]))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.twin.until(self.now)

    @rule()
    def crash(self) -> None:
        self.twin.crash(self.now)

    @rule()
    def status(self) -> None:
        self.do("status")


hashes = st.sampled_from([f"{number:064x}" for number in (1, 2, 3 << 230, 4 << 230, 5 << 230)])
records = st.builds(
    lambda hash, name, team, role, models, high, wait, expires: KeyRecord(
        id_of(hash), name, team, role, hash, models, high, wait, 0, expires
    ),
    hashes,
    st.text(min_size=1, max_size=5),
    texts,
    st.sampled_from(["admin", "user", "viewer", "nobody"]),
    st.lists(st.text(min_size=1, max_size=3), max_size=2).map(tuple),
    st.booleans(),
    st.integers(-1, 2**63),
    st.none() | st.integers(1, 120).map(lambda seconds: START + seconds * SECOND),
)


class Keys(Reloaded):
    """Made, found, revoked, expired."""

    MAKE = KeyStore

    @rule(record=records, times=st.integers(1, 2))
    def create(self, record: KeyRecord, times: int) -> None:
        for _ in range(times):
            self.do("create", record)

    @rule(hash=hashes, command=st.sampled_from(["bootstrap", "ensure_admin"]))
    def admin(self, hash: str, command: str) -> None:
        self.do(command, id_of(hash), hash)

    @rule(hash=hashes, by=st.sampled_from(["a.1", "b.1"]))
    def find(self, hash: str, by: str) -> None:
        self.do("find", hash, by=by)

    @rule(hash=hashes)
    def revoke(self, hash: str) -> None:
        self.do("revoke", id_of(hash))

    @rule(limit=st.integers(0, 3))
    def pages(self, limit: int) -> None:
        """Page by page, and the count."""
        place = (-1, "")
        while isinstance(page := self.do("list", place, limit), tuple) and page:
            if not isinstance(page[-1], KeyRecord):
                break
            place = (page[-1].created_ns, page[-1].id)
        self.do("count")


TestKeys = Keys.TestCase
TestKeys.settings = STEPS

ids = st.sampled_from(["a", "b", "b/c", "b.c", ""])
labels = st.sampled_from(["production", "canary", "x/y"])
plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | texts,
    lambda parts: st.lists(parts, max_size=2) | st.dictionaries(texts, parts, max_size=2),
    max_leaves=4,
)
specs = st.fixed_dictionaries(
    {"type": st.sampled_from(["t", "u"]), "template": st.sampled_from(["hi", "{{ x }}", "ü\n"])},
    optional={
        "system": texts,
        "inputs_schema": st.dictionaries(texts, plain, max_size=2),
        "max_tokens": st.integers(0, 5),
        "temperature": st.floats(-1, 3) | st.integers(0, 2),
        "fallback": texts,
        "description": texts,
        "typo": texts,
    },
)


class Prompts(Reloaded):
    """Versions and labels."""

    MAKE = PromptRegistry

    @rule(id=ids, spec=specs)
    def register(self, id: str, spec: dict[str, Any]) -> None:
        self.do("register", id, spec)

    @rule(id=ids, label=labels, version=st.none() | st.integers(0, 3))
    def label(self, id: str, label: str, version: int | None) -> None:
        self.do("label", id, label, version)

    @rule(id=ids)
    def read(self, id: str) -> None:
        self.do("get", id)
        self.do("list")


TestPrompts = Prompts.TestCase
TestPrompts.settings = STEPS

variant_ids = st.sampled_from(["x", "y", "y.z"])
variants = st.lists(
    st.fixed_dictionaries(
        {"id": variant_ids, "weight": st.integers(0, 3)},
        optional={
            "version": st.integers(0, 3),
            "label": labels,
            "model": texts,
            "temperature": st.floats(0, 2),
        },
    ),
    max_size=3,
)
numbers = st.sampled_from([0, 1, 7, 2**62, 2**63 - 1, -1])
interactions = st.builds(
    Interaction,
    ids,
    variant_ids,
    st.sampled_from(["success", "success", "fallback", "error", "gone"]),
    st.booleans(),
    *[numbers] * 4,
)


class Experiments(Reloaded):
    """Made, started, stopped, removed, made again, with batches that come late."""

    MAKE = ExperimentManager

    @rule(id=ids, variants=variants, prompt=st.none() | ids)
    def create(self, id: str, variants: list[Any], prompt: str | None) -> None:
        self.do("create", id, {"variants": variants, "prompt": prompt})

    @rule(id=ids, command=st.sampled_from(["start", "start", "stop", "remove"]))
    def change(self, id: str, command: str) -> None:
        self.do(command, id)

    @rule(batch=st.lists(interactions, max_size=3))
    def record(self, batch: list[Interaction]) -> None:
        self.do("record", tuple(batch))

    @rule(id=ids)
    def read(self, id: str) -> None:
        self.do("results", id)
        self.do("list")


TestExperiments = Experiments.TestCase
TestExperiments.settings = STEPS

traces = st.lists(
    st.fixed_dictionaries(
        {"trace_id": st.sampled_from(["t1", "t2"]), "started_ns": st.integers(0, 5)},
        optional={
            "request_id": st.sampled_from(["r1", "t1"]),
            "tags": st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")),
            "cost_nanos": st.integers(0, 5),
        },
    ),
    max_size=4,
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "trace_id": st.sampled_from(["t1", "t2"]),
        "tags": st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")) | st.just(3),
        "since_ns": st.integers(-1, 5),
        "until_ns": st.integers(0, 5),
        "min_cost_nanos": st.integers(0, 5),
    },
)
deltas = st.dictionaries(
    st.sampled_from(["a", "b", "c" * 301]), st.integers(-(2**63), 2**63) | st.floats()
)


class Traces(Reloaded):
    """Batches in, old ones out, pages read, counters summed."""

    MAKE = TraceCollector
    revision = 0

    @rule(traces=st.integers(0, 9), bytes=st.sampled_from([0, 1, 60, 300, 10**6]))
    def configure(self, traces: int, bytes: int) -> None:
        self.revision += 1
        self.do("configure", str(self.revision), {"max_traces": traces, "max_bytes": bytes})

    @rule(traces=traces, deltas=deltas, over=st.integers(0, 2))
    def add(self, traces: list[Any], deltas: dict[str, Any], over: int) -> None:
        """As replicas do, or with a count that is not that of the batch."""
        self.do("add", len(traces) + max(0, over - 1), trace_collector.pack(traces), deltas)

    @rule(damaged=st.binary(max_size=8), count=st.integers(-1, 3))
    def add_damaged(self, damaged: bytes, count: int) -> None:
        self.do("add", count, damaged, {})

    @rule(filters=filters, limit=st.integers(0, 3))
    def search(self, filters: dict[str, Any], limit: int) -> None:
        cursor: str | None = None
        while isinstance(page := self.do("search", filters, limit, cursor), trace_collector.Page):
            cursor = page.cursor
            if cursor is None:
                break

    @rule(id=st.sampled_from(["t1", "r1", "r2", ""]))
    def get(self, id: str) -> None:
        self.do("get", id)
        self.do("counters")


TestTraces = Traces.TestCase
TestTraces.settings = STEPS
