"""Experiments: which variant a subject gets, always the same, and how each one fares.

Assignment is a pure function of the experiment and the subject (`variant_for`), so every
replica decides alike without asking; only outcomes are reported here.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from actors import fields
from actors.errors import Conflict, NotFound, Overloaded
from actors.mechanism import Bookkeeping, Gone, Row
from actors.tallies import Interaction, Tally, added, check

MAX_EXPERIMENTS = 1000
MAX_VARIANTS = 20
MAX_WEIGHT = 1_000_000
MAX_BATCH = 10_000


class Variant(NamedTuple):
    """One arm of an experiment; a None leaves the matter as it would be without it.

    weight: its share is weight over the sum of all weights.
    version, label: the template version to use; at most one of them is given.
    model, temperature: instead of the template's.
    """

    id: str
    weight: int
    version: int | None = None
    label: str | None = None
    model: str | None = None
    temperature: float | None = None


class Experiment(NamedTuple):
    """An experiment. Its variants, weights and salt never change.

    prompt: the template it is about; None: any.
    status: "draft", "running" or "stopped".
    created_ns, started_ns, stopped_ns: wall clock, nanoseconds; of the last start and stop.
    """

    id: str
    prompt: str | None
    variants: tuple[Variant, ...]
    status: str
    salt: str
    description: str
    created_ns: int
    started_ns: int | None = None
    stopped_ns: int | None = None


def variant_at(variants: tuple[Variant, ...], point: int) -> Variant:
    """The variant whose share holds `point`, 0 ≤ point < sum of weights."""
    for variant in variants:
        if point < variant.weight:
            return variant
        point -= variant.weight
    raise ValueError("the point lies past the sum of the weights")


def variant_for(experiment: Experiment, subject: str) -> Variant | None:
    """The variant that this subject always gets; None unless the experiment is running."""
    if experiment.status != "running":
        return None
    # The salt's length goes first, so that no other split of salt and subject collides.
    seed = f"{len(experiment.salt)}:{experiment.salt}{subject}".encode("utf-8", "surrogatepass")
    total = sum(variant.weight for variant in experiment.variants)
    # 256 bits against at most 25: the remainder's bias is below 2**-230.
    return variant_at(
        experiment.variants, int.from_bytes(hashlib.sha256(seed).digest(), "big") % total
    )


class ExperimentManager(Bookkeeping):
    """See the module's docstring. View entries: an experiment's id → its Experiment."""

    NAME: ClassVar[str] = "experiment_manager"
    DURABLE: ClassVar[bool] = True
    MIRRORED: ClassVar[bool] = True
    CLOCK: ClassVar[Literal["steady", "wall"]] = "wall"
    TABLES: ClassVar[Mapping[str, Literal["live", "archive"]]] = {
        "experiments": "live",
        "tallies": "live",
    }
    COMMANDS: ClassVar[frozenset[str]] = frozenset(
        {"create", "start", "stop", "remove", "list", "record", "results", "status"}
    )
    READS: ClassVar[frozenset[str]] = frozenset({"list", "results", "status"})

    def __init__(self) -> None:
        super().__init__()
        self._experiments: dict[str, Experiment] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}

    def create(self, now: int, caller: str, id: str, spec: dict[str, Any]) -> Experiment:
        """Make an experiment, not yet running.

        spec: variants (required: [{id, weight, version | label, model, temperature}]),
        prompt, salt (default: the id), description. The same again changes nothing; other
        content raises Conflict. Raises InvalidRequest naming a bad field, Overloaded when
        there are MAX_EXPERIMENTS.
        """
        made = _parsed(id, spec, now)
        known = self._experiments.get(id)
        if known is not None:
            if _content(known) == _content(made):
                return known
            raise Conflict(f"There is another experiment with the id {id}.")
        if len(self._experiments) >= MAX_EXPERIMENTS:
            raise Overloaded(f"There are {MAX_EXPERIMENTS} experiments; remove one first.")
        return self._store(made)

    def start(self, now: int, caller: str, id: str) -> Experiment:
        """Let it run (again); subjects get the variants that they always got."""
        known = self._known(id)
        if known.status == "running":
            return known
        return self._store(known._replace(status="running", started_ns=now, stopped_ns=None))

    def stop(self, now: int, caller: str, id: str) -> Experiment:
        """End it; its results stay. Raises Conflict when it never ran."""
        known = self._known(id)
        if known.status == "stopped":
            return known
        if known.status == "draft":
            raise Conflict(f"Experiment {id} was never started.")
        return self._store(known._replace(status="stopped", stopped_ns=now))

    def remove(self, now: int, caller: str, id: str) -> bool:
        """Forget it and its results; False when unknown. Raises Conflict while it runs."""
        known = self._experiments.get(id)
        if known is None:
            return False
        if known.status == "running":
            raise Conflict(f"Experiment {id} is running; stop it first.")
        del self._experiments[id]
        self.drop("experiments", id)
        for variant in known.variants:
            if self._tallies.pop((id, variant.id), None) is not None:
                self.drop("tallies", f"{id}/{variant.id}")
        self.show(id)
        return True

    def list(self, now: int, caller: str) -> tuple[Experiment, ...]:
        """All experiments, oldest first."""
        return tuple(sorted(self._experiments.values(), key=lambda one: (one.created_ns, one.id)))

    def record(self, now: int, caller: str, interactions: tuple[Interaction, ...]) -> int:
        """Count a batch; return how many belonged to a known experiment and variant.

        Those of a stopped experiment count: batches come late. Raises InvalidRequest,
        and counts none, when one of them makes no sense.
        """
        for i, one in enumerate(fields.sequence(interactions, "interactions", 0, MAX_BATCH)):
            check(one, f"interactions[{i}]")
        changed: set[tuple[str, str]] = set()
        counted = 0
        for one in interactions:
            place = (one.experiment, one.variant)
            if place not in self._tallies and not self._has(*place):
                continue
            self._tallies[place] = added(self._tallies.get(place, Tally()), one)
            changed.add(place)
            counted += 1
        for id, variant in changed:
            value = [id, variant, self._tallies[id, variant]._asdict()]
            self.put("tallies", f"{id}/{variant}", value)
        return counted

    def results(self, now: int, caller: str, id: str) -> dict[str, Any]:
        """Per variant the sums of Tally, `success_rate` and means (None without calls)."""
        known = self._known(id)
        found = []
        for variant in known.variants:
            tally = self._tallies.get((id, variant.id), Tally())
            calls = tally.calls
            found.append(
                {"id": variant.id, "weight": variant.weight}
                | tally._asdict()
                | {
                    "success_rate": tally.success / calls if calls else None,
                    "mean_cost_nanos": tally.cost_nanos // calls if calls else None,
                    "mean_latency_ns": tally.latency_ns // calls if calls else None,
                }
            )
        return {"id": id, "status": known.status, "variants": found}

    def status(self, now: int, caller: str) -> dict[str, Any]:
        """Counts for health."""
        running = sum(one.status == "running" for one in self._experiments.values())
        return {"experiments": len(self._experiments), "running": running}

    def advance(self, now: int) -> int | None:
        """Nothing here comes with time."""
        return None

    def view(self, key: str, now: int) -> Experiment | None:
        """The experiment with this id."""
        return self._experiments.get(key)

    def view_keys(self) -> Iterable[str]:
        """The ids of all experiments."""
        return [*self._experiments]

    def keep(self, reply: Any) -> Any:
        """All but what was only read, which is simply asked for again."""
        read = isinstance(reply, dict) or (
            isinstance(reply, tuple) and not isinstance(reply, Experiment)
        )
        return Gone() if read else reply

    def load(self, rows: Iterable[Row]) -> None:
        """See `Mechanism`."""
        for row in rows:
            if row.table == "experiments":
                one = Experiment(**row.value)
                variants = tuple(Variant(**variant) for variant in one.variants)  # type: ignore[arg-type]
                self._experiments[one.id] = one._replace(variants=variants)
            else:
                id, variant, sums = row.value
                self._tallies[id, variant] = Tally(**sums)

    def _known(self, id: str) -> Experiment:
        known = self._experiments.get(id)
        if known is None:
            raise NotFound(f"There is no experiment `{str(id)[:100]}`.", "experiment_not_found")
        return known

    def _has(self, id: str, variant: str) -> bool:
        known = self._experiments.get(id)
        return known is not None and any(one.id == variant for one in known.variants)

    def _store(self, one: Experiment) -> Experiment:
        self._experiments[one.id] = one
        value = one._asdict() | {"variants": [variant._asdict() for variant in one.variants]}
        self.put("experiments", one.id, value)
        self.show(one.id)
        return one


def _content(one: Experiment) -> tuple[Any, ...]:
    return (one.prompt, one.variants, one.salt, one.description)


def _parsed(id: str, spec: Any, now: int) -> Experiment:
    fields.identifier(id, "id")
    spec = fields.mapping(spec, "", ("prompt", "variants", "salt", "description"))
    given = fields.sequence(spec.get("variants"), "variants", 1, MAX_VARIANTS)
    variants = tuple(_variant(one, f"variants[{i}]") for i, one in enumerate(given))
    if len({one.id for one in variants}) < len(variants):
        raise fields.invalid("variants", "of different ids")
    if not any(one.weight for one in variants):
        raise fields.invalid("variants", "such that one of them has a weight above 0")
    prompt, salt = spec.get("prompt"), spec.get("salt")
    return Experiment(
        id=id,
        prompt=None if prompt is None else fields.identifier(prompt, "prompt"),
        variants=variants,
        status="draft",
        salt=id if salt is None else fields.text(salt, "salt", 200),
        description=fields.text(spec.get("description") or "", "description", 2000),
        created_ns=now,
    )


def _variant(value: Any, path: str) -> Variant:
    value = fields.mapping(value, path, Variant._fields)
    version, label = value.get("version"), value.get("label")
    model, temperature = value.get("model"), value.get("temperature")
    if version is not None and label is not None:
        raise fields.invalid(path, "given a version or a label, not both")
    return Variant(
        id=fields.identifier(value.get("id"), f"{path}.id"),
        weight=fields.whole(value.get("weight"), f"{path}.weight", 0, MAX_WEIGHT),
        version=None if version is None else fields.whole(version, f"{path}.version", 1, 2**31),
        label=None if label is None else fields.identifier(label, f"{path}.label"),
        model=None if model is None else fields.text(model, f"{path}.model", 200, least=1),
        temperature=None
        if temperature is None
        else fields.number(temperature, f"{path}.temperature", 0.0, 2.0),
    )
