"""Views, concatenations and what is made of indices are copied to each of their readers, whose regions absorb them."""

from __future__ import annotations

import itertools
from dataclasses import replace

from ..ir.graph import Graph, Op
from ..ir.graph_edit import remove_dead
from ..ir.infer import ELEMENTWISE
from .closed_form import of_indices
from .lower import ALIASES, IDENTITIES, VIEWS
from .lower_moves import MAX_PARTS


def sink_views(graph: Graph) -> Graph:
    """Give every reader of a broadcast, transposition, slice or padding a copy of its own, for its region to absorb.

    The same for concatenations, where the reader takes them element by element: it then reads the parts. What is
    computed from indices alone is copied together with all that it is computed from.
    """
    ops: list[Op] = []
    cloned: dict[int, Op] = {}
    parts: dict[int, int] = {}
    formed = of_indices(graph)
    fresh = itertools.count(graph.fresh())

    def copied(value: int) -> int:
        source, name = cloned[value], next(fresh)
        inner = tuple(copied(v) if v in parts or (v in formed and v in cloned) else v for v in source.operands)
        ops.append(replace(source, operands=inner, results=(name,)))
        return name

    for op in graph.ops:
        if len(op.results) == 1 and op.result in formed:
            ops.append(op)
            cloned[op.result] = op
            continue
        shape = {v: graph.types[v].shape for v in op.operands}
        taken = [v in cloned and (v not in parts or _takes_elements(op, shape[v])) for v in op.operands]
        new = replace(op, operands=tuple(copied(v) if t else v for v, t in zip(op.operands, taken, strict=True)))
        ops.append(new)
        if len(op.results) != 1 or len(graph.users[op.result]) <= 1:
            continue
        if op.opcode in VIEWS - ALIASES:
            cloned[op.result] = new
        elif op.opcode == "concatenate" and sum(parts.get(v, 1) for v in op.operands) <= MAX_PARTS:
            cloned[op.result], parts[op.result] = op, sum(parts.get(v, 1) for v in op.operands)
    return remove_dead(graph.with_ops(ops))


def _takes_elements(op: Op, shape: tuple[int, ...]) -> bool:
    """Whether each element of an operand of that shape is read once, for one element of the result."""
    same = not op.opaque and len(op.results) == 1 and op.type.shape == shape
    return op.opcode == "concatenate" or (same and op.opcode in ELEMENTWISE | IDENTITIES)
