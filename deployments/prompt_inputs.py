"""The inputs of a prompt: which JSON schemas a template may have, and inputs checked by them."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match

from actors import fields
from actors.errors import InvalidRequest, PromptInputsInvalid

MAX_INPUT_VALUES = 10_000

# Left out on purpose: patterns (a regular expression can run for ever), references (they
# may lead anywhere), uniqueItems (quadratic).
_KEYWORDS = frozenset(
    (
        "$schema",
        "title",
        "description",
        "default",
        "examples",
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minProperties",
        "maxProperties",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
    )
)


class InputsCheck:
    """A schema made ready to check inputs against.

    Raises InvalidRequest as `check_schema` does.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        check_schema(schema, "inputs_schema")
        self._validator = Draft202012Validator(schema)
        self._defaults = {
            name: part["default"]
            for name, part in schema.get("properties", {}).items()
            if isinstance(part, dict) and "default" in part
        }

    def checked(self, inputs: Any) -> dict[str, Any]:
        """The inputs, with defaults where they are missing.

        Raises PromptInputsInvalid; `param` is the path of the input at fault.
        """
        if not isinstance(inputs, Mapping):
            raise PromptInputsInvalid("`inputs` must be an object.", param="inputs")
        merged = self._defaults | dict(inputs)
        if _count(merged, MAX_INPUT_VALUES) < 0:
            raise PromptInputsInvalid(
                f"`inputs` may hold {MAX_INPUT_VALUES} values, nested at most 32 deep.",
                param="inputs",
            )
        # Of a thousand bad items the first few tell enough.
        error = best_match(islice(self._validator.iter_errors(merged), 20))
        if error is not None:
            path, reason = _explained(error)
            raise PromptInputsInvalid(f"Input `{path}` {reason}.", param=path)
        return merged


def _count(value: Any, left: int, depth: int = 32) -> int:
    """`left` less the number of values in plain data; negative: more, or too deep."""
    left -= 1
    parts: Iterator[Any] = iter(())
    if isinstance(value, dict):
        parts = iter(value.values())
    elif isinstance(value, list | tuple):
        parts = iter(value)
    for part in parts:
        left = _count(part, left, depth - 1) if depth else -1
        if left < 0:
            break
    return left


def _explained(error: ValidationError) -> tuple[str, str]:
    """The path of the input at fault and what is wrong with it, without quoting it."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path]
    path = ("inputs" + "".join(steps))[:300]
    value: Any = error.validator_value
    instance: Any = error.instance
    rule, allowed = str(error.validator), str(value)[:200]
    if rule == "required":
        missing = next(name for name in value if name not in instance)
        return f"{path}.{missing}"[:300], "is missing"
    if rule == "additionalProperties":
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        extra = next((name for name in instance if name not in known), "")
        return f"{path}.{extra}"[:300], "is not an input of this template"
    if rule == "type":
        return path, f"must be of type {allowed}"
    return path, f"does not fit `{rule}: {allowed}`"


def check_schema(schema: Any, path: str) -> None:
    """Raise InvalidRequest naming the first part of a schema that is wrong or not allowed."""
    _check_keywords(schema, path)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        steps = "".join(f".{step}" for step in error.absolute_path)
        raise InvalidRequest(
            f"Field `{path}{steps}`: {error.message[:200]}.", param=f"{path}{steps}"
        ) from error


def _check_keywords(schema: Any, path: str) -> None:
    if isinstance(schema, bool):
        return
    fields.mapping(schema, path, _KEYWORDS)
    for word in ("items", "additionalProperties", "not"):
        if word in schema:
            _check_keywords(schema[word], f"{path}.{word}")
    for word in ("anyOf", "oneOf", "allOf"):
        for i, part in enumerate(fields.sequence(schema.get(word, []), f"{path}.{word}", 0, 10)):
            _check_keywords(part, f"{path}.{word}[{i}]")
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise fields.invalid(f"{path}.properties", "a mapping of names to schemas")
    for name, part in properties.items():
        _check_keywords(part, f"{path}.properties.{name}")
