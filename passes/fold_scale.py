"""Folds constant scales and shifts around convolutions and matrix products into their weights and biases.

    conv(x, w) * s          ->  conv(x, w * s)                 s constant per output channel
    conv(x, w) / s          ->  conv(x, w / s)
    (conv(x, w) + b) * s    ->  conv(x, w * s) + b * s
    conv(x, w) + a + b      ->  conv(x, w) + (a + b)           likewise with subtractions
    conv(x * s, w)          ->  conv(x, w * s)                 s constant per input channel
    dot(x + b, w)           ->  dot(x, w) + dot(b, w)

Batch normalisation in inference is a case of these, however it is written. Folded constants are computed in float64 and
rounded once. A rule applies only if the product has no other reader, all constants are finite, and the weights stay so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..ir import dtypes
from ..ir.graph import Graph, Op
from .manager import Rewriter, RewriteRule, apply_rules

_PRODUCTS = frozenset({"conv_general_dilated", "dot_general"})


@dataclass(frozen=True, slots=True)
class FoldScales:
    """Applies `RULES` until none fits."""

    name: str = "fold-scales"

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph."""
        if not any(op.opcode in _PRODUCTS for op in graph.ops):
            return graph
        return apply_rules(graph, RULES)


@dataclass(frozen=True, slots=True)
class _Product:
    """A convolution or matrix product with constant weights.

    Attributes:
        op: The operation.
        place: Which operand the weights are.
        weights: Their content.
        outputs: Axis of the result -> axis of the weights, for axes that index the weights' output channels.
        inputs: Axis of the other operand -> axis of the weights, for axes that are summed over (or batched).
    """

    op: Op
    place: int
    weights: np.ndarray
    outputs: Mapping[int, int]
    inputs: Mapping[int, int]

    @property
    def data(self) -> int:
        """The operand that is not the weights."""
        return self.op.operands[1 - self.place]

    def with_weights(self, weights: np.ndarray, r: Rewriter, data: int | None = None) -> int:
        """The same product of other weights and possibly other data."""
        operands = [self.data if data is None else data] * 2
        operands[self.place] = r.builder.constant(weights, r.graph.types[self.op.operands[self.place]])
        return r.builder.add(self.op.opcode, operands, self.op.params, self.op.types)[0]


def _product(value: int, r: Rewriter) -> _Product | None:
    """The product that defines a value, if its weights are constant and nobody else reads it."""
    op = r.producer(value)
    return _as_product(op, r) if op is not None and r.only_user(value) else None


def _as_product(op: Op, r: Rewriter) -> _Product | None:
    if op.opcode not in _PRODUCTS or not dtypes.is_float(op.type.dtype):
        return None
    if any(r.graph.types[value].dtype != op.type.dtype for value in op.operands):
        return None  # mixed precision: the scale would be rounded to another type
    if op.opcode == "conv_general_dilated":
        weights = r.graph.constant(op.operands[1])
        if weights is None or op.params["batch_group_count"] != 1:
            return None
        lhs, rhs, out = op.params["dimension_numbers"]
        inputs = {lhs[1]: rhs[1]} if op.params["feature_group_count"] == 1 else {}
        return _Product(op, 1, weights, {out[1]: rhs[0]}, inputs)
    for place in (1, 0):
        weights = r.graph.constant(op.operands[place])
        if weights is not None and r.graph.constant(op.operands[1 - place]) is None:
            return _Product(op, place, weights, *_dot_axes(op, place, r))
    return None


def _dot_axes(op: Op, place: int, r: Rewriter) -> tuple[dict[int, int], dict[int, int]]:
    contract, batch = op.params["dimension_numbers"]
    ranks = [r.graph.types[value].rank for value in op.operands]
    free = [[a for a in range(ranks[i]) if a not in (*contract[i], *batch[i])] for i in (0, 1)]
    first = len(batch[0]) + (len(free[0]) if place == 1 else 0)
    outputs = {first + i: axis for i, axis in enumerate(free[place])}
    outputs.update(enumerate(batch[place]))
    inputs = dict(zip(contract[1 - place], contract[place], strict=True))
    inputs.update(zip(batch[1 - place], batch[place], strict=True))
    return outputs, inputs


