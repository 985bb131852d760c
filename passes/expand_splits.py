"""Operations with several results that are several operations with one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from ..ir.graph import Graph, Op


@dataclass(frozen=True, slots=True)
class ExpandSplits:
    """Makes a slice of each part of a `split`, which is what XLA does, too: slices become index expressions."""

    name: str = "expand-splits"

    def __call__(self, graph: Graph) -> Graph:
        """The rewritten graph."""
        if not any(op.opcode == "split" for op in graph.ops):
            return graph
        ops = (new for op in graph.ops for new in (_slices(graph, op) if op.opcode == "split" else [op]))
        return graph.with_ops(ops)


def _slices(graph: Graph, op: Op) -> list[Op]:
    shape, axis = graph.types[op.operands[0]].shape, op.params["axis"]
    ends = list(accumulate(op.params["sizes"]))
    slices: list[Op] = []
    for result, type_, end, size in zip(op.results, op.types, ends, op.params["sizes"], strict=True):
        starts = tuple(end - size if n == axis else 0 for n in range(len(shape)))
        limits = tuple(end if n == axis else extent for n, extent in enumerate(shape))
        params = {"start_indices": starts, "limit_indices": limits, "strides": None}
        slices.append(Op("slice", op.operands, (result,), (type_,), params))
    return slices
