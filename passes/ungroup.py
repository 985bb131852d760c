"""Channels that were cut into groups are put together again where only sums over groups need them apart.

Group norm reshapes ``[n, h, w, c]`` to ``[n, h, w, g, k]``, sums over ``h, w, k`` and rescales. Vectors along ``k``
would be short. Instead the large values keep their channels in one axis, are summed over positions, and only the small
result is cut:

Before ``s = reduce_sum(f(reshape(x), m): [n, h, w, g, k], axes=(1, 2, 4))``; after
``p = reduce_sum(f(x, spread(m)): [n, h, w, c], axes=(1, 2))`` and ``s = reduce_sum(reshape(p): [n, g, k], axes=(2,))``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..ir.graph import Graph, GraphBuilder, Op
from ..ir.graph_edit import remove_dead
from ..ir.infer import ELEMENTWISE
from .split_reductions import splittable


def ungroup(graph: Graph) -> Graph:
    """Compute what is reduced or rescaled by groups of channels with the channels in one axis.

    Args:
        graph: a simplified graph.

    Returns:
        The graph; sums may round differently.
    """
    work = _Ungroup(graph, GraphBuilder(graph))
    changed = False
    for op in graph.ops:
        axis = work.members_axis(op)
        if axis is None:
            work.builder.append(op)
            continue
        changed = True
        if op.opcode == "reshape":
            work.rejoin(op, axis)
        else:
            work.reduce(op, axis)
    return remove_dead(graph.with_ops(work.builder.ops)) if changed else graph


def _joined(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """A shape with an axis merged into the one before it."""
    return (*shape[: axis - 1], shape[axis - 1] * shape[axis], *shape[axis + 1 :])


@dataclass(slots=True)
class _Ungroup:
    """Rewrites one graph.

    Args:
        graph: the graph.
        builder: gets the operations.
        memo: values with an axis merged into the one before it.
    """

    graph: Graph
    builder: GraphBuilder
    memo: dict[tuple[int, int], int] = field(default_factory=dict)

    # ---- where it applies

    def members_axis(self, op: Op) -> int | None:
        """The axis of a group's members in the operand of an operation that gains from joining it; None without."""
        if op.opaque or op.effects or not op.operands:
            return None
        type_ = self.graph.types[op.operands[0]]
        if type_.varying or (op.opcode != "reshape" and not splittable(op.opcode, type_.dtype)):
            return None
        axes = [n for n in range(1, type_.rank) if type_.shape[n] > 1 and type_.shape[n - 1] > 1]
        if op.opcode == "reshape":
            found = [n for n in axes if _joined(type_.shape, n) == op.type.shape and self._computed(op.operands[0])]
        else:
            gone = set(op.params["axes"])
            found = [n for n in axes if n in gone and n - 1 not in gone and any(a < n - 1 for a in gone)]
        return next((n for n in found if self._was_joined(op.operands[0], n)), None)

    def _computed(self, value: int) -> bool:
        op = self.graph.producer(value)
        return op is not None and op.opcode in ELEMENTWISE

    def _was_joined(self, value: int, axis: int) -> bool:
        """Whether a value is made, element by element, of one that had the axis in one with the one before it."""
        op = self.graph.producer(value)
        if op is None or op.opaque or op.effects or len(op.results) != 1:
            return False
        shape = self.graph.types[value].shape
        if op.opcode == "reshape":
            return self.graph.types[op.operands[0]].shape == _joined(shape, axis)
        full = [v for v in op.operands if self.graph.types[v].shape == shape]
        return op.opcode in ELEMENTWISE and any(self._was_joined(v, axis) for v in full)

    # ---- rewriting

    def rejoin(self, op: Op, axis: int) -> None:
        """A reshape that joins the axis again: its operand is computed so."""
        joined = self._join(op.operands[0], axis)
        self.builder.append(replace(op, operands=(joined,), params={"new_sizes": op.type.shape}))

    def reduce(self, op: Op, axis: int) -> None:
        """Reduce over the other axes first, then over the members of each group."""
        value, axes = op.operands[0], tuple(op.params["axes"])
        shape = self.graph.types[value].shape
        inner = tuple(a - (a > axis) for a in axes if a != axis)
        (partial,) = self.builder.add(op.opcode, (self._join(value, axis),), {**op.params, "axes": inner})
        kept = tuple(n for a, n in enumerate(shape) if a not in axes or a == axis)
        (cut,) = self.builder.add("reshape", (partial,), {"new_sizes": kept})
        place = axis - sum(a < axis for a in axes)
        self.builder.append(replace(op, operands=(cut,), params={**op.params, "axes": (place,)}))

    def _join(self, value: int, axis: int) -> int:
        """A value with the axis merged into the one before it."""
        key = (value, axis)
        if key not in self.memo:
            self.memo[key] = self._joined_value(value, axis)
        return self.memo[key]

    def _joined_value(self, value: int, axis: int) -> int:
        op, type_ = self.graph.producer(value), self.graph.types[value]
        joined = type_.with_shape(_joined(type_.shape, axis))
        if op is not None and op.opcode == "reshape" and self.graph.types[op.operands[0]].same_data(joined):
            return op.operands[0]
        if op is not None and op.opcode == "broadcast_in_dim":
            return self._spread(op.operands[0], op.params["broadcast_dimensions"], type_.shape, axis)
        if op is None or op.opcode not in ELEMENTWISE or not self._was_joined(value, axis):
            return self._reshape(value, joined.shape)
        operands = [self._operand(v, type_.shape, axis) for v in op.operands]
        return self.builder.add(op.opcode, operands, op.params, [joined])[0]

    def _operand(self, value: int, full: tuple[int, ...], axis: int) -> int:
        """An operand of an elementwise operation on the shape ``full``; axes of size 1 are spread."""
        shape = self.graph.types[value].shape
        if not shape:
            return value
        if shape == full:
            return self._join(value, axis)
        return self._spread(value, tuple(range(len(shape))), full, axis)

    def _spread(self, value: int, places: tuple[int, ...], full: tuple[int, ...], axis: int) -> int:
        """A small value spread over ``full`` with the axis merged: first over the members of groups, then the rest."""
        shape = self.graph.types[value].shape
        wide = [(place, n) for place, n in zip(places, shape, strict=True) if n != 1 or full[place] == 1]
        small = self._reshape(value, tuple(n for _, n in wide))
        axes = [place for place, _ in wide]
        if axis - 1 in axes or axis in axes:
            both = sorted({*axes, axis - 1, axis})
            sizes = tuple(full[a] for a in both)
            if both != axes:
                small = self._broadcast(small, sizes, tuple(both.index(a) for a in axes))
            small = self._reshape(small, _joined(sizes, both.index(axis)))
            axes = [a for a in both if a != axis]
        return self._broadcast(small, _joined(full, axis), tuple(a - (a > axis) for a in axes))

    def _broadcast(self, value: int, shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
        params = {"shape": shape, "broadcast_dimensions": axes}
        return self.builder.add("broadcast_in_dim", (value,), params)[0]

    def _reshape(self, value: int, shape: tuple[int, ...]) -> int:
        if self.builder.types[value].shape == shape:
            return value
        return self.builder.add("reshape", (value,), {"new_sizes": shape})[0]