def _constant(value: int, r: Rewriter) -> np.ndarray | None:
    """A finite floating point constant in float64, seen through broadcasts (which leave axes of size 1)."""
    op = r.producer(value)
    if op is not None and op.opcode == "broadcast_in_dim":
        inner = _constant(op.operands[0], r)
        if inner is None:
            return None
        shape = [1] * op.type.rank
        for axis, size in zip(op.params["broadcast_dimensions"], inner.shape, strict=True):
            shape[axis] = size
        return inner.reshape(shape)
    array = r.graph.constant(value)
    if array is None or not dtypes.is_float(array.dtype.name):
        return None
    wide = array.astype(np.float64)
    return wide if np.all(np.isfinite(wide)) else None


def _along(array: np.ndarray, rank: int, axes: Mapping[int, int], weights: np.ndarray) -> np.ndarray | None:
    """Shapes a constant so that it multiplies weights, if it varies only along axes that index them."""
    if array.ndim not in (0, rank):
        return None
    shape = [1] * weights.ndim
    targets: list[int] = []
    for axis, size in enumerate(array.shape):
        if size == 1:
            continue
        if axis not in axes:
            return None
        shape[axes[axis]] = size
        targets.append(axes[axis])
    squeezed = array.reshape([size for size in array.shape if size != 1])
    order = sorted(range(len(targets)), key=targets.__getitem__)
    return np.transpose(squeezed, order).reshape(shape)


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray | None:
    """A float64 array in the given type, or None if something overflows."""
    with np.errstate(over="ignore"):
        result = array.astype(dtypes.to_numpy(dtype))
    return result if np.all(np.isfinite(result.astype(np.float64))) else None


def _split(op: Op, r: Rewriter) -> list[tuple[int, np.ndarray, int]]:
    """The ways to see a binary operation as (other operand, constant, the constant's place)."""
    found = []
    for place in (1, 0):
        array = _constant(op.operands[place], r)
        if array is not None and _constant(op.operands[1 - place], r) is None:
            found.append((op.operands[1 - place], array, place))
    return found


def _factor(op: Op, array: np.ndarray, place: int) -> np.ndarray | None:
    """What a multiplication or division by a constant multiplies with."""
    if op.opcode == "mul":
        return array
    if place == 0 or not np.all(array):
        return None
    return 1 / array


def _scale_after(op: Op, r: Rewriter) -> int | None:
    for value, array, place in _split(op, r):
        product, factor = _product(value, r), _factor(op, array, place)
        if product is None or factor is None or r.graph.types[value].shape != op.type.shape:
            continue
        along = _along(factor, op.type.rank, product.outputs, product.weights)
        weights = None if along is None else _rounded(product.weights.astype(np.float64) * along, op.type.dtype)
        if weights is not None:
            return product.with_weights(weights, r)
    return None


def _scale_before(op: Op, r: Rewriter) -> int | None:
    product = _as_product(op, r)
    inner = None if product is None else r.producer(product.data)
    if product is None or inner is None or inner.opcode not in ("mul", "div") or not r.only_user(product.data):
        return None
    for value, array, place in _split(inner, r):
        factor = _factor(inner, array, place)
        if factor is None or not r.graph.types[value].same_data(inner.type):
            continue
        along = _along(factor, inner.type.rank, product.inputs, product.weights)
        weights = None if along is None else _rounded(product.weights.astype(np.float64) * along, op.type.dtype)
        if weights is not None:
            return product.with_weights(weights, r, data=value)
    return None


