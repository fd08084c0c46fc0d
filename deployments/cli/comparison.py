"""What is different between two configurations, field by field."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Change(NamedTuple):
    """One field. before, after: None where it is not there."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.path}: {shown(self.after)}"
        if self.after is None:
            return f"- {self.path}: {shown(self.before)}"
        return f"~ {self.path}: {shown(self.before)} → {shown(self.after)}"


def changes(before: Any, after: Any) -> list[Change]:
    """Every field that differs, in the order of their paths."""
    old, new = flat(before), flat(after)
    return [
        Change(path, old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def flat(part: Any, path: str = "") -> dict[str, Any]:
    """Path → value of every field; items of a list go by their names where they have some."""
    if isinstance(part, Mapping):
        inner = {str(key): value for key, value in part.items()}
    elif isinstance(part, list | tuple) and any(isinstance(each, Mapping) for each in part):
        inner = {
            str(each.get("name", number)) if isinstance(each, Mapping) else str(number): each
            for number, each in enumerate(part)
        }
    else:
        return {} if part is None else {path: part}
    found: dict[str, Any] = {}
    for key, value in inner.items():
        found |= flat(value, f"{path}.{key}" if path else key)
    return found


def shown(value: Any) -> str:
    """A value as YAML would have it, on one line."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(each) for each in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
