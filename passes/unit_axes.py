"""A simplification rule for axes of size 1 that libraries drop before a product and add behind it.

`jnp.matmul` does so with batch axes, to leave the stretching of operands to XLA. Around attention on a single sequence
this would separate the products from the softmax between them.
"""

from __future__ import annotations

from typing import NamedTuple

from ..ir.graph import Op
from .manager import Rewriter


class _Wide(NamedTuple):
    """An operand with its axes of size 1.

    Args:
        value: the operand.
        units: the axes that had been dropped.
        places: where each axis that had been left is.
    """

    value: int
    units: tuple[int, ...]
    places: tuple[int, ...]


def axes_through_product(op: Op, r: Rewriter) -> int | None:
    """Axes of size 1 that both operands of a product drop and that are added behind it go through it as batch axes."""
    product = r.producer(op.operands[0])
    if product is None or product.opcode != "dot_general" or not r.only_user(product.result):
        return None
    carried = tuple(op.type.shape[axis] for axis in op.params["broadcast_dimensions"])
    if carried != product.type.shape or op.type.size != product.type.size:
        return None
    first, second = (_squeeze(operand, r) for operand in product.operands)
    if first is None or second is None or len(first.params["dimensions"]) != len(second.params["dimensions"]):
        return None
    left, right = (
        _wide(operand, squeeze, r) for operand, squeeze in zip(product.operands, (first, second), strict=True)
    )
    contracted, batch = product.params["dimension_numbers"]

    def placed(axes: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
        return [tuple(wide.places[axis] for axis in own) for wide, own in zip((left, right), axes, strict=True)]

    both = tuple((*wide.units, *own) for wide, own in zip((left, right), placed(batch), strict=True))
    params = {**product.params, "dimension_numbers": (tuple(placed(contracted)), both)}
    types = [product.type.with_shape((*(1 for _ in left.units), *product.type.shape))]
    result = r.builder.add("dot_general", (left.value, right.value), params, types)[0]
    return result if types[0].shape == op.type.shape else r.add1("reshape", result, new_sizes=op.type.shape)


def _squeeze(operand: int, r: Rewriter) -> Op | None:
    """What drops axes of an operand: the operation that makes it, or the one before a transposition."""
    op = r.producer(operand)
    if op is not None and op.opcode == "transpose":
        op = r.producer(op.operands[0])
    return op if op is not None and op.opcode == "squeeze" else None


def _wide(operand: int, squeeze: Op, r: Rewriter) -> _Wide:
    """An operand before its axes were dropped, transposed as it was afterwards."""
    source, units = squeeze.operands[0], tuple(sorted(squeeze.params["dimensions"]))
    kept = tuple(axis for axis in range(r.graph.types[source].rank) if axis not in units)
    op = r.producer(operand)
    if op is None or op is squeeze:
        return _Wide(source, units, kept)
    order = (*units, *(kept[axis] for axis in op.params["permutation"]))
    count = len(units)
    return _Wide(r.add1("transpose", source, permutation=order), tuple(range(count)), tuple(range(count, len(order))))