def _shift_before(op: Op, r: Rewriter) -> int | None:
    """Only for matrix products: a convolution's padding is not shifted."""
    product = _as_product(op, r) if op.opcode == "dot_general" else None
    inner = None if product is None else r.producer(product.data)
    if product is None or inner is None or inner.opcode not in ("add", "sub") or not r.only_user(product.data):
        return None
    for value, array, place in _split(inner, r):
        if (inner.opcode == "sub" and place == 0) or not r.graph.types[value].same_data(inner.type):
            continue
        shift = _shift_product(op, product, array if inner.opcode == "add" else -array, inner.type.rank, r)
        if shift is None:
            continue
        moved = product.with_weights(product.weights, r, data=value)
        return r.add1("add", moved, r.builder.constant(shift))
    return None


def _shift_product(op: Op, product: _Product, shift: np.ndarray, rank: int, r: Rewriter) -> np.ndarray | None:
    """The product of a shift that is the same along all free axes of the data, with axes of size 1 for those."""
    contract, batch = op.params["dimension_numbers"]
    side = 1 - product.place
    if shift.ndim != rank or batch[0]:
        return None
    shape = r.graph.types[product.data].shape
    free = [axis for axis in range(rank) if axis not in contract[side]]
    if any(shift.shape[axis] != 1 for axis in free):
        return None
    full = np.broadcast_to(shift, [shape[axis] if axis in contract[side] else 1 for axis in range(rank)])
    pair: list[np.ndarray] = [full, full]
    pair[product.place] = product.weights.astype(np.float64)
    result = np.tensordot(pair[0], pair[1], axes=contract)
    return _rounded(result, op.type.dtype)


def _scale_of_shift(op: Op, r: Rewriter) -> int | None:
    """(product + b) * s -> product * s + b * s, where the product then takes s in."""
    for value, array, place in _split(op, r):
        inner, factor = r.producer(value), _factor(op, array, place)
        if inner is None or factor is None or inner.opcode not in ("add", "sub") or not r.only_user(value):
            continue
        if inner.type.shape != op.type.shape:
            continue
        for base, shift, shift_place in _split(inner, r):
            product = _product(base, r)
            if product is None or (inner.opcode == "sub" and shift_place == 0):
                continue
            along = _along(factor, op.type.rank, product.outputs, product.weights)
            if along is None or r.graph.types[base].shape != op.type.shape:
                continue
            weights = _rounded(product.weights.astype(np.float64) * along, op.type.dtype)
            moved = _rounded(shift * factor, op.type.dtype)
            if weights is not None and moved is not None and moved.ndim in (0, op.type.rank):
                return r.add1(inner.opcode, product.with_weights(weights, r), r.builder.constant(moved))
    return None


def _shift_of_shift(op: Op, r: Rewriter) -> int | None:
    """Product + a + b -> product + (a + b), and the same with subtractions."""
    for value, outer, place in _split(op, r):
        inner = r.producer(value)
        if inner is None or inner.opcode not in ("add", "sub") or not r.only_user(value):
            continue
        for base, shift, shift_place in _split(inner, r):
            subtracted = (op.opcode == "sub" and place == 0) or (inner.opcode == "sub" and shift_place == 0)
            if subtracted or _product(base, r) is None or r.graph.types[base].shape != op.type.shape:
                continue
            total = (shift if inner.opcode == "add" else -shift) + (outer if op.opcode == "add" else -outer)
            constant = _rounded(total, op.type.dtype)
            if constant is not None and constant.ndim in (0, op.type.rank):
                return r.add1("add", base, r.builder.constant(constant))
    return None


def _rule(rewrite: Callable[[Op, Rewriter], int | None], *opcodes: str) -> RewriteRule:
    return RewriteRule(rewrite.__name__.strip("_").replace("_", "-"), frozenset(opcodes), rewrite)


RULES: tuple[RewriteRule, ...] = (
    _rule(_scale_after, "mul", "div"),
    _rule(_scale_of_shift, "mul", "div"),
    _rule(_shift_of_shift, "add", "sub"),
    _rule(_scale_before, "conv_general_dilated", "dot_general"),
    _rule(_shift_before, "dot_general"),
)
"""The rules, in the order in which they are tried."""
