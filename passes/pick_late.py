"""Picks one element per row of a product without the product: what a cross-entropy wants of its logits.

    take_along_axis(h @ w, labels)      ->  sum(h * take(w, labels))
    take_along_axis(x - c - d, labels)  ->  take_along_axis(x, labels) - (c + d)      c, d the same along a row

Where nothing but sums over its rows is left of the product, these are streamed (`passes.stream`) and it is never
stored. A rule applies only then, and not where places out of bounds give a number: a sum of products with it is another
one. The picked element is the same sum of products, in another order.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import dtypes
from ..ir.graph import Graph, Op
from .manager import Rewriter, RewriteRule, apply_rules

_REDUCED = frozenset(("reduce_max", "reduce_sum", "sub", "exp", "gather"))


@dataclass(frozen=True, slots=True)
class PickLate:
    """Applies `RULES` until none fits."""

    name: str = "pick-late"

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph."""
        return apply_rules(graph, RULES) if any(op.opcode == "gather" for op in graph.ops) else graph


def _one_per_row(op: Op, r: Rewriter) -> bool:
    """Whether a gather picks one element of each row of its operand, along the last axis."""
    rank = r.graph.types[op.operands[0]].rank
    rows = tuple(range(rank - 1))
    axis = (rank - 1,)
    indices = r.graph.types[op.operands[1]].shape
    fits = rank > 1 and op.params["dimension_numbers"] == ((), axis, axis, rows, rows) and _fills_nan(op)
    return fits and indices[-2:] == (1, 1) and len(indices) == rank + 1 and set(op.params["slice_sizes"]) == {1}


def _fills_nan(op: Op) -> bool:
    """Whether a gather gives an element for places out of bounds, or NaN, which alone survives what comes after."""
    if op.params["mode"] in ("CLIP", "PROMISE_IN_BOUNDS"):
        return True
    value = op.params["fill_value"]
    return op.params["mode"] == "FILL_OR_DROP" and dtypes.is_float(op.type.dtype) and (value is None or value != value)


def _before_subtraction(op: Op, r: Rewriter) -> int | None:
    """Subtract what is the same along a row after an element was picked, all of it at once."""
    value, shifts = op.operands[0], list[int]()
    inner = r.producer(value)
    if not _one_per_row(op, r) or not _is_reduced(value, r):
        return None
    while inner is not None and inner.opcode == "sub":
        shift = _per_row(inner, r)
        if shift is None:
            return None
        value, shifts = inner.operands[0], [shift, *shifts]
        inner = r.producer(value)
    if not shifts:
        return None
    picked = r.builder.add("gather", (value, op.operands[1]), op.params, op.types)[0]
    total = shifts[0]
    for shift in shifts[1:]:
        total = r.add1("add", total, shift)
    return r.builder.add("sub", (picked, total), {}, op.types)[0]


def _per_row(op: Op, r: Rewriter) -> int | None:
    """What an operation subtracts from all elements of a row, as a value with one element per row."""
    shape = (*op.type.shape[:-1], 1)
    shift = op.operands[1]
    if r.graph.types[shift].shape == shape:
        return shift
    spread = r.producer(shift)
    if spread is None or spread.opcode != "broadcast_in_dim":
        return None
    axes, source = spread.params["broadcast_dimensions"], r.graph.types[spread.operands[0]]
    if op.type.rank - 1 in axes and source.shape[axes.index(op.type.rank - 1)] != 1:
        return None
    return r.add1("broadcast_in_dim", spread.operands[0], shape=shape, broadcast_dimensions=axes)


def _of_product(op: Op, r: Rewriter) -> int | None:
    """Multiply only what is picked."""
    product = r.producer(op.operands[0])
    if product is None or product.opcode != "dot_general" or not _one_per_row(op, r):
        return None
    (lhs, rhs), (lhs_batch, rhs_batch) = product.params["dimension_numbers"]
    rows, weights = (r.graph.types[v] for v in product.operands)
    plain = lhs == (rows.rank - 1,) and weights.rank == 2 and not lhs_batch and not rhs_batch
    if not plain or not _is_reduced(product.result, r) or rows.dtype != op.type.dtype or weights.dtype != op.type.dtype:
        return None
    depth, column = rhs[0], 1 - rhs[0]
    lead = rows.shape[:-1]
    indices = r.add1("reshape", op.operands[1], new_sizes=(*lead, 1))
    sizes = tuple(weights.shape[depth] if axis == depth else 1 for axis in (0, 1))
    numbers = ((len(lead),), (column,), (column,), (), ())
    params = {**op.params, "dimension_numbers": numbers, "slice_sizes": sizes}
    columns = r.builder.add("gather", (product.operands[1], indices), params, [op.type.with_shape(rows.shape)])[0]
    total = r.add1("reduce_sum", r.add1("mul", product.operands[0], columns), axes=(rows.rank - 1,))
    return r.add1("reshape", total, new_sizes=op.type.shape)


def _is_reduced(value: int, r: Rewriter) -> bool:
    """Whether nothing is left of a product but elements picked of its rows, and sums and maxima over them."""
    source = r.producer(value)
    while source is not None and source.opcode == "sub":
        value = source.operands[0]
        source = r.producer(value)
    if source is None or source.opcode != "dot_general":
        return False
    pending, seen = [value], set[int]()
    while pending:
        value = pending.pop()
        if value in r.graph.outputs:
            return False
        for user in (r.graph.ops[i] for i in r.graph.users[value]):
            if user.opcode not in _REDUCED:
                return False
            if user.opcode in ("sub", "exp") and user.result not in seen:
                seen.add(user.result)
                pending.append(user.result)
    return True


RULES: tuple[RewriteRule, ...] = (
    RewriteRule("before-subtraction", frozenset(("gather",)), _before_subtraction),
    RewriteRule("of-product", frozenset(("gather",)), _of_product),
)
"""The rules, in the order in which they are tried."""
