"""Reductions that depend on a maximum which is still growing, and what repairs them when it grows.

Softmax and log-sum-exp sum terms ``exp(x - m)`` times something, ``m`` being the maximum of ``x``. A running maximum
changes from tile to tile of the reduced axis, but only through that one factor, so that a partial sum made with
another one is repaired by a multiplication: ``sum(exp(x - new) * v) = exp(old - new) * sum(exp(x - old) * v)``. Factors
that are constant along the axis (the division by the sum in a softmax) commute with the sum and are applied to its
result.

Which expressions have that form is read off their structure here; `passes.stream` uses it. The online computation goes
back to Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .affine import AffineExpr
from .loop import Apply, Const, Expr, Index, IndexValue, Read, map_indices


class NotRescalable(ValueError):
    """An expression depends on what is reduced in a way that no multiplication repairs."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """A value that holds the factor ``exp(-shift)`` exactly once.

    Args:
        row: the element of the maximum that it depends on.
        after: factors that are constant along the axis and were left out: ``mul`` or ``div`` with an expression.
    """

    row: Index
    after: tuple[tuple[str, Expr], ...] = ()

    def at(self, env: Mapping[str, AffineExpr]) -> Scaled:
        """The same with iterators replaced."""
        moved = tuple((op, map_indices(e, lambda i: i.substitute(env))) for op, e in self.after)
        return Scaled(tuple(i.substitute(env) for i in self.row), moved)

    def same(self, other: Scaled) -> bool:
        """Whether both depend on the same element and leave the same factors out."""
        if self.row != other.row or len(self.after) != len(other.after):
            return False
        pairs = zip(self.after, other.after, strict=True)
        return all(a[0] == b[0] and same_expr(a[1], b[1]) for a, b in pairs)


@dataclass(frozen=True, slots=True)
class Roles:
    """What a Block's value is made of, as seen from the streamed axis.

    Args:
        free: whether an expression depends on nothing that is reduced along the axis.
        constant: whether it is the same everywhere along the axis.
        shifted: for ``x - c``, the difference with the running maximum in place of ``c`` and the element of the
            maximum, if ``c`` is that maximum and ``x`` what it is the maximum of; else None.
        scaled: what a read of a buffer that depends on the maximum holds; None if it is none.
    """

    free: Callable[[Expr], bool]
    constant: Callable[[Expr], bool]
    shifted: Callable[[Expr, Expr], tuple[Expr, Index] | None]
    scaled: Callable[[Read], Scaled | None]


def rescalable(expr: Expr, roles: Roles) -> tuple[Expr, Scaled | None]:
    """An expression without the factors that can wait, and how it depends on the maximum; None: not at all.

    Raises:
        NotRescalable: it depends on what is reduced in another way.
    """
    if roles.free(expr):
        return expr, None
    if isinstance(expr, Read):
        scaled = roles.scaled(expr)
        if scaled is not None:
            return expr, scaled
    if isinstance(expr, Apply):
        rule = _RULES.get(expr.op)
        if rule is not None:
            return rule(expr, roles)
    raise NotRescalable(f"expected sums of exp(x - max(x)) times something, found {_name(expr)} of what is reduced")


def same_expr(a: Expr, b: Expr) -> bool:
    """Whether two expressions are built alike."""
    match a, b:
        case Const(), Const():
            return a.dtype == b.dtype and (a.value == b.value or (a.value != a.value and b.value != b.value))
        case Read(), Read():
            return (a.buffer, a.index, a.guard) == (b.buffer, b.index, b.guard) and a.otherwise == b.otherwise
        case IndexValue(), IndexValue():
            return a.expr == b.expr and a.dtype == b.dtype
        case Apply(), Apply():
            alike = (a.op, a.dtype, a.params, len(a.args)) == (b.op, b.dtype, b.params, len(b.args))
            return alike and all(same_expr(x, y) for x, y in zip(a.args, b.args, strict=True))
        case _:
            return False


def _name(expr: Expr) -> str:
    return expr.op if isinstance(expr, Apply) else f"a read of {expr.buffer}" if isinstance(expr, Read) else "an index"


def _exp(expr: Apply, roles: Roles) -> tuple[Expr, Scaled | None]:
    inner = expr.args[0]
    found = roles.shifted(*inner.args) if isinstance(inner, Apply) and inner.op == "sub" else None
    if found is None:
        raise NotRescalable("expected the exponential of x - max(x), found it of something else that is reduced")
    return replace(expr, args=(found[0],)), Scaled(found[1])


def _neg(expr: Apply, roles: Roles) -> tuple[Expr, Scaled | None]:
    value, scaled = rescalable(expr.args[0], roles)
    return replace(expr, args=(value,)), scaled


def _mul(expr: Apply, roles: Roles) -> tuple[Expr, Scaled | None]:
    first, second = expr.args
    for factor, other, place in ((second, first, 0), (first, second, 1)):
        if roles.free(factor):
            value, scaled = rescalable(other, roles)
            return replace(expr, args=(value, factor) if place == 0 else (factor, value)), scaled
        if roles.constant(factor):
            return _later("mul", factor, other, roles)
    raise NotRescalable("expected at most one factor that depends on what is reduced, found two")


def _div(expr: Apply, roles: Roles) -> tuple[Expr, Scaled | None]:
    above, below = expr.args
    if roles.free(below):
        value, scaled = rescalable(above, roles)
        return replace(expr, args=(value, below)), scaled
    if roles.constant(below):
        return _later("div", below, above, roles)
    raise NotRescalable("expected a divisor that is constant along the axis, found one that depends on it")


def _later(op: str, factor: Expr, other: Expr, roles: Roles) -> tuple[Expr, Scaled | None]:
    value, scaled = rescalable(other, roles)
    if scaled is None:
        raise NotRescalable("expected what is reduced as a factor of exp(x - max(x)), found it without")
    return value, replace(scaled, after=(*scaled.after, (op, factor)))


def _select(expr: Apply, roles: Roles) -> tuple[Expr, Scaled | None]:
    condition, *cases = expr.args
    if not roles.free(condition):
        raise NotRescalable("expected a condition that does not depend on what is reduced")
    return _alike(expr, (condition,), cases, roles)


def _sum(expr: Apply, roles: Roles) -> tuple[Expr, Scaled | None]:
    return _alike(expr, (), list(expr.args), roles)


def _alike(expr: Apply, before: tuple[Expr, ...], parts: list[Expr], roles: Roles) -> tuple[Expr, Scaled | None]:
    """Parts that are all scaled alike; not even zero may stand beside them, which times infinity is not zero."""
    scaled: Scaled | None = None
    values: list[Expr] = []
    for part in parts:
        value, found = rescalable(part, roles)
        if found is None or (scaled is not None and not found.same(scaled)):
            raise NotRescalable(f"expected parts of {expr.op} with the same factor, found different ones")
        scaled = found
        values.append(value)
    return replace(expr, args=(*before, *values)), scaled


_RULES: dict[str, Callable[[Apply, Roles], tuple[Expr, Scaled | None]]] = {
    "exp": _exp,
    "neg": _neg,
    "mul": _mul,
    "div": _div,
    "select_n": _select,
    "add": _sum,
    "sub": _sum,
}
