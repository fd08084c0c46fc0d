"""What pydantic found wrong, in lines that name the field, what was found and what is allowed."""

import difflib
import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: str, model: type[BaseModel]) -> list[str]:
    """One line per error: path, what is allowed, what was found.

    root: the path of the whole; model: what was validated, asked for the fields there are.
    """
    lines = []
    places = [found["loc"] for found in error.errors()]
    for found in error.errors(include_url=False):
        if any(len(place) > len(found["loc"]) == _shared(place, found["loc"]) for place in places):
            # Of a list, that it is too short without its wrong items; they have their own lines.
            continue
        path = ".".join(str(part) for part in (root, *found["loc"]) if str(part))
        if found["type"] == "extra_forbidden":
            lines.append(f"{path}: {_unknown(model, found['loc'])}")
            continue
        message = found["msg"].removeprefix("Value error, ")
        seen = found.get("input")
        shown = "" if isinstance(seen, dict | list) else f" (found {seen!r:.80})"
        lines.append(f"{path or 'the file'}: {message}{shown}")
    return lines


def unknown_field(name: str, model: type[BaseModel]) -> str:
    """That a model has no field of this name, which one may be meant, and which there are."""
    names = sorted(model.model_fields)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; do you mean {near[0]}?" if near else "."
    return f"there is no such field{hint} Allowed: {', '.join(names)}"


def _shared(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> int:
    """How many parts two paths have in common."""
    return next(
        (n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )


def _unknown(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    owner: Any = model
    for part in loc[:-1]:
        owner = _inside(owner, part)
    holder = _model(owner)
    return "there is no such field" if holder is None else unknown_field(str(loc[-1]), holder)


def _inside(annotation: Any, part: int | str) -> Any:
    """The annotation of what lies at `part` within something annotated so."""
    holder = _model(annotation)
    if holder is not None:
        known = holder.model_fields.get(str(part))
        return known.annotation if known is not None else None
    for option in _options(annotation):
        origin, arguments = get_origin(option), get_args(option)
        if origin is dict and len(arguments) == 2:
            return arguments[1]
        if origin in (list, tuple) and arguments:
            return arguments[0]
    return None


def _model(annotation: Any) -> type[BaseModel] | None:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _options(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for each in get_args(annotation) for option in _options(each)]
    return [annotation]
