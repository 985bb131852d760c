"""Differences and products with what is the same along some axes are computed by each reader instead of being stored.

Batch norm in training reads ``x - mean`` twice: for the variance, and once that is known. Both readers may as well read
x, which is in memory anyway, and subtract. Nothing more is read then, and nothing is written.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from ..ir.graph import Graph, Op
from ..ir.graph_edit import remove_dead

_CHEAP = frozenset(("add", "sub", "mul"))


def recompute(graph: Graph) -> Graph:
    """Give every reader of such a difference or product a copy of its own."""
    fresh = itertools.count(graph.fresh())
    copied: dict[int, Op] = {}
    ops: list[Op] = []
    for op in graph.ops:
        own = {value: next(fresh) for value in dict.fromkeys(op.operands) if value in copied}
        ops += [replace(copied[value], results=(name,)) for value, name in own.items()]
        ops.append(replace(op, operands=tuple(own.get(value, value) for value in op.operands)))
        if _is_recomputed(graph, op):
            copied[op.result] = op
    return remove_dead(graph.with_ops(ops)) if copied else graph


def _is_recomputed(graph: Graph, op: Op) -> bool:
    """Whether an operation with several readers takes one large value, stored for others too, and a spread one."""
    if op.opcode not in _CHEAP or op.opaque or op.result in graph.outputs or len(graph.users[op.result]) < 2:
        return False
    for large, spread in (op.operands, op.operands[::-1]):
        stored = large in graph.inputs or len(graph.users[large]) > 1
        same = graph.types[large].same_data(op.type) and op.type.rank > 1
        if stored and same and _is_spread(graph, spread):
            return True
    return False


def _is_spread(graph: Graph, value: int) -> bool:
    """Whether a value holds a number for each place along the last axis alone, like a statistic of each channel."""
    op, shape = graph.producer(value), graph.types[value].shape
    if op is not None and op.opcode == "broadcast_in_dim" and len(shape) - 1 in op.params["broadcast_dimensions"]:
        shape = graph.types[op.operands[0]].shape
    return bool(shape) and shape[-1] > 1 and math.prod(shape) == shape[-1]
