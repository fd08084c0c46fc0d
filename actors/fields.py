"""Checks of what a command was given: each returns the good value or names the bad field.

All raise InvalidRequest, whose `param` is the path of the field, and whose message says
what was found and what is allowed. They never quote a value at length.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from actors.errors import InvalidRequest

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")
_MAX_DEPTH = 32


def invalid(param: str, allowed: str) -> InvalidRequest:
    """The error that says that the field `param` must be `allowed`."""
    return InvalidRequest(f"Field `{param}` must be {allowed}.", param=param)


def identifier(value: Any, param: str, limit: int = 100) -> str:
    """A name that can stand in a path: letters, digits, `_`, `.`, `-`; at most `limit` long."""
    if not isinstance(value, str) or len(value) > limit or not _IDENTIFIER.match(value):
        raise invalid(
            param,
            f"1 to {limit} letters, digits, `_`, `.` or `-`, beginning with a letter or digit",
        )
    return value


def text(value: Any, param: str, limit: int, least: int = 0) -> str:
    """A string of `least` to `limit` characters that can be stored as UTF-8."""
    if not isinstance(value, str) or not least <= len(value) <= limit:
        raise invalid(param, f"a string of {least} to {limit} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(param, "text without lone surrogates") from None
    return value


def whole(value: Any, param: str, low: int, high: int) -> int:
    """An integer from `low` to `high`; a bool is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise invalid(param, f"an integer from {low} to {high}")
    return value


def number(value: Any, param: str, low: float, high: float) -> float:
    """A number from `low` to `high`, as a float; a bool is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise invalid(param, f"a number from {low:g} to {high:g}")
    return float(value)


def mapping(value: Any, param: str, allowed: Iterable[str]) -> Mapping[str, Any]:
    """A mapping whose keys are all among `allowed`."""
    names = sorted(allowed)
    if not isinstance(value, Mapping):
        raise invalid(param or "spec", "a mapping with fields " + ", ".join(names))
    for key in value:
        if key not in names:
            path = f"{param}.{str(key)[:100]}" if param else str(key)[:100]
            raise InvalidRequest(
                f"Unknown field `{path}`; known are " + ", ".join(names) + ".", param=path
            )
    return value


def truth(value: Any, param: str) -> bool:
    """True or False, nothing that merely counts as one."""
    if not isinstance(value, bool):
        raise invalid(param, "true or false")
    return value


def sequence(value: Any, param: str, least: int, most: int) -> list[Any]:
    """A list or tuple of `least` to `most` items, as a list."""
    if not isinstance(value, list | tuple) or not least <= len(value) <= most:
        raise invalid(param, f"a list of {least} to {most} items")
    return [*value]


def plain(value: Any, param: str, limit: int = 10_000) -> Any:
    """A copy of plain data (as JSON has it) with at most `limit` values, tuples made lists."""
    left = limit

    def copy(part: Any, path: str, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > _MAX_DEPTH:
            raise invalid(param, f"at most {limit} values, nested at most {_MAX_DEPTH} deep")
        if part is None or isinstance(part, bool):
            return part
        if isinstance(part, int):
            return whole(part, path, -(2**63), 2**63 - 1)
        if isinstance(part, float):
            if math.isfinite(part):
                return part
        elif isinstance(part, str):
            return text(part, path, 100_000)
        elif isinstance(part, list | tuple):
            return [copy(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(part)]
        elif isinstance(part, dict):
            return {
                text(key, f"{path} (a key)", 1000): copy(item, f"{path}.{key}", depth + 1)
                for key, item in part.items()
            }
        raise invalid(path, "plain data (text, finite numbers, booleans, lists, mappings)")

    return copy(value, param, 0)
