"""How operations are computed on values whose axes are stored in another order.

An *order* names the axes of a value as the program has them in the order in which they are stored: a value of shape
``[n, c, h, w]`` in order ``(0, 2, 3, 1)`` is stored as ``[n, h, w, c]``. A rule says which order an operation makes its
result in, and which orders it reads its operands in. Some operations tie these to each other (elementwise ones,
pooling), some follow their operand (reductions), some take any (convolutions, transpositions).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.graph import Op, Param, TensorType
from ..ir.infer import CUMULATIVE, ELEMENTWISE, REDUCE
from .lower import IDENTITIES
from .lower_blocks import WINDOWS

Order = tuple[int, ...]

_PER_AXIS = ("window_dimensions", "window_strides", "base_dilation", "window_dilation", "padding", "padding_config")
_PER_AXIS_OF_SLICES = ("start_indices", "limit_indices", "strides")


@dataclass(frozen=True, slots=True)
class Arrangement:
    """An operation in some layout.

    Args:
        params: its parameters there.
        operands: the order in which each operand is read.
        result: the order in which the result is made.
    """

    params: Mapping[str, Param]
    operands: tuple[Order, ...]
    result: Order


Rule = Callable[[Op, Sequence[TensorType], Sequence[Order], Order], Arrangement | None]
"""Given an operation, its operands' types in the program, the orders in which they are stored and the wanted order of
the result: how to compute it, in the wanted order if that costs nothing; None if only as the program has it."""


def arranged(op: Op, types: Sequence[TensorType], stored: Sequence[Order], wanted: Order) -> Arrangement:
    """How to compute an operation with one result on operands in some layouts.

    Args:
        op: the operation.
        types: of its operands in the program.
        stored: orders in which these are stored.
        wanted: the order in which its result is to be stored.
    """
    found = RULES[op.opcode](op, types, stored, wanted) if goes_along(op) else None
    return found or Arrangement(op.params, tuple(as_given(t.rank) for t in types), as_given(op.type.rank))


def followed(op: Op, types: Sequence[TensorType], stored: Sequence[Order]) -> Order:
    """The order that a result has by nature if its operands are stored in some orders: that which moves least.

    Args:
        op: the operation, with one result.
        types: of its operands in the program.
        stored: orders in which these are stored.
    """
    own = as_given(op.type.rank)
    if not goes_along(op) or op.opcode not in ("broadcast_in_dim", "transpose"):
        return arranged(op, types, stored, own).result
    (order,) = stored[:1]
    if op.opcode == "broadcast_in_dim":
        return _spread(op, order)
    still = tuple(op.params["permutation"].index(axis) for axis in order)
    return own if still == own else order


def _spread(op: Op, order: Order) -> Order:
    """The order of a broadcast operand, each new axis behind the one that it follows in the program."""
    axes = op.params["broadcast_dimensions"]
    found = [axes[axis] for axis in order]
    for axis in range(op.type.rank):
        if axis not in axes:
            found.insert(found.index(axis - 1) + 1 if axis else 0, axis)
    return tuple(found)


def as_given(rank: int) -> Order:
    """The order that the program has."""
    return tuple(range(rank))


def places(order: Order) -> Order:
    """Where each axis of the program is stored."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def between(stored: Order, wanted: Order) -> Order:
    """The transposition from one order to another."""
    place = places(stored)
    return tuple(place[axis] for axis in wanted)


def permuted(type_: TensorType, order: Order) -> TensorType:
    """The type of a value that is stored in some order."""
    return type_.with_shape(type_.shape[axis] for axis in order)


def moves_nothing(shape: Sequence[int], permutation: Order) -> bool:
    """Whether a transposition leaves every element where it is, because it moves axes of size 1 alone."""
    wide = [axis for axis in permutation if shape[axis] != 1]
    return wide == sorted(wide)


def goes_along(op: Op) -> bool:
    """Whether an operation can be computed in other layouts at all."""
    return op.opcode in RULES and not (op.opaque or op.effects or op.body is not None)


def tied(op: Op) -> bool:
    """Whether an operation makes its result in the order in which it reads operands of the same rank."""
    return goes_along(op) and RULES[op.opcode] in (_elementwise, _per_axis)


def _kept(stored: Order, gone: Iterable[int]) -> Order:
    """The order that is left of one without some axes, which later ones move up for."""
    gone = set(gone)
    kept = sorted(a for a in stored if a not in gone)
    return tuple(kept.index(a) for a in stored if a not in gone)


def _mapped(place: Order, axes: Iterable[int]) -> Order:
    return tuple(place[a] for a in axes)


# ---- operations that tie the orders of operands and result


def _elementwise(op: Op, types: Sequence[TensorType], stored: Sequence[Order], wanted: Order) -> Arrangement | None:
    return Arrangement(op.params, tuple(wanted if t.rank else () for t in types), wanted)


