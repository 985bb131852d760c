"""Matrix products and attention of networks as ONNX operators."""

# pyright: reportMissingImports=false
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Op
from .stored import Stored, in_order, ordered, reshaped

if TYPE_CHECKING:
    from .onnx_network import NetworkExporter


def dot_general(network: NetworkExporter, op: Op) -> Stored:
    """A product over some axes of two values."""
    (contracted, batch) = op.params["dimension_numbers"]
    first, second = op.operands
    if not batch[0] and network.constant(second) is not None:
        return _by_constant(network, op, first, contracted[0], second, contracted[1])
    if not batch[0] and network.constant(first) is not None:
        turned = _by_constant(network, op, second, contracted[1], first, contracted[0])
        left = len(network.graph.types[first].shape) - len(contracted[0])
        right = op.type.rank - left
        return ordered(network.b, turned).transposed([*range(right, right + left), *range(right)])
    return _batched(network, op)


def _by_constant(
    network: NetworkExporter, op: Op, value: int, axes: Sequence[int], constant: int, constant_axes: Sequence[int]
) -> Stored:
    """A value times a constant matrix, whose axes are merged into two; the value's other axes come first."""
    b, found, weights = network.b, network.stored(value), network.constant(constant)
    assert weights is not None
    rest = [axis for axis in range(weights.ndim) if axis not in constant_axes]
    kept = [axis for axis in range(len(found.shape)) if axis not in axes]
    results = [weights.shape[axis] for axis in rest]
    matrix = weights.transpose(*constant_axes, *rest).reshape(-1, math.prod(results))
    if [*kept, *axes] != list(range(len(found.shape))):
        found = ordered(b, found).transposed([*kept, *axes])
    rows = [found.shape[axis] for axis in range(len(kept))]
    found = reshaped(b, ordered(b, found) if found.merged == 1 else found, [*rows, matrix.shape[0]])
    name = b.node("MatMul", found.name, b.constant(np.ascontiguousarray(matrix)))
    shape = (*rows, *results)
    if results:
        return in_order(name, shape, merged=len(results))
    return in_order(b.node("Reshape", name, b.shape(*shape)), shape)


def _batched(network: NetworkExporter, op: Op) -> Stored:
    """Both sides change from call to call."""
    b = network.b
    contracted, batch = op.params["dimension_numbers"]
    sides = [network.stored(value) for value in op.operands]
    rest = [
        [axis for axis in range(len(side.shape)) if axis not in (*contracted[i], *batch[i])]
        for i, side in enumerate(sides)
    ]
    # The side that has the summed axis last already stays as it is; the result is then stored the other way round.
    last = [side.axes[-1] in contracted[i] and side.merged == 1 for i, side in enumerate(sides)]
    left, right = (1, 0) if last[1] and not last[0] else (0, 1)
    matrices = []
    for i, order in ((left, (*rest[left], *contracted[left])), (right, (*contracted[right], *rest[right]))):
        turned = ordered(b, sides[i], (*batch[i], *order))
        outer = [sides[i].shape[axis] for axis in batch[i]]
        inner = [math.prod(sides[i].shape[axis] for axis in part) for part in (rest[i], contracted[i])]
        inner = inner if i == left else inner[::-1]
        straight = in_order(turned.name, [sides[i].shape[axis] for axis in turned.axes])
        matrices.append(reshaped(b, straight, [*outer, *inner]).name)
    name = b.node("MatMul", *matrices)
    outer = len(batch[0])
    sizes = [[sides[i].shape[axis] for axis in rest[i]] for i in (left, right)]
    shape = [*op.type.shape[:outer], *sizes[0], *sizes[1]]
    if any(len(part) != 1 for part in sizes):
        name = b.node("Reshape", name, b.shape(*shape))
    found = in_order(name, shape)
    if left == 0:
        return found
    cut = outer + len(sizes[0])
    return found.transposed([*range(outer), *range(cut, len(shape)), *range(outer, cut)])


def attention(network: NetworkExporter, op: Op) -> Stored | None:
    """A product of a softmax of a product as one operator, where the runtime has it; None if this is none."""
    if not network.b.attention:
        return None
    for side in (0, 1):
        idiom = network.idioms.get(op.operands[side])
        scores = network.graph.producer(idiom.operand) if idiom is not None and idiom.kind == "softmax" else None
        if scores is not None and scores.opcode == "dot_general":
            return _attention(network, op, side, scores)
    return None


def _attention(network: NetworkExporter, op: Op, side: int, scores: Op) -> Stored | None:
    """`side` says which operand the probabilities are."""
    b = network.b
    contracted, batch = op.params["dimension_numbers"]
    score_contracted, score_batch = scores.params["dimension_numbers"]
    heads = [len(axes) for axes in (*batch, *score_batch)]
    single = all(len(axes) == 1 for axes in (*contracted, *score_contracted))
    ranks = {network.graph.types[v].rank for v in (*op.operands, *scores.operands)}
    if heads != [2] * 4 or not single or ranks != {4} or batch[side] != (0, 1) or contracted[side] != (3,):
        return None
    query, key = (_heads_first(network, scores.operands[i], score_batch[i], score_contracted[i][0]) for i in (0, 1))
    values = 1 - side
    features = next(axis for axis in range(4) if axis not in (*batch[values], *contracted[values]))
    value = _heads_first(network, op.operands[values], batch[values], features)
    name = b.node("Attention", query, key, value, scale=1.0)
    queries, size = (
        network.graph.types[scores.result].shape[2],
        network.graph.types[op.operands[values]].shape[features],
    )
    found = in_order(name, [*op.type.shape[:2], queries, size])
    return found if side == 0 else found.transposed([0, 1, 3, 2])


def _heads_first(network: NetworkExporter, value: int, batch: Sequence[int], last: int) -> str:
    """A value as (batch, heads, sequence, features)."""
    sequence = next(axis for axis in range(4) if axis not in (*batch, last))
    return ordered(network.b, network.stored(value), (*batch, sequence, last)).name
