"""Footprints: which part of a buffer the code inside a loop touches."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ..ir.affine import AffineExpr, Range, split_by, var
from ..ir.loop import Block, For, If, Index, Stmt, children, reads
from .schedule import ScheduleError


@dataclass(frozen=True, slots=True)
class Extent:
    """One axis of a footprint: ``lower <= index < min(lower + size, limit)``, in terms of outer loops."""

    lower: AffineExpr
    size: int
    limit: AffineExpr | None


@dataclass(frozen=True, slots=True)
class _Touch:
    """One axis of one access: ``base`` over outer loops plus a relative interval."""

    base: AffineExpr
    low: int
    high: int
    limit: AffineExpr | None


@dataclass(slots=True)
class _Scope:
    env: dict[str, AffineExpr]
    ranges: dict[str, Range]
    limits: dict[str, AffineExpr]


def footprint(
    stmt: Stmt, buffer: str, outer: frozenset[str], only: Collection[Index] | None = None
) -> tuple[Extent, ...]:
    """The box of ``buffer`` that Blocks in ``stmt`` touch.

    Args:
        stmt: the code.
        buffer: the buffer's name.
        outer: loop variables that stay symbolic; all others are ranged over.
        only: the indices of the accesses that count; None for all.

    Raises:
        ScheduleError: the code does not touch the buffer, or its accesses differ by more than a constant.
    """
    touches: list[tuple[_Touch, ...]] = []
    _collect(stmt, lambda block: _accesses(block, buffer, only), outer, _Scope({}, {}, {}), touches)
    if not touches:
        raise ScheduleError(f"expected an access to {buffer}, found none")
    return tuple(_merge(axis, buffer) for axis in zip(*touches, strict=True))


def _collect(
    stmt: Stmt,
    accesses: Callable[[Block], list[Index]],
    outer: frozenset[str],
    scope: _Scope,
    out: list[tuple[_Touch, ...]],
) -> None:
    match stmt:
        case Block():
            inner = _Scope(dict(scope.env), dict(scope.ranges), dict(scope.limits))
            for it in stmt.iters:
                rel = f"{it.name}'"
                inner.env[it.name] = it.lower.substitute(inner.env) + var(rel)
                inner.ranges[rel] = (0, max(it.extent - 1, 0))
                if it.limit is not None:
                    inner.limits[rel] = it.limit.substitute(inner.env) - it.lower.substitute(inner.env)
            for index in accesses(stmt):
                out.append(tuple(_touch(e, inner, outer) for e in index))
            return
        case For() if stmt.name not in outer:
            scope = _Scope(dict(scope.env), dict(scope.ranges), dict(scope.limits))
            _enter(stmt, scope)
        case If() | For():
            pass
        case _:
            pass
    for child in children(stmt):
        _collect(child, accesses, outer, scope, out)


def _enter(loop: For, scope: _Scope) -> None:
    if len(loop.lower) != 1 or len(loop.upper) != 1:
        raise ScheduleError(f"expected single bounds for the loop {loop.name}")
    lower = loop.lower[0].substitute(scope.env)
    trips = loop.upper[0].substitute(scope.env) - lower
    if not trips.is_constant:
        raise ScheduleError(f"expected a constant trip count for the loop {loop.name}")
    rel = f"{loop.name}'"
    scope.env[loop.name] = lower + var(rel)
    scope.ranges[rel] = (0, max(trips.const - 1, 0))


def _accesses(block: Block, buffer: str, only: Collection[Index] | None) -> list[Index]:
    found = [r.index for r in reads(block.value) if r.buffer == buffer]
    if block.write.buffer == buffer:
        found.append(block.write.index)
    return [index for index in found if only is None or index in only]


def _touch(expr: AffineExpr, scope: _Scope, outer: frozenset[str]) -> _Touch:
    resolved = expr.substitute(scope.env).simplify(scope.ranges)
    base, inner = split_by(resolved, lambda n: n in outer)
    if inner.variables() - scope.ranges.keys():
        raise ScheduleError(f"expected an index that separates into outer and inner loops, found {resolved}")
    low, high = inner.bounds(scope.ranges)
    return _Touch(base, low, high, _limit(base, inner, scope, outer))


def _limit(base: AffineExpr, inner: AffineExpr, scope: _Scope, outer: frozenset[str]) -> AffineExpr | None:
    """Exclusive upper bound that follows from the limit of an iterator in the access, if there is exactly one."""
    limited = [n for n in inner.variables() if n in scope.limits]
    if not limited:
        return None
    if len(limited) > 1:
        raise ScheduleError(f"expected at most one cut tile per index, found {sorted(limited)}")
    name = limited[0]
    k = inner.coefficient(name)
    if k < 0:
        return None
    rest = inner - var(name) * k
    cut = base + (scope.limits[name] - 1) * k
    cut_outer, cut_inner = split_by(cut, lambda n: n in outer)
    return cut_outer + ((rest + cut_inner).bounds(scope.ranges)[1] + 1)


def _merge(touches: tuple[_Touch, ...], buffer: str) -> Extent:
    base = touches[0].base
    low, high = touches[0].low, touches[0].high
    for t in touches[1:]:
        shift = t.base - base
        if not shift.is_constant:
            raise ScheduleError(f"expected accesses to {buffer} that differ by a constant, found {base} and {t.base}")
        low, high = min(low, t.low + shift.const), max(high, t.high + shift.const)
    return Extent(base + low, high - low + 1, _merge_limits(touches))


def _merge_limits(touches: tuple[_Touch, ...]) -> AffineExpr | None:
    limits = [t.limit for t in touches]
    best = limits[0]
    for limit in limits[1:]:
        if best is None or limit is None:
            return None
        gap = limit - best
        if not gap.is_constant:
            return None
        best = best + max(gap.const, 0)
    return best


def within(extent: Extent, size: int, ranges: dict[str, Range]) -> tuple[bool, bool]:
    """Whether an axis of a footprint provably stays at or above 0, and below ``size``."""
    low = extent.lower.bounds(ranges)[0]
    high = (extent.lower + extent.size).bounds(ranges)[1]
    if extent.limit is not None:
        high = min(high, extent.limit.bounds(ranges)[1])
    return low >= 0, high <= size
