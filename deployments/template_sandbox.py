"""The template language of prompts: a part of jinja2 in which every render ends, and soon.

jinja2's own sandbox keeps a template away from Python's insides, but lets it loop or
double a string until the replica dies. Here a template may use only what can be bounded
(checked when it is compiled), and each render carries a meter that every loop step,
filter, call and joined string is charged to.
"""

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.visitor import NodeTransformer

from deployments.template_meter import (
    COUNTED,
    JOINED,
    MAX_RENDERED_CHARS,
    METER,
    STEP,
    Meter,
    TemplateError,
    environment,
)

__all__ = ["Source", "TemplateError"]

# Compiling takes about 0.1 ms per part, on the first request that needs the template.
MAX_NODES = 5000
_ENV = environment()
_NODES = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.If,
    nodes.For,
    nodes.Assign,
    nodes.Name,
    nodes.Const,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Neg,
    nodes.Pos,
    nodes.Add,
    nodes.Sub,
    nodes.Mul,
    nodes.Div,
    nodes.FloorDiv,
    nodes.Mod,
    nodes.Concat,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Slice,
    nodes.Call,
    nodes.Filter,
    nodes.Test,
    nodes.Keyword,
    nodes.List,
    nodes.Tuple,
)
_METHODS = frozenset(
    (
        "items",
        "keys",
        "values",
        "get",
        "upper",
        "lower",
        "title",
        "capitalize",
        "strip",
        "lstrip",
        "rstrip",
        "split",
        "startswith",
        "endswith",
        "cycle",
    )
)


class _Metered(NodeTransformer):
    """Puts the meter into loops, filters, calls and `~`.

    It also keeps them from being folded into constants while compiling, where no meter runs.
    """

    def visit_For(self, node: nodes.For) -> nodes.For:
        """Count the steps."""
        self.generic_visit(node)
        node.iter = _filter(node.iter, COUNTED)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:
        """Charge for what goes in."""
        self.generic_visit(node)
        assert node.node is not None
        node.node = _filter(node.node, STEP)
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Filter:
        """Charge for what comes out."""
        self.generic_visit(node)
        return _filter(node, STEP)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        """Join by a filter that charges."""
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), JOINED)


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _check(node: nodes.Node) -> None:
    what = None
    if not isinstance(node, _NODES):
        what = f"`{type(node).__name__.lower()}`"
    elif isinstance(node, nodes.For) and node.recursive:
        what = "a recursive `for`"
    elif isinstance(node, nodes.Filter) and (node.node is None or node.name not in _ENV.filters):
        what = f"the filter `{node.name}`"
    elif isinstance(node, nodes.Test) and node.name not in _ENV.tests:
        what = f"the test `{node.name}`"
    elif isinstance(node, nodes.List | nodes.Tuple) and getattr(node, "ctx", "load") == "load":
        if not all(isinstance(item, nodes.Const) for item in node.items):
            what = "a list of anything but constants"
    elif isinstance(node, nodes.Call) and not _callable(node):
        what = "calling this"
    if what is not None:
        raise TemplateError(f"Line {node.lineno}: {what} is not allowed in a template.")


def _callable(node: nodes.Call) -> bool:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        return False
    if isinstance(node.node, nodes.Name):
        return node.node.name == "range"
    return isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS


class Source:
    """A compiled template. names: the inputs that it uses.

    Raises TemplateError, with the line, when the text is not of this language.
    """

    def __init__(self, text: str) -> None:
        try:
            tree = _ENV.parse(text)
            for number, node in enumerate(tree.find_all(nodes.Node)):
                _check(node)
                if number > MAX_NODES:
                    raise TemplateError(f"The template has over {MAX_NODES} parts.")
            self.names = frozenset(meta.find_undeclared_variables(tree)) - {"range"}
            tree = _Metered().visit(tree)
            tree.set_environment(_ENV)
            self._compiled = _ENV.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"Line {error.lineno}: {error.message}") from error
        except (RecursionError, SyntaxError, MemoryError) as error:
            raise TemplateError("The template is nested too deeply.") from error

    def render(self, inputs: Mapping[str, Any]) -> str:
        """The text for these inputs (plain data). Raises TemplateError."""
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._compiled.generate({**inputs, METER: Meter()}):
                size += len(piece)
                if size > MAX_RENDERED_CHARS:
                    raise TemplateError(
                        f"The text would have over {MAX_RENDERED_CHARS} characters."
                    )
                pieces.append(piece)
        except jinja2.UndefinedError as error:
            message = (error.message or "")[:200]
            quoted = message.split("'")
            missing = quoted[1] if message.endswith("is undefined") and len(quoted) > 1 else None
            raise TemplateError(f"The template needs more: {message}.", missing) from error
        except TemplateError:
            raise
        except Exception as error:
            # Whatever a template stumbles over (a type, a division by zero, jinja2's own
            # guards) is between it and its inputs, never a fault of the gateway.
            reason = str(error)[:200]
            raise TemplateError(f"The template failed with these inputs: {reason}") from error
        return "".join(pieces)
