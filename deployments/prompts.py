"""Prompts: templates from YAML files, which version answers, and the messages it makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from actors import fields
from actors.errors import InvalidRequest, NotFound, PromptInputsInvalid
from actors.experiment_manager import Variant
from actors.prompt_registry import SPEC_FIELDS, Template, TemplateVersion, normal
from deployments.prompt_inputs import InputsCheck, check_schema
from deployments.template_sandbox import Source, TemplateError

BUILTIN = Path(__file__).parent / "templates"
FALLBACKS = "fallbacks.yaml"
PRODUCTION = "production"
MAX_FILE_BYTES = 1024 * 1024
T = TypeVar("T")


def load_builtin() -> list[dict[str, Any]]:
    """The specs (with their `id`) of the templates that come with Raygate, by file name."""
    return [load_file(path) for path in sorted(BUILTIN.glob("*.yaml")) if path.name != FALLBACKS]


def load_file(path: Path | str) -> dict[str, Any]:
    """The spec (with its `id`) in a YAML file, checked as `check` does.

    Raises InvalidRequest that names the file and, in `param`, the field.
    """
    return _from_file(Path(path), check)


def load_fallbacks(path: Path | str = BUILTIN / FALLBACKS) -> dict[str, str]:
    """Fallback texts by template type, with one for `default`.

    Raises InvalidRequest that names the file and the field.
    """

    def checked(found: Any) -> dict[str, str]:
        if not isinstance(found, dict) or "default" not in found:
            raise fields.invalid("default", "given, with the text for all other types")
        return {
            fields.identifier(type, str(type)[:100]): fields.text(text, str(type), 10_000, least=1)
            for type, text in found.items()
        }

    return _from_file(Path(path), checked)


def check(spec: Any) -> dict[str, Any]:
    """A spec with an `id`, ready for `prompt_registry.register`, completely checked.

    Field types and sizes, the inputs' schema, that the sources compile, and that every
    name they use is an input of the schema. Raises InvalidRequest; `param` is the path.
    """
    fields.mapping(spec, "", ("id", *SPEC_FIELDS))
    id = fields.identifier(spec.get("id"), "id")
    good = normal({name: value for name, value in spec.items() if name != "id"})
    check_schema(good["inputs_schema"], "inputs_schema")
    if good["inputs_schema"].get("type") != "object":
        raise fields.invalid("inputs_schema.type", "`object`")
    known = good["inputs_schema"].get("properties", {})
    for name in ("system", "template"):
        try:
            unknown = Source(good[name]).names - known.keys()
        except TemplateError as error:
            raise InvalidRequest(f"Field `{name}`: {error}", param=name) from error
        if unknown:
            listed = ", ".join(sorted(unknown))
            raise InvalidRequest(
                f"Field `{name}` uses what is not in inputs_schema.properties: {listed}.",
                param=name,
            )
    return {"id": id} | good


def choose_version(
    template: Template,
    version: int | None = None,
    label: str | None = None,
    variant: Variant | None = None,
) -> TemplateVersion:
    """The version that answers a request.

    It is what the caller named, else what the variant names, else the one labelled
    `production`, else the newest. A version goes before a label. Raises NotFound
    (`prompt_not_found`).
    """
    if version is None and label is None and variant is not None:
        version, label = variant.version, variant.label
    if version is None and label is not None:
        version = template.labels.get(label)
        if version is None:
            raise NotFound(
                f"Template {template.id} has no label `{label[:100]}`.", "prompt_not_found", "label"
            )
    if version is None:
        version = template.labels.get(PRODUCTION, template.versions[-1].version)
    found = template.numbered(version)
    if found is None:
        raise NotFound(
            f"Template {template.id} has no version {version}.", "prompt_not_found", "version"
        )
    return found


def render(version: TemplateVersion, inputs: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of one prompt: `system`, where the template has one, and `user`.

    A property's `default` stands in for an input that is missing. Inputs are data: what
    looks like a template in them stays as it is. Raises PromptInputsInvalid; `param` is
    the path of the input.
    """
    prepared = _prepared(_Content(version))
    inputs = prepared.inputs.checked(inputs)
    messages = []
    for role, source in (("system", prepared.system), ("user", prepared.user)):
        if source is not None:
            try:
                messages.append({"role": role, "content": source.render(inputs)})
            except TemplateError as error:
                param = f"inputs.{error.missing}" if error.missing else "inputs"
                raise PromptInputsInvalid(str(error), param=param) from error
    return messages


def fallback_text(version: TemplateVersion, fallbacks: Mapping[str, str]) -> str:
    """The text when no model can answer: the template's own, else its type's, else the default."""
    return version.fallback or fallbacks.get(version.type) or fallbacks["default"]


@dataclass(frozen=True, slots=True)
class _Prepared:
    system: Source | None
    user: Source
    inputs: InputsCheck


class _Content:
    """A version as a cache key: equal content, equal key."""

    __slots__ = ("version",)

    def __init__(self, version: TemplateVersion) -> None:
        self.version = version

    def __hash__(self) -> int:
        return hash(self.version.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Content) and self.version.digest == other.version.digest


@lru_cache(maxsize=256)
def _prepared(content: _Content) -> _Prepared:
    version = content.version
    try:
        system = Source(version.system) if version.system else None
        user = Source(version.template)
    except TemplateError as error:
        raise PromptInputsInvalid(
            f"Template {version.id} version {version.version} cannot be used. {error}",
            param="prompt_template_id",
        ) from error
    return _Prepared(system, user, InputsCheck(version.inputs_schema))


def _from_file(path: Path, checked: Callable[[Any], dict[str, T]]) -> dict[str, T]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidRequest(f"The file has over {MAX_FILE_BYTES} bytes.")
        return checked(fields.plain(yaml.safe_load(path.read_text("utf-8")), "the file"))
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error}", param=error.param) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # yaml's own message has the line and column.
        raise InvalidRequest(f"{path} is not YAML: {error}") from error
