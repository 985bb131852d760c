"""Long reductions in two steps: parts that threads share, then the parts.

A kernel is one loop that threads share. A reduction of everything to one value, or of a few rows or columns, has no
such loop; cut into parts it has one, and its sums are short chains, which keeps rounding errors small.

Before ``s = reduce_sum(x: [100352, 64], axes=(0,))``; after ``p = reduce_sum(reshape(x): [64, 1568, 64], axes=(1,))``
and ``s = reduce_sum(p: [64, 64], axes=(0,))``. Where several axes go, the first of them makes the parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from ..ir import dtypes
from ..ir.graph import Graph, GraphBuilder, Op, TensorType
from ..ir.graph_edit import remove_dead
from ..ir.infer import ELEMENTWISE
from .lower_blocks import REDUCTIONS

_LEAST_BYTES = 1 << 20
"""Smaller operands are reduced sooner than threads are woken twice."""
_ENOUGH_TASKS = 8
"""A reduction with this many independent rows or strips of columns stays whole: it may be rescaled where it lies."""
_STRIP = 256
_EXTREMES = frozenset(("reduce_max", "reduce_min"))
"""Of floating point numbers these stay whole: XLA's CPU code loses NaN in some, and both steps may come to be XLA's."""
_PARTS = (8, 4096)
_USUAL_PARTS = 64


def split_reductions(graph: Graph) -> Graph:
    """Cut those reductions in two that leave threads idle.

    Args:
        graph: a simplified graph.

    Returns:
        The graph; sums may round differently.
    """
    before = None
    while graph is not before:
        before, graph = graph, _split_once(graph)
    return graph


def _split_once(graph: Graph) -> Graph:
    builder, changed = GraphBuilder(graph), False
    for op in graph.ops:
        cut = _cut(graph, op)
        if cut is None:
            builder.append(op)
            continue
        changed = True
        _Split(graph, builder, op, *cut).emit()
    return remove_dead(graph.with_ops(builder.ops)) if changed else graph


def splittable(opcode: str, dtype: str) -> bool:
    """Whether an operation is a reduction that may be done in steps, of values of some type."""
    return opcode in REDUCTIONS and not (opcode in _EXTREMES and dtypes.is_float(dtype))


def _cut(graph: Graph, op: Op) -> tuple[int, int] | None:
    """The axis to cut and into how many parts; None where a reduction stays whole."""
    if op.opaque or op.effects or not op.operands:
        return None
    source = graph.types[op.operands[0]]
    if not splittable(op.opcode, source.dtype):
        return None
    axes = [a for a in op.params["axes"] if source.shape[a] > 1]
    if not axes or source.varying or source.nbytes < _LEAST_BYTES or _tasks(source, op, max(axes)) >= _ENOUGH_TASKS:
        return None
    first = min(axes)
    extent = source.shape[first]
    low, high = _PARTS
    if len(axes) > 1 and low <= extent <= high:
        return first, extent
    divisors = [n for n in range(low, min(high, extent // 2) + 1) if extent % n == 0]
    return (first, min(divisors, key=lambda n: abs(math.log(n / _USUAL_PARTS)))) if divisors else None


def _tasks(source: TensorType, op: Op, last: int) -> int:
    """Independent rows, or strips of columns, that a reduction has."""
    width = math.prod(source.shape[last + 1 :])
    return op.type.size // max(width, 1) * -(-width // _STRIP)


@dataclass(slots=True)
class _Split:
    """Writes one reduction as two.

    Args:
        graph: the graph it is in.
        builder: gets the operations.
        op: the reduction.
        axis: the axis that is cut.
        parts: into how many.
        memo: values in the shape with the axis cut.
    """

    graph: Graph
    builder: GraphBuilder
    op: Op
    axis: int
    parts: int
    memo: dict[int, int] = field(default_factory=dict)

    def emit(self) -> None:
        """Append both steps; the second one has the reduction's result."""
        op, axis = self.op, self.axis
        value, axes = op.operands[0], tuple(op.params["axes"])
        inner = tuple(a for a in axes if a != axis)
        if self.parts != self.graph.types[value].shape[axis]:
            value = self._cut(value) if self._computed_here(value) else self._reshape(value)
            inner = tuple(a + (a >= axis) for a in axes)
        (partial,) = self.builder.add(op.opcode, (value,), {**op.params, "axes": inner})
        place = axis - sum(a < axis for a in axes)
        self.builder.append(replace(op, operands=(partial,), params={**op.params, "axes": (place,)}))

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[: self.axis], self.parts, shape[self.axis] // self.parts, *shape[self.axis + 1 :])

    def _reshape(self, value: int) -> int:
        sizes = self._shape(self.builder.types[value].shape)
        return self.builder.add("reshape", (value,), {"new_sizes": sizes})[0]

    def _computed_here(self, value: int) -> bool:
        """Whether a value is made of arguments element by element, so that it can be computed in another shape."""
        op = self.graph.producer(value)
        if op is None:
            return True
        if op.opaque or op.effects or len(op.results) != 1:
            return False
        if op.opcode == "broadcast_in_dim":
            return self.axis not in op.params["broadcast_dimensions"]
        full = self.graph.types[value].shape
        shapes = [self.graph.types[v].shape for v in op.operands]
        if op.opcode not in ELEMENTWISE or any(s not in ((), full) for s in shapes):
            return False
        return all(self._computed_here(v) for v, s in zip(op.operands, shapes, strict=True) if s)

    def _cut(self, value: int) -> int:
        """A value with the axis cut, computed anew from arguments."""
        known = self.memo.get(value)
        if known is None:
            known = self.memo[value] = self._computed(value)
        return known

    def _computed(self, value: int) -> int:
        op = self.graph.producer(value)
        if op is None:
            return self._reshape(value)
        type_ = self.graph.types[value].with_shape(self._shape(self.graph.types[value].shape))
        if op.opcode == "broadcast_in_dim":
            axes = tuple(a + (a > self.axis) for a in op.params["broadcast_dimensions"])
            params = {**op.params, "shape": type_.shape, "broadcast_dimensions": axes}
            return self.builder.add(op.opcode, op.operands, params, [type_])[0]
        operands = [self._cut(v) if self.graph.types[v].shape else v for v in op.operands]
        return self.builder.add(op.opcode, operands, op.params, [type_])[0]
