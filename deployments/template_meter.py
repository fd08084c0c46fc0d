"""What one render of a template may use up, and the filters and operators that count it."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import StrictUndefined
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import SandboxedEnvironment

MAX_RENDERED_CHARS = 1_000_000
MAX_STEPS = 100_000
MAX_WORK_CHARS = 20_000_000
MAX_CPU_NS = 250_000_000
_MAX_BITS = 256
_MAX_INDENT = 100
# Names that no template can spell, for the space in them.
METER, STEP, COUNTED, JOINED = " meter", " step", " counted", " joined"
_FILTERS = frozenset(
    (
        "abs",
        "capitalize",
        "count",
        "d",
        "default",
        "dictsort",
        "first",
        "float",
        "int",
        "items",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "reverse",
        "select",
        "selectattr",
        "sort",
        "title",
        "trim",
        "truncate",
        "unique",
        "upper",
        "wordcount",
    )
)


class TemplateError(Exception):
    """A template is not one of this language, or could not be rendered with its inputs.

    missing: the name that the template needed and did not find, if that was it.
    """

    def __init__(self, message: str, missing: str | None = None) -> None:
        super().__init__(message)
        self.missing = missing


class Meter:
    """What one render has used up. Every method raises TemplateError past a bound."""

    def __init__(self) -> None:
        self._steps = self._work = 0
        self._deadline = time.thread_time_ns() + MAX_CPU_NS

    def step(self) -> None:
        """Charge one loop step, filter, call or operator."""
        self._steps += 1
        # The thread's own time: a busy machine makes no template fail.
        if self._steps > MAX_STEPS or time.thread_time_ns() > self._deadline:
            raise TemplateError("The template does too much work with these inputs.")

    def chars(self, count: int) -> None:
        """Charge a text of `count` characters, made or read."""
        self._work += count
        if count > MAX_RENDERED_CHARS or self._work > MAX_WORK_CHARS:
            raise TemplateError("The template makes too much text of these inputs.")


class Environment(SandboxedEnvironment):
    """The sandbox with the meter in its operators, filters and tests."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic on numbers of bounded size; `+` on two strings, too."""
        meter: Meter = context[METER]
        meter.step()
        if isinstance(left, str) and isinstance(right, str) and operator == "+":
            meter.chars(len(left) + len(right))
            return left + right
        for side in (left, right):
            if isinstance(side, Undefined):
                str(side)  # raises, naming what is missing
            if not isinstance(side, int | float):
                raise TemplateError(f"`{operator}` takes numbers (and `+` two strings; use `~`).")
            if isinstance(side, int) and side.bit_length() > _MAX_BITS:
                raise TemplateError("A number is too large.")
        return super().call_binop(context, operator, left, right)

    # `map`, `select` and their like reach filters and tests through these two.
    def call_filter(
        self,
        name: str,
        value: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        context: Context | None = None,
        eval_ctx: EvalContext | None = None,
    ) -> Any:
        """Charge for the value, then filter it."""
        _charge(context, value)
        return super().call_filter(name, value, args, kwargs, context, eval_ctx)

    def call_test(
        self,
        name: str,
        value: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        context: Context | None = None,
        eval_ctx: EvalContext | None = None,
    ) -> Any:
        """Charge for the value, then test it."""
        _charge(context, value)
        return super().call_test(name, value, args, kwargs, context, eval_ctx)


def _charge(context: Context | None, value: Any) -> Any:
    assert context is not None
    meter: Meter = context[METER]
    meter.step()
    if isinstance(value, str):
        meter.chars(len(value))
    return value


@jinja2.pass_context
def _stepped(context: Context, value: Any) -> Any:
    return _charge(context, value)


@jinja2.pass_context
def _counted(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    meter: Meter = context[METER]
    for value in values:
        meter.step()
        yield value


@jinja2.pass_context
def _text(context: Context, value: Any) -> str:
    """A printed value: text as it is, lists and mappings as JSON."""
    meter: Meter = context[METER]
    meter.step()
    if isinstance(value, str):
        text = value
    elif isinstance(value, list | tuple | dict):
        return _json(context, value)
    elif value is None or isinstance(value, bool | int | float | Undefined):
        text = str(value)
    else:
        raise TemplateError(f"A {type(value).__name__} cannot be printed; use a filter.")
    meter.chars(len(text))
    return text


@jinja2.pass_context
def _json(context: Context, value: Any, indent: int | None = None) -> str:
    """Filter tojson: JSON as a model reads it best, without HTML's escapes."""
    meter: Meter = context[METER]
    if indent is not None:
        _within("tojson", indent, 8)
    if isinstance(value, Undefined):
        str(value)  # raises, naming what is missing
    meter.step()
    pieces = []
    for piece in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
        meter.chars(len(piece))
        pieces.append(piece)
    return "".join(pieces)


@jinja2.pass_context
def _joined(context: Context, values: Any, separator: str = "", attribute: Any = None) -> str:
    """Filter join, and the operator `~`."""
    if isinstance(values, Undefined):
        str(values)  # raises, naming what is missing
    if attribute is not None:
        values = context.environment.call_filter(
            "map", values, kwargs={"attribute": attribute}, context=context
        )
    pieces: list[str] = []
    for value in values:
        if pieces and separator:
            pieces.append(_text(context, separator))
        pieces.append(_text(context, value))
    _charge(context, "")
    context[METER].chars(sum(map(len, pieces)))
    return "".join(pieces)


@jinja2.pass_context
def _replaced(context: Context, value: Any, old: str, new: str) -> str:
    """Filter replace, of all occurrences."""
    text = _text(context, value)
    context[METER].chars(max(0, len(text) + text.count(old) * (len(new) - len(old))))
    return text.replace(old, new)


@jinja2.pass_context
def _indented(context: Context, value: Any, width: int = 4, first: bool = False) -> str:
    """Filter indent, by up to 100 spaces."""
    _within("indent", width, _MAX_INDENT)
    text = _text(context, value)
    text = _replaced(context, text, "\n", "\n" + " " * width)
    return " " * width + text if first else text


def _within(name: str, value: Any, most: int) -> None:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise TemplateError(f"`{name}` takes a whole number from 0 to {most}.")


def _rounded(value: float, precision: int = 0) -> float:
    """Filter round, to at most 15 places."""
    _within("round", precision, 15)
    return round(value, precision)


def environment() -> Environment:
    """The environment that all templates share."""
    made = Environment(
        undefined=StrictUndefined,
        finalize=_text,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    own: dict[str, Callable[..., Any]] = {
        STEP: _stepped,
        COUNTED: _counted,
        JOINED: _joined,
        "join": _joined,
        "tojson": _json,
        "string": _text,
        "replace": _replaced,
        "indent": _indented,
        "round": _rounded,
    }
    made.filters = {name: made.filters[name] for name in _FILTERS} | own
    made.globals = {"range": made.globals["range"]}
    return made
