"""A simplification rule for products that sum nothing: `jnp.einsum` makes outer products of them."""

from __future__ import annotations

from ..ir.dtypes import BOOL, LOSSLESS
from ..ir.graph import Op
from .manager import Rewriter


def product_without_sum(op: Op, r: Rewriter) -> int | None:
    """A product over no axis is a multiplication of stretched operands, which joins the elementwise work around it."""
    (contracted, _), (batch, other) = op.params["dimension_numbers"]
    left, right = op.operands
    exact = all(_keeps_values(r.graph.types[v].dtype, op.type.dtype) for v in op.operands)
    if contracted or op.type.dtype == BOOL or not exact:
        return None
    free = r.graph.types[left].rank - len(batch)
    factors = (
        _stretched(op, left, _places(r.graph.types[left].rank, batch, 0), r),
        _stretched(op, right, _places(r.graph.types[right].rank, other, free), r),
    )
    return r.builder.add("mul", factors, {}, op.types)[0]


def _keeps_values(source: str, target: str) -> bool:
    """Whether operands may be converted before they are multiplied, and not the product afterwards."""
    return source == target or (source, target) in LOSSLESS


def _places(rank: int, batch: tuple[int, ...], skipped: int) -> tuple[int, ...]:
    """Where each axis of an operand lies in the result: batch axes first, `skipped` ones of the other operand next."""
    free = [axis for axis in range(rank) if axis not in batch]
    return tuple(batch.index(a) if a in batch else len(batch) + skipped + free.index(a) for a in range(rank))


def _stretched(op: Op, value: int, places: tuple[int, ...], r: Rewriter) -> int:
    """An operand in the result's element type, its axes in the result's order, repeated along the other ones."""
    type_ = r.graph.types[value]
    if type_.dtype != op.type.dtype:
        value = r.add1("convert_element_type", value, new_dtype=op.type.dtype, weak_type=False)
    order = tuple(sorted(range(type_.rank), key=places.__getitem__))
    if order != tuple(range(type_.rank)):
        value = r.add1("transpose", value, permutation=order)
    return r.add1("broadcast_in_dim", value, shape=op.type.shape, broadcast_dimensions=tuple(sorted(places)))
