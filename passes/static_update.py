"""Updates of a window that is known: `x.at[1:-1, 1:-1].set(v)` and its like, however they were written.

They become `dynamic_update_slice` with constant start indices, which has loops (`lower_moves.py`) and which XLA
computes in place where it can.
"""

from __future__ import annotations

import numpy as np

from ..ir.graph import Op
from .manager import Rewriter

UPDATE = "dynamic_update_slice"


def scatter_of_window(op: Op, r: Rewriter) -> int | None:
    """A scatter of one window at a known place inside the operand is an update."""
    x, indices, updates = op.operands
    window, inserted, axes, batching, index_batching = op.params["dimension_numbers"]
    at = r.graph.constant(indices)
    shape, given = r.graph.types[x].shape, r.graph.types[updates]
    if op.params["update_jaxpr"] is not None or batching or index_batching or at is None or at.shape != (len(axes),):
        return None
    if window != tuple(range(given.rank)):
        return None
    starts = [0] * len(shape)
    for axis, start in zip(axes, at.tolist(), strict=True):
        starts[axis] = start
    sizes = iter(given.shape)
    block = tuple(1 if axis in inserted else next(sizes) for axis in range(len(shape)))
    if any(not 0 <= start <= n - size for start, size, n in zip(starts, block, shape, strict=True)):
        return None
    whole = updates if given.shape == block else r.add1("reshape", updates, new_sizes=block)
    places = [r.builder.constant(np.asarray(start, np.int32)) for start in starts]
    return r.builder.add(UPDATE, (x, whole, *places), {}, [op.type])[0]


def update_of_everything(op: Op, r: Rewriter) -> int | None:
    """An update of the whole operand is what is written."""
    old, new = (r.graph.types[value] for value in op.operands[:2])
    return op.operands[1] if old.same_data(new) and new.varying == op.type.varying else None
