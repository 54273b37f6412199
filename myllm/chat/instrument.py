"""A template's syntax tree, rewritten so that the operations which Jinja compiles to bare Python ask the meter too.

Jinja has hooks for calls, attributes and binary operators, and none for loops, `~`, comparisons, slices and literals.
Those nodes are wrapped in filters whose names start with a tilde, which no template can spell; `filters.py` defines
them. Comparisons with a constant, which are nearly all of a real template's, cost at most the constant and stay bare.
"""

from __future__ import annotations

from typing import Any, TypeVar

from jinja2 import nodes
from jinja2.exceptions import TemplateAssertionError
from jinja2.visitor import NodeTransformer

ITERATE, CONCAT, WEIGH, TICK, CHARGE = "~iterate", "~concat", "~weigh", "~tick", "~charge"

# They load other templates, switch autoescaping on or name parts of a page: a chat template has no use for them.
_DENIED = (
    nodes.Block, nodes.EvalContextModifier, nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include,
    nodes.ScopedEvalContextModifier,
)  # fmt: skip
_COMPARING_TESTS = frozenset(
    {"==", "eq", "equalto", "!=", "ne", "<", "lt", "lessthan", "<=", "le", ">", "gt", "greaterthan", ">=", "ge", "in"}
)
_SMALL_LITERAL = 16
_Node = TypeVar("_Node", bound=nodes.Node)


def instrument(tree: nodes.Template) -> nodes.Template:
    """The same template, every loop, literal, slice, `~` and costly comparison of which asks the meter."""
    for node in tree.find_all(_DENIED):
        raise TemplateAssertionError(f"'{type(node).__name__.lower()}' is not available to chat templates", node.lineno)
    instrumented: nodes.Template = _Instrument().visit(tree)
    return instrumented


class _Instrument(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _wrapped(node.iter, ITERATE)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _wrapped(nodes.List(node.nodes, lineno=node.lineno, environment=node.environment), CONCAT)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _wrapped(node, CHARGE) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return node if len(node.items) <= _SMALL_LITERAL and _is_constant(node) else _wrapped(node, CHARGE)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _wrapped(node, CHARGE)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        """Tuples are weighed when they are made, not when they are walked: hashing one walks it out of our sight."""
        self.generic_visit(node)
        return node if node.ctx != "load" or _is_constant(node) else _wrapped(node, WEIGH)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if not _is_costly(node):
            return node
        filter_name = TICK if _is_constant(node.expr) and len(node.ops) == 1 else WEIGH
        node.expr = _wrapped(node.expr, filter_name)
        for operand in node.ops:
            operand.expr = _wrapped(operand.expr, filter_name)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        self.generic_visit(node)
        if node.name in _COMPARING_TESTS and not all(_is_constant(arg) for arg in node.args):
            node.node = _wrapped(node.node, WEIGH)
            node.args = [_wrapped(arg, WEIGH) for arg in node.args]
        return node


def _is_costly(node: nodes.Compare) -> bool:
    """Whether a comparison may walk more than what the source spells out."""
    left: nodes.Node = node.expr
    for operand in node.ops:
        is_search = operand.op in ("in", "notin")
        if not _is_constant(operand.expr) and (is_search or not _is_constant(left)):
            return True
        left = operand.expr
    return False


def _is_constant(node: nodes.Node) -> bool:
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)


def _wrapped(node: nodes.Node, filter_name: str) -> nodes.Filter:
    fields: tuple[Any, ...] = (node, filter_name, [], [], None, None)
    return nodes.Filter(*fields, lineno=node.lineno, environment=node.environment)
