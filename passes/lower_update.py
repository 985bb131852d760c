"""Lowering of choices by place: where an element lies decides from which operand it comes.

The choice is a `select_n` on comparisons of index values, and what is read for the side that is not taken is guarded,
so that every access stays inside its buffer. Where a schedule cuts loops so that the comparisons are decided
(`partition`), legalisation leaves nothing of them (`decide.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir.affine import AffineExpr, Range, constant
from ..ir.dtypes import BOOL
from ..ir.loop import Apply, Const, Expr, IndexValue, Read, map_expr


def window(
    index: Sequence[AffineExpr], starts: Sequence[int], sizes: Sequence[int], ranges: Mapping[str, Range]
) -> tuple[AffineExpr, ...]:
    """Conditions, each an expression that has to be at least 0, for an index to lie in a window.

    Args:
        index: of an element.
        starts: where the window begins, by axis.
        sizes: of the window, by axis.
        ranges: of the variables; conditions that always hold are left out.
    """
    low = [i - start for i, start in zip(index, starts, strict=True)]
    high = [constant(start + size - 1) - i for i, start, size in zip(index, starts, sizes, strict=True)]
    return tuple(e for pair in zip(low, high, strict=True) for e in pair if e.bounds(ranges)[0] < 0)


def choose(conditions: Sequence[AffineExpr], inside: Expr, outside: Expr) -> Expr:
    """`inside` where all conditions hold, else `outside`; what `inside` reads is guarded by them."""
    if not conditions:
        return inside
    tests: list[Expr] = [Apply("ge", (IndexValue(e, "int32"), Const(0, "int32")), "bool") for e in conditions]
    test = tests[0]
    for other in tests[1:]:
        test = Apply("and", (test, other), "bool")
    guarded = map_expr(inside, lambda e: _guard(e, tuple(conditions)))
    return Apply("select_n", (test, outside, guarded), inside.dtype)


def _guard(expr: Expr, conditions: tuple[AffineExpr, ...]) -> Expr:
    if not isinstance(expr, Read):
        return expr
    missing = tuple(c for c in conditions if c not in expr.guard)
    otherwise = expr.otherwise if expr.guard else False if expr.dtype == BOOL else 0
    return replace(expr, guard=(*expr.guard, *missing), otherwise=otherwise)
