"""Lowering of operations that reduce: contractions, convolutions, pooling and reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..ir import dtypes
from ..ir.affine import AffineExpr, constant
from ..ir.graph import Op
from ..ir.loop import Apply, Buffer, Const, Expr, IndexValue, Iter, Read
from ..ir.monoid import MONOIDS
from .convolution import LoweringError, windows_of

if TYPE_CHECKING:
    from .lower import Lowering

REDUCTIONS = {
    "reduce_sum": "sum",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_prod": "prod",
    "reduce_and": "and",
    "reduce_or": "or",
}
EXTREME_PLACES = {"argmax": "max", "argmin": "min"}
"""Reductions to the place of an extreme value, with the monoid of the value."""
AXIS_REDUCTIONS = frozenset((*REDUCTIONS, *EXTREME_PLACES))
"""Operations that reduce over the axes in ``axes``."""
CONTRACTIONS = frozenset(("dot_general", "conv_general_dilated"))
CONTRACTED = "float32"
"""Element type of contractions that have loops."""
WINDOWS = {"reduce_window_sum": "sum", "reduce_window_max": "max", "reduce_window_min": "min"}


Index = tuple[AffineExpr, ...]


def _reduce(low: Lowering, op: Op, buffer: Buffer) -> None:
    iters, index, place = _reduced_box(low, op, buffer)
    low.reduction(op, buffer, REDUCTIONS[op.opcode], index, iters, low.element(op.operands[0], place))


def _reduced_box(low: Lowering, op: Op, buffer: Buffer) -> tuple[tuple[Iter, ...], Index, Index]:
    """The box of a reduction over axes, where it writes and where it reads."""
    source = low.graph.types[op.operands[0]]
    axes = sorted(op.params["axes"])  # JAX keeps the order in which they were asked for
    iters, index = low.box(buffer.shape)
    reduced, over = low.reduced(tuple(source.shape[a] for a in axes))
    kept, gone = iter(index), iter(over)
    place = tuple(next(gone) if axis in axes else next(kept) for axis in range(source.rank))
    return (*iters, *reduced), index, place


def _extreme_place(low: Lowering, op: Op, buffer: Buffer) -> None:
    """The extreme value, then the lowest place that holds it: ties go to the first place, NaN wins over any number.

    Two passes over a row that lies in the cache run at the speed of memory, and both are plain monoids, so that
    whatever schedules a reduction schedules these.
    """
    dtype = low.graph.types[op.operands[0]].dtype
    if buffer.dtype != "int32":
        raise LoweringError(f"expected places as int32, found {buffer.dtype}")
    extreme = EXTREME_PLACES[op.opcode]
    if dtype == dtypes.BOOL:
        extreme = {"max": "or", "min": "and"}[extreme]
    value = low.temporary(buffer.shape, dtype)
    iters, index, place = _reduced_box(low, op, buffer)
    low.reduction(op, value, extreme, index, iters, low.element(op.operands[0], place))
    iters, index, place = _reduced_box(low, op, buffer)
    element = low.element(op.operands[0], place)
    holds: Expr = Apply("eq", (element, Read(value.name, index, dtype)), dtypes.BOOL)
    if dtypes.is_float(dtype):
        holds = Apply("or", (holds, Apply("ne", (element, element), dtypes.BOOL)), dtypes.BOOL)
    nowhere = Const(int(np.iinfo(buffer.dtype).max), buffer.dtype)
    here = IndexValue(place[op.params["axes"][0]], buffer.dtype)
    low.reduction(op, buffer, "min", index, iters, Apply("select_n", (holds, nowhere, here), buffer.dtype))


def _window(low: Lowering, op: Op, buffer: Buffer) -> None:
    source = low.graph.types[op.operands[0]]
    if any(d != 1 for d in op.params["base_dilation"]):
        raise LoweringError("expected pooling without base dilation")
    monoid = WINDOWS[op.opcode]
    sizes = op.params["window_dimensions"]
    iters, index = low.box(buffer.shape)
    reduced, over = low.reduced(tuple(n for n in sizes if n != 1))
    rest = iter(over)
    offsets = [next(rest) if n != 1 else constant(0) for n in sizes]
    place, guard = [], []
    settings = zip(
        index,
        offsets,
        op.params["window_strides"],
        op.params["window_dilation"],
        op.params["padding"],
        source.shape,
        strict=True,
    )
    for i, offset, stride, dilation, (pad, _), extent in settings:
        at = i * stride + offset * dilation - pad
        place.append(at)
        guard += [at, constant(extent - 1) - at]
    identity = MONOIDS[monoid].identity(buffer.dtype)
    value = low.guarded(op.operands[0], tuple(place), tuple(guard), identity)
    low.reduction(op, buffer, monoid, index, (*iters, *reduced), value)


def _product(low: Lowering, op: Op, buffer: Buffer, left: Expr, right: Expr) -> Expr:
    if any(dtype != CONTRACTED for dtype in (buffer.dtype, left.dtype, right.dtype)):
        raise LoweringError(f"expected a {CONTRACTED} contraction of {CONTRACTED} operands")
    return Apply("mul", (left, right), buffer.dtype)


def _summed_in_order(
    contracted: tuple[tuple[int, ...], tuple[int, ...]], left_rank: int, right_rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Contracted axes as they lie in the operand that is read element by element: the one without the vectors."""
    left, right = contracted
    vectors_left = right_rank - 1 in right and left_rank - 1 not in left
    pairs = sorted(zip(left, right, strict=True), key=lambda pair: pair[1] if vectors_left else pair[0])
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