def _per_axis(op: Op, types: Sequence[TensorType], stored: Sequence[Order], wanted: Order) -> Arrangement | None:
    """Parameters that hold one entry per axis, or name axes."""
    place = places(wanted)
    params: dict[str, Any] = {**op.params}
    for name in (*_PER_AXIS, *_PER_AXIS_OF_SLICES):
        if params.get(name) is not None:
            params[name] = tuple(params[name][axis] for axis in wanted)
    if op.opcode in ("concatenate", "iota"):
        params["dimension"] = place[params["dimension"]]
    if op.opcode == "iota":
        params["shape"] = op.type.with_shape(params["shape"][axis] for axis in wanted).shape
    if op.opcode == "rev":
        params["dimensions"] = tuple(sorted(_mapped(place, params["dimensions"])))
    if op.opcode in CUMULATIVE:
        params["axis"] = place[params["axis"]]
    return Arrangement(params, tuple(wanted if t.rank else () for t in types), wanted)


def _broadcast(op: Op, types: Sequence[TensorType], stored: Sequence[Order], wanted: Order) -> Arrangement | None:
    """The operand's axes stand in the order of the result's that they become."""
    place, axes = places(wanted), op.params["broadcast_dimensions"]
    order = tuple(sorted(range(len(axes)), key=lambda n: place[axes[n]]))
    shape = tuple(op.params["shape"][axis] for axis in wanted)
    params = {**op.params, "shape": shape, "broadcast_dimensions": tuple(place[axes[n]] for n in order)}
    return Arrangement(params, (order, *((),) * (len(types) - 1)), wanted)


# ---- operations that follow their operand


def _reduce(op: Op, types: Sequence[TensorType], stored: Sequence[Order], wanted: Order) -> Arrangement | None:
    place, axes = places(stored[0]), op.params["axes"]
    params = {**op.params, "axes": tuple(sorted(_mapped(place, axes)))}
    return Arrangement(params, (stored[0],), _kept(stored[0], axes))


def _squeeze(op: Op, types: Sequence[TensorType], stored: Sequence[Order], wanted: Order) -> Arrangement | None:
    place, gone = places(stored[0]), op.params["dimensions"]
    params = {**op.params, "dimensions": tuple(sorted(_mapped(place, gone)))}
    return Arrangement(params, (stored[0],), _kept(stored[0], gone))


def _reshape(op: Op, types: Sequence[TensorType], stored: Sequence[Order], wanted: Order) -> Arrangement | None:
    """Axes that are cut stay next to each other; those that are merged have to stand so. Unit axes may be anywhere."""
    order = stored[0]
    blocks = _blocks(types[0].shape, op.type.shape)
    if op.type.size == 0 or op.params.get("dimensions") is not None:
        return None
    wide = [a for a in order if types[0].shape[a] != 1]
    made: list[int] = []
    while wide:
        old, new = next(b for b in blocks if wide[0] in b[0])
        if tuple(wide[: len(old)]) != old:
            return None
        made += new
        wide = wide[len(old) :]
    shape = op.type.shape
    fits = [a for a in wanted if shape[a] != 1] == made
    result = wanted if fits else (*(a for a in range(len(shape)) if shape[a] == 1), *made)
    return Arrangement({**op.params, "new_sizes": tuple(shape[a] for a in result)}, (order,), result)


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[Order, Order]]:
    """The smallest runs of axes of two shapes that hold each other's elements, unit axes left out."""
    left = [a for a, n in enumerate(old) if n != 1]
    right = [a for a, n in enumerate(new) if n != 1]
    found: list[tuple[Order, Order]] = []
    while left and right:
        i = j = 1
        while (a := math.prod(old[x] for x in left[:i])) != (b := math.prod(new[x] for x in right[:j])):
            i, j = (i + 1, j) if a < b else (i, j + 1)
        found.append((tuple(left[:i]), tuple(right[:j])))
        left, right = left[i:], right[j:]
    return found


def _product(op: Op, types: Sequence[TensorType], stored: Sequence[Order], wanted: Order) -> Arrangement | None:
    """Batch axes first, then what is left of the operands, each in its order."""
    contracted, batch = op.params["dimension_numbers"]
    place = [places(order) for order in stored]
    numbers = tuple(
        tuple(_mapped(p, axes) for p, axes in zip(place, sides, strict=True)) for sides in (contracted, batch)
    )
    made = list(range(len(batch[0])))
    for order, used, shared in zip(stored, contracted, batch, strict=True):
        first = len(made)
        made += [first + axis for axis in _kept(order, (*used, *shared))]
    return Arrangement({**op.params, "dimension_numbers": numbers}, tuple(stored), tuple(made))


# ---- operations that take any order


def _convolution(op: Op, types: Sequence[TensorType], stored: Sequence[Order], wanted: Order) -> Arrangement | None:
    specs = zip(op.params["dimension_numbers"], (*stored, wanted), strict=True)
    numbers = tuple(_mapped(places(order), spec) for spec, order in specs)
    return Arrangement({**op.params, "dimension_numbers": numbers}, tuple(stored), wanted)


def _transpose(op: Op, types: Sequence[TensorType], stored: Sequence[Order], wanted: Order) -> Arrangement | None:
    order = op.params["permutation"]
    moved = between(stored[0], tuple(order[axis] for axis in wanted))
    return Arrangement({**op.params, "permutation": moved}, tuple(stored), wanted)


RULES: dict[str, Rule] = {
    **dict.fromkeys((*ELEMENTWISE, *IDENTITIES), _elementwise),
    **dict.fromkeys((*WINDOWS, *CUMULATIVE, "pad", "slice", "concatenate", "rev", "iota"), _per_axis),
    **dict.fromkeys((*REDUCE, "argmax", "argmin"), _reduce),
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "transpose": _transpose,
}
