"""Simplification rules that move transpositions behind operations to which the order of axes is all the same.

Libraries that pool pixel by pixel transpose images that are stored channel by channel, and transpose the result back.
Behind the pooling the two cancel. `jnp.einsum` orders the operands of a product by its own rules, and transposes what
comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir.graph import Op
from .manager import Rewriter

_PER_AXIS = ("window_dimensions", "window_strides", "base_dilation", "window_dilation", "padding")


def unit_axes_before_transpose(op: Op, r: Rewriter) -> int | None:
    """Axes of size 1 are added before a transposition instead of after it."""
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "transpose":
        return None
    places, order = op.params["broadcast_dimensions"], inner.params["permutation"]
    added = [axis for axis in range(op.type.rank) if axis not in places]
    same = all(op.type.shape[axis] == size for axis, size in zip(places, inner.type.shape, strict=True))
    if not same or any(op.type.shape[axis] != 1 for axis in added):
        return None
    source = r.graph.types[inner.operands[0]].shape
    shape = (*(1 for _ in added), *source)
    wide = r.add1(
        "broadcast_in_dim",
        inner.operands[0],
        shape=shape,
        broadcast_dimensions=tuple(range(len(added), len(shape))),
    )
    origin = {axis: number for number, axis in enumerate(added)}
    origin |= {axis: len(added) + order[number] for number, axis in enumerate(places)}
    return r.add1("transpose", wide, permutation=tuple(origin[axis] for axis in range(op.type.rank)))


def window_before_transpose(op: Op, r: Rewriter) -> int | None:
    """Pooling happens before a transposition instead of after it; sums may then be added up in another order."""
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "transpose":
        return None
    order = inner.params["permutation"]

    def moved(values: tuple[Any, ...]) -> tuple[Any, ...]:
        by_source = dict(zip(order, values, strict=True))
        return tuple(by_source[axis] for axis in range(len(order)))

    params = {name: moved(value) if name in _PER_AXIS else value for name, value in op.params.items()}
    types = [op.type.with_shape(moved(op.type.shape))]
    pooled = r.builder.add(op.opcode, inner.operands, params, types)[0]
    return r.add1("transpose", pooled, permutation=order)


def squeeze_before_transpose(op: Op, r: Rewriter) -> int | None:
    """Axes of size 1 are dropped before a transposition instead of after it."""
    inner = r.producer(op.operands[0])
    if inner is None or inner.opcode != "transpose":
        return None
    order, gone = inner.params["permutation"], op.params["dimensions"]
    kept = [order[axis] for axis in range(len(order)) if axis not in gone]
    narrow = r.add1("squeeze", inner.operands[0], dimensions=tuple(sorted(order[axis] for axis in gone)))
    return r.add1("transpose", narrow, permutation=tuple(sorted(kept).index(axis) for axis in kept))


def transpose_of_product(op: Op, r: Rewriter) -> int | None:
    """A product whose free axes are swapped behind it is that of the operands in the other order."""
    product = r.producer(op.operands[0])
    if product is None or product.opcode != "dot_general" or len(r.graph.users[product.result]) != 1:
        return None
    if product.result in r.graph.outputs:  # it would be computed in both orders
        return None
    left, right = product.operands
    (contracted, other), (batch, same) = product.params["dimension_numbers"]
    lead = len(batch)
    free = r.graph.types[left].rank - lead - len(contracted)
    rank = product.type.rank
    swapped = (*range(lead), *range(lead + free, rank), *range(lead, lead + free))
    shape = product.type.shape

    def wide(order: Sequence[int]) -> list[int]:
        return [axis for axis in order if shape[axis] != 1]

    order = op.params["permutation"]
    if wide(order) == wide(range(rank)) or wide(order) != wide(swapped):
        return None
    precision = product.params["precision"]
    params = {
        **product.params,
        "dimension_numbers": ((other, contracted), (same, batch)),
        "precision": precision[::-1] if isinstance(precision, tuple) else precision,
    }
    result = r.builder.add("dot_general", (right, left), params, [product.type.with_shape(shape[a] for a in swapped)])[
        0
    ]
    return result if order == swapped else r.add1("reshape", result, new_sizes=op.type.shape)
