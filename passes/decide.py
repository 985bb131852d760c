"""What the ranges of loop variables decide inside scalar expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from ..ir.affine import AffineExpr, Range, constant
from ..ir.dtypes import BOOL
from ..ir.loop import Apply, Const, Expr, IndexValue, Read, Where, subexpressions

_HOLDS: Mapping[str, Callable[[AffineExpr, AffineExpr], AffineExpr]] = {
    "ge": lambda a, b: a - b,
    "gt": lambda a, b: a - b - 1,
    "le": lambda a, b: b - a,
    "lt": lambda a, b: b - a - 1,
}


def decided(expr: Expr, ranges: Mapping[str, Range]) -> Expr:
    """An expression, its arguments decided before, without what is the same for all values of the variables."""
    if isinstance(expr, Read):
        return _decided_read(expr, ranges)
    if isinstance(expr, Where):
        low, high = expr.condition.bounds(ranges)
        return expr.then if low >= 0 else expr.orelse if high < 0 else expr
    if not isinstance(expr, Apply):
        return expr
    condition = comparison(expr)
    if condition is not None:
        low, high = condition.bounds(ranges)
        return expr if low < 0 <= high else Const(low >= 0, expr.dtype)
    if expr.op in ("and", "or") and expr.dtype == BOOL:
        return _decided_logic(expr)
    if expr.op == "select_n" and len(expr.args) == 3 and isinstance(expr.args[0], Const):
        return expr.args[2 if expr.args[0].value else 1]
    return expr


def conditions(expr: Expr) -> Iterator[AffineExpr]:
    """What is told apart by place in an expression, each as an expression that is at least 0 where it holds."""
    for inner in subexpressions(expr):
        condition = inner.condition if isinstance(inner, Where) else comparison(inner)
        if condition is not None:
            yield condition


def by_place(expr: Expr) -> bool:
    """Whether a truth value depends on nothing but where an element lies."""
    if isinstance(expr, Apply) and expr.op in ("and", "or", "not") and expr.dtype == BOOL:
        return all(map(by_place, expr.args))
    return comparison(expr) is not None


def comparison(expr: Expr) -> AffineExpr | None:
    """A comparison of places as an expression that is at least 0 where it holds; None for everything else."""
    if not isinstance(expr, Apply) or expr.op not in _HOLDS:
        return None
    left, right = (_place(a) for a in expr.args)
    if left is None or right is None:
        return None
    return _HOLDS[expr.op](left, right)


def _place(expr: Expr) -> AffineExpr | None:
    if isinstance(expr, IndexValue) and expr.dtype == "int32":
        return expr.expr
    if isinstance(expr, Const) and expr.dtype == "int32":
        return constant(int(expr.value))
    return None


def _decided_logic(expr: Apply) -> Expr:
    absorbing = expr.op == "or"
    left, right = expr.args
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Const):
            return one if bool(one.value) is absorbing else other
    return expr


def _decided_read(expr: Read, ranges: Mapping[str, Range]) -> Expr:
    kept: list[AffineExpr] = []
    for condition in expr.guard:
        low, high = condition.bounds(ranges)
        if high < 0:
            return Const(expr.otherwise, expr.dtype)
        if low < 0:
            kept.append(condition)
    return replace(expr, guard=tuple(kept)) if len(kept) < len(expr.guard) else expr
