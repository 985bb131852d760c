"""Lowering of operations that put arrays together and take them apart: concatenation, padding, gathering, updating.

Each becomes an expression of one element of its result, so that what computes the parts and what reads the whole fold
into one Block. Places that data decide are bound by `Let`, clamped as `jax.lax` clamps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..ir import dtypes
from ..ir.affine import AffineExpr, constant, var
from ..ir.graph import Op
from ..ir.loop import Apply, Const, Expr, Index, Let, Read, Where
from .lower_blocks import LoweringError

if TYPE_CHECKING:
    from .lower import Lowering

MAX_PARTS = 64
"""Most operands of a concatenation: each becomes code of its own."""


def _choose(low: Lowering, conditions: Sequence[AffineExpr], then: Expr, orelse: Expr) -> Expr:
    """``then`` where all conditions hold, else ``orelse``; what the box decides is left out."""
    for condition in reversed([c.simplify(low.ranges) for c in conditions]):
        lowest, highest = condition.bounds(low.ranges)
        if highest < 0:
            return orelse
        if lowest < 0:
            then = Where(condition, then, orelse)
    return then


def _concatenate(low: Lowering, op: Op, index: Index) -> Expr:
    if len(op.operands) > MAX_PARTS:
        raise LoweringError(f"expected at most {MAX_PARTS} parts of a concatenation, found {len(op.operands)}")
    axis = op.params["dimension"]
    ends = np.cumsum([low.graph.types[v].shape[axis] for v in op.operands]).tolist()
    starts = [0, *ends[:-1]]
    found: Expr | None = None
    for value, start, end in reversed(list(zip(op.operands, starts, ends, strict=True))):
        if start == end:
            continue
        part = low.element(value, (*index[:axis], index[axis] - start, *index[axis + 1 :]))
        found = part if found is None else _choose(low, [constant(end - 1) - index[axis]], part, found)
    if found is None:
        raise LoweringError("expected a concatenation that has elements")
    return found


def _pad(low: Lowering, op: Op, index: Index) -> Expr:
    shape = low.graph.types[op.operands[0]].shape
    conditions: list[AffineExpr] = []
    moved: list[AffineExpr] = []
    for i, (before, _, interior), extent in zip(index, op.params["padding_config"], shape, strict=True):
        at, step = i - before, interior + 1
        conditions += [at, constant(step * (extent - 1)) - at]
        conditions += [-at.mod(step)] if interior else []
        moved.append(at.floordiv(step).simplify(low.ranges) if interior else at)
    inner = low.element(op.operands[0], tuple(moved))
    border = low.element(op.operands[1], ())
    if low.reducing and isinstance(inner, Read) and isinstance(border, Const):
        return low.guarded(op.operands[0], tuple(moved), tuple(conditions), border.value)
    return _choose(low, conditions, inner, border)


# ---- places that data decide


def _bind(low: Lowering, name: str, start: Expr, extent: int) -> tuple[AffineExpr, Callable[[Expr], Expr]]:
    """A start between 0 and ``extent - 1``, and what puts the binding around an expression that uses it."""
    if extent == 1:
        return constant(0), lambda body: body
    if isinstance(start, Const):
        return constant(min(max(int(start.value), 0), extent - 1)), lambda body: body
    low.ranges[name] = (0, extent - 1)
    return var(name), lambda body: Let(name, start, extent, body)


def _bind_all(
    low: Lowering, op: Op, starts: Sequence[Expr | None], extents: Sequence[int]
) -> tuple[list[AffineExpr], Callable[[Expr], Expr]]:
    """A start per axis, None for one that is always 0; see `_bind`."""
    places: list[AffineExpr] = []
    wraps: list[Callable[[Expr], Expr]] = []
    for axis, (start, extent) in enumerate(zip(starts, extents, strict=True)):
        if start is None:
            places.append(constant(0))
            continue
        place, wrap = _bind(low, f"at{op.result}.{axis}" if axis else f"at{op.result}", start, extent)
        places.append(place)
        wraps.append(wrap)

    def all_around(body: Expr) -> Expr:
        for wrap in reversed(wraps):
            body = wrap(body)
        return body

    return places, all_around


def _dynamic_slice(low: Lowering, op: Op, index: Index) -> Expr:
    shape = low.graph.types[op.operands[0]].shape
    starts = [low.element(v, ()) for v in op.operands[1:]]
    extents = [n - size + 1 for n, size in zip(shape, op.params["slice_sizes"], strict=True)]
    places, bound = _bind_all(low, op, starts, extents)
    return bound(low.element(op.operands[0], tuple(p + i for p, i in zip(places, index, strict=True))))


def _dynamic_update_slice(low: Lowering, op: Op, index: Index) -> Expr:
    shape, window = (low.graph.types[v].shape for v in op.operands[:2])
    starts = [low.element(v, ()) for v in op.operands[2:]]
    places, bound = _bind_all(low, op, starts, [n - size + 1 for n, size in zip(shape, window, strict=True)])
    inside = [i - p for i, p in zip(index, places, strict=True)]
    conditions = [c for at, n in zip(inside, window, strict=True) for c in (at, constant(n - 1) - at)]
    update = low.element(op.operands[1], tuple(inside))
    return bound(_choose(low, conditions, update, low.element(op.operands[0], index)))


def _gather(low: Lowering, op: Op, index: Index) -> Expr:
    source = low.graph.types[op.operands[0]]
    offset_dims, collapsed, start_map, batching, picks_batching = op.params["dimension_numbers"]
    sizes = op.params["slice_sizes"]
    batch = [i for axis, i in enumerate(index) if axis not in offset_dims]
    offsets = iter([index[axis] for axis in offset_dims])
    starts: list[Expr | None] = [None] * source.rank
    for number, axis in enumerate(start_map):
        starts[axis] = low.element(op.operands[1], (*batch, constant(number)))
    extents = [n - size + 1 for n, size in zip(source.shape, sizes, strict=True)]
    places, bound = _bind_all(low, op, starts, extents)
    for axis in range(source.rank):
        if axis in batching:
            places[axis] = batch[picks_batching[batching.index(axis)]]
        elif axis not in collapsed:
            places[axis] += next(offsets)
    found = bound(low.element(op.operands[0], tuple(places)))
    match op.params["mode"]:
        case "CLIP" | "PROMISE_IN_BOUNDS":
            return found
        case "FILL_OR_DROP":
            filled = _fill_value(source.dtype, op.params["fill_value"])
            return _filled(found, [(s, n) for s, n in zip(starts, extents, strict=True) if s is not None], filled)
        case mode:
            raise LoweringError(f"expected a mode of gathering that has loops, found {mode}")


def _filled(found: Expr, starts: Sequence[tuple[Expr, int]], value: float | int | bool) -> Expr:
    """What was found where every start is in bounds, else a constant."""
    for start, extent in starts:
        tests: list[Expr] = []
        if extent <= np.iinfo(start.dtype).max:  # larger places than its type can hold are never asked for
            tests.append(Apply("le", (start, Const(extent - 1, start.dtype)), dtypes.BOOL))
        if start.dtype in dtypes.SIGNED:
            tests.append(Apply("ge", (start, Const(0, start.dtype)), dtypes.BOOL))
        for test in tests:
            found = Apply("select_n", (test, Const(value, found.dtype), found), found.dtype)
    return found


def _fill_value(dtype: str, value: float | int | bool | None) -> float | int | bool:
    """The value of elements out of bounds, by default JAX's."""
    if value is not None:
        return value
    if dtypes.is_float(dtype):
        return float("nan")
    if dtype == dtypes.BOOL:
        return True
    return int(np.iinfo(dtype).min if dtype in dtypes.SIGNED else np.iinfo(dtype).max)


MOVES: dict[str, Callable[[Lowering, Op, Index], Expr]] = {
    "concatenate": _concatenate,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
}
"""One element of what an operation puts together, at an index of its result."""

JOINS = (MOVES.keys() - {"pad"}) | {"iota"}
"""Operations that make elements of their own kind of expression, whatever the shapes of their operands."""


def is_place(op: Op, number: int) -> bool:
    """Whether an operand says where elements lie, instead of holding them."""
    first = {"gather": 1, "dynamic_slice": 1, "dynamic_update_slice": 2}.get(op.opcode)
    return first is not None and number >= first
