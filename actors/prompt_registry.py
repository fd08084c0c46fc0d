"""Prompt templates: numbered versions that never change, and labels that point at them."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from actors import fields
from actors.errors import Conflict, NotFound, Overloaded
from actors.mechanism import Bookkeeping, Gone, Row

MAX_TEMPLATES = 1000
MAX_VERSIONS = 100
MAX_LABELS = 20
MAX_SOURCE_CHARS = 64 * 1024
MAX_TOTAL_CHARS = 64 * 1024 * 1024


class TemplateVersion(NamedTuple):
    """One version of a template.

    id, version: the template's name and this version's number, from 1.
    type: what it is for; a fallback text is found by it.
    system, template: jinja2 sources of the system message ("": none) and the user message.
    inputs_schema: JSON schema (a bounded subset) of the inputs.
    model: the model to ask; None: the gateway's default.
    max_tokens, temperature: None: the gateway's or the provider's default.
    fallback: the text when no model can answer; None: the one of its type.
    description: for people.
    created_ns: wall clock, nanoseconds.
    digest: SHA-256 of the content (all but id, version, created_ns), hex.
    """

    id: str
    version: int
    type: str
    system: str
    template: str
    inputs_schema: dict[str, Any]
    model: str | None
    max_tokens: int | None
    temperature: float | None
    fallback: str | None
    description: str
    created_ns: int
    digest: str


class Template(NamedTuple):
    """A template as a view shows it. versions: oldest first, never empty."""

    id: str
    versions: tuple[TemplateVersion, ...]
    labels: dict[str, int]

    def numbered(self, version: int) -> TemplateVersion | None:
        """The version with this number, or None."""
        return next((one for one in self.versions if one.version == version), None)


SPEC_FIELDS = (
    "type",
    "system",
    "template",
    "inputs_schema",
    "model",
    "max_tokens",
    "temperature",
    "fallback",
    "description",
)


def normal(spec: Any) -> dict[str, Any]:
    """A spec with every field of SPEC_FIELDS, checked for types and sizes.

    Required: type, template. Raises InvalidRequest naming the field. Whether the sources
    compile and the schema makes sense is for the edge that takes templates in.
    """
    spec = fields.mapping(spec, "", SPEC_FIELDS)
    for name in ("type", "template"):
        if spec.get(name) is None:
            raise fields.invalid(name, "given")

    def words(name: str, limit: int) -> str | None:
        value = spec.get(name)
        return None if value is None else fields.text(value, name, limit, least=1)

    schema = spec.get("inputs_schema")
    tokens, temperature = spec.get("max_tokens"), spec.get("temperature")
    return {
        "type": fields.identifier(spec["type"], "type"),
        "system": fields.text(spec.get("system") or "", "system", MAX_SOURCE_CHARS),
        "template": fields.text(spec["template"], "template", MAX_SOURCE_CHARS, least=1),
        "inputs_schema": _schema({"type": "object"} if schema is None else schema),
        "model": words("model", 200),
        "max_tokens": None if tokens is None else fields.whole(tokens, "max_tokens", 1, 10**7),
        "temperature": None
        if temperature is None
        else fields.number(temperature, "temperature", 0.0, 2.0),
        "fallback": words("fallback", 10_000),
        "description": fields.text(spec.get("description") or "", "description", 2000),
    }


def draft(id: str, version: int, spec: Any, now: int = 0) -> TemplateVersion:
    """The TemplateVersion that a spec describes. Raises InvalidRequest naming the field."""
    good = normal(spec)
    canonical = json.dumps(good, sort_keys=True, allow_nan=False).encode()
    digest = hashlib.sha256(canonical).hexdigest()
    return TemplateVersion(
        id=fields.identifier(id, "id"), version=version, created_ns=now, digest=digest, **good
    )


class PromptRegistry(Bookkeeping):
    """See the module's docstring. View entries: a template's id → its Template."""

    NAME: ClassVar[str] = "prompt_registry"
    DURABLE: ClassVar[bool] = True
    MIRRORED: ClassVar[bool] = True
    CLOCK: ClassVar[Literal["steady", "wall"]] = "wall"
    TABLES: ClassVar[Mapping[str, Literal["live", "archive"]]] = {
        "versions": "live",
        "labels": "live",
    }
    COMMANDS: ClassVar[frozenset[str]] = frozenset({"register", "label", "get", "list", "status"})
    READS: ClassVar[frozenset[str]] = frozenset({"get", "list", "status"})

    def __init__(self) -> None:
        super().__init__()
        self._versions: dict[str, dict[int, TemplateVersion]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._chars = 0

    def register(self, now: int, caller: str, id: str, spec: dict[str, Any]) -> int:
        """Keep a new version; content that a version has already gives that version's number.

        Raises InvalidRequest naming a bad field, Overloaded when the registry is full.
        """
        versions = self._versions.get(id, {})
        made = draft(id, max(versions, default=0) + 1, spec, now)
        for version in versions.values():
            if version.digest == made.digest:
                return version.version
        if not versions and len(self._versions) >= MAX_TEMPLATES:
            raise Overloaded(f"There are {MAX_TEMPLATES} templates, the most there can be.")
        if len(versions) >= MAX_VERSIONS:
            raise Overloaded(f"Template {id} has {MAX_VERSIONS} versions; use another id.")
        if self._chars + _size(made) > MAX_TOTAL_CHARS:
            raise Overloaded(f"All templates together may have {MAX_TOTAL_CHARS} characters.")
        self._remember(made)
        self.put("versions", f"{id}/{made.version:08d}", made._asdict())
        self.show(id)
        return made.version

    def label(self, now: int, caller: str, id: str, label: str, version: int | None) -> int | None:
        """Point a label at a version (None: take the label away); return what it pointed at.

        Raises NotFound for an unknown template or version, Conflict past MAX_LABELS.
        """
        versions = self._known(id)
        fields.identifier(label, "label")
        labels = self._labels.get(id, {})
        before = labels.get(label)
        if version is not None:
            fields.whole(version, "version", 1, 2**31)
            if version not in versions:
                raise NotFound(f"Template {id} has no version {version}.", "prompt_not_found")
            if before is None and len(labels) >= MAX_LABELS:
                raise Conflict(f"Template {id} has {MAX_LABELS} labels; take one away first.")
        if before == version:
            return before
        key = f"{id}/{label}"
        if version is None:
            del labels[label]
            self.drop("labels", key)
        else:
            self._labels.setdefault(id, {})[label] = version
            self.put("labels", key, [id, label, version])
        self.show(id)
        return before

    def get(self, now: int, caller: str, id: str) -> Template:
        """A template with all its versions. Raises NotFound."""
        self._known(id)
        return self._template(id)

    def list(self, now: int, caller: str) -> dict[str, Any]:
        """For each template, by id: its type, newest version, number of versions, labels."""
        found = {}
        for id in sorted(self._versions):
            newest = self._versions[id][max(self._versions[id])]
            found[id] = {
                "type": newest.type,
                "newest": newest.version,
                "versions": len(self._versions[id]),
                "labels": dict(self._labels.get(id, {})),
                "description": newest.description,
            }
        return found

    def status(self, now: int, caller: str) -> dict[str, Any]:
        """Counts for health."""
        return {
            "templates": len(self._versions),
            "versions": sum(map(len, self._versions.values())),
            "chars": self._chars,
        }

    def advance(self, now: int) -> int | None:
        """Nothing here comes with time."""
        return None

    def view(self, key: str, now: int) -> Template | None:
        """The template with this id."""
        return self._template(key) if key in self._versions else None

    def view_keys(self) -> Iterable[str]:
        """The ids of all templates."""
        return [*self._versions]

    def keep(self, reply: Any) -> Any:
        """All but what was only read, which is simply asked for again."""
        return Gone() if isinstance(reply, Template | dict) else reply

    def load(self, rows: Iterable[Row]) -> None:
        """See `Mechanism`."""
        for row in rows:
            if row.table == "versions":
                self._remember(TemplateVersion(**row.value))
            else:
                id, label, version = row.value
                self._labels.setdefault(id, {})[label] = version

    def _known(self, id: str) -> dict[int, TemplateVersion]:
        versions = self._versions.get(id)
        if versions is None:
            raise NotFound(f"There is no template `{str(id)[:100]}`.", "prompt_not_found")
        return versions

    def _remember(self, version: TemplateVersion) -> None:
        self._versions.setdefault(version.id, {})[version.version] = version
        self._chars += _size(version)

    def _template(self, id: str) -> Template:
        versions = self._versions[id]
        ordered = tuple(versions[number] for number in sorted(versions))
        return Template(id, ordered, dict(self._labels.get(id, {})))


def _schema(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise fields.invalid("inputs_schema", "a mapping, a JSON schema")
    schema: dict[str, Any] = fields.plain(value, "inputs_schema", limit=2000)
    if len(json.dumps(schema)) > MAX_SOURCE_CHARS:
        raise fields.invalid("inputs_schema", f"at most {MAX_SOURCE_CHARS} characters as JSON")
    return schema


def _size(version: TemplateVersion) -> int:
    texts = (version.system, version.template, version.fallback or "", version.description)
    return sum(map(len, texts)) + len(json.dumps(version.inputs_schema))