def _dot_general(low: Lowering, op: Op, buffer: Buffer) -> None:
    contracted, (lhs_batch, rhs_batch) = op.params["dimension_numbers"]
    left, right = (low.graph.types[v] for v in op.operands)
    lhs_contract, rhs_contract = _summed_in_order(contracted, left.rank, right.rank)
    iters, index = low.box(buffer.shape)
    reduced, over = low.reduced(tuple(left.shape[a] for a in lhs_contract))
    batch = dict(zip(lhs_batch, index, strict=False))
    batch_right = dict(zip(rhs_batch, index, strict=False))
    lhs_free = [a for a in range(left.rank) if a not in lhs_contract and a not in lhs_batch]
    rhs_free = [a for a in range(right.rank) if a not in rhs_contract and a not in rhs_batch]
    free = index[len(lhs_batch) :]
    at_left = {**batch, **dict(zip(lhs_contract, over, strict=True)), **dict(zip(lhs_free, free, strict=False))}
    at_right = {
        **batch_right,
        **dict(zip(rhs_contract, over, strict=True)),
        **dict(zip(rhs_free, free[len(lhs_free) :], strict=True)),
    }
    a = low.element(op.operands[0], tuple(at_left[i] for i in range(left.rank)))
    b = low.element(op.operands[1], tuple(at_right[i] for i in range(right.rank)))
    low.reduction(op, buffer, "sum", index, (*iters, *reduced), _product(low, op, buffer, a, b))


def _convolution(low: Lowering, op: Op, buffer: Buffer) -> None:
    p = op.params
    lhs_spec, rhs_spec, out_spec = p["dimension_numbers"]
    left, right = (low.graph.types[v] for v in op.operands)
    windows = windows_of(op, left.shape, right.shape)
    iters, index = low.box(buffer.shape)
    channels = right.shape[rhs_spec[1]]
    reduced, over = low.reduced((*(w.taps for w in windows), channels))
    feature = index[out_spec[1]]
    per_group = right.shape[rhs_spec[0]] // p["feature_group_count"]
    channel = feature.floordiv(per_group) * channels + over[-1]
    batch_groups = p["batch_group_count"]
    images = left.shape[lhs_spec[0]] // batch_groups
    image = feature.floordiv(right.shape[rhs_spec[0]] // batch_groups) * images + index[out_spec[0]]
    at_left = {lhs_spec[0]: image.simplify(low.ranges), lhs_spec[1]: channel.simplify(low.ranges)}
    at_right = {rhs_spec[0]: feature, rhs_spec[1]: over[-1]}
    padding, skipped = [], []
    for n, window in enumerate(windows):
        at, tap = window.place(index[out_spec[2 + n]], over[n])
        at_left[lhs_spec[2 + n]] = at
        at_right[rhs_spec[2 + n]] = tap
        padding += [at, constant(window.extent - 1) - at]
        skipped.append(constant(window.kernel - 1) - tap)
    a = low.guarded(op.operands[0], tuple(at_left[i] for i in range(left.rank)), tuple(padding), 0.0)
    b = low.element(op.operands[1], tuple(at_right[i] for i in range(right.rank)))
    guard = tuple(g for g in skipped if g.bounds(low.ranges)[0] < 0)
    low.reduction(op, buffer, "sum", index, (*iters, *reduced), _product(low, op, buffer, a, b), guard)


BlockRule = Callable[["Lowering", Op, Buffer], None]
"""Appends the Blocks that compute an operation into a buffer; raises `LoweringError` where it can't."""

BLOCK_RULES: dict[str, BlockRule] = {
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(EXTREME_PLACES, _extreme_place),
    **dict.fromkeys(WINDOWS, _window),
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}
