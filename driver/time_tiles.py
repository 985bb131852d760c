"""Several steps of a stencil in one pass over the grid: time tiling.

A loop whose body computes each point of a large grid from its neighbours moves the whole grid through the caches in
every iteration. With some iterations unrolled in the body, one kernel takes them all, band by band (see
`search/stencil.py`), and the grid moves once for them; rows next to a band's are computed twice for it.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.graph import Graph, GraphBuilder, Op
from ..ir.scan import Scan, scan_of
from ..ir.target import Target
from ..passes.schedule import ScheduleError, replay
from ..search.stencil import stencil
from .planning import partition

STEPS = (4, 2)
"""How many iterations are tried to be taken at once."""


def tile_time(graph: Graph, target: Target) -> Graph:
    """The graph with loops over stencils unrolled where their grids don't fit into the caches of single cores.

    Args:
        graph: an optimised graph.
        target: the CPU.
    """
    if not any(op.body is not None for op in graph.ops):
        return graph
    builder = GraphBuilder(graph)
    for op in graph.ops:
        for new in _tiled(graph, op, target, builder):
            builder.append(new)
    return builder.build(graph.outputs)


def _tiled(graph: Graph, op: Op, target: Target, builder: GraphBuilder) -> list[Op]:
    scan = scan_of(op)
    if scan is None or scan.carries != 1 or scan.xs or scan.ys or not _large(graph, scan, target):
        return [op]
    if not _one_kernel(graph, op, target, banded=False):
        return [op]
    for steps in STEPS:
        times, rest = divmod(scan.length, steps)
        several = replace(op, body=_unrolled(scan, steps), params={**op.params, "length": times})
        if times < 2 or not _one_kernel(graph, several, target, banded=True):
            continue
        if not rest:
            return [several]
        middle = builder.fresh()
        last = replace(op, operands=(*scan.invariants, middle), params={**op.params, "length": rest})
        return [replace(several, results=(middle,)), last]
    return [op]


def _large(graph: Graph, scan: Scan, target: Target) -> bool:
    type_ = graph.types[scan.initial[0]]
    return type_.rank > 1 and 2 * type_.nbytes > target.threads * target.l2_bytes


def _one_kernel(graph: Graph, op: Op, target: Target, banded: bool) -> bool:
    """Whether the body of a loop is a single stencil, of several steps in bands or of one step."""
    inputs = {v: graph.types[v] for v in op.operands if v not in graph.constants}
    parts = partition(Graph(inputs, graph.constants, (op,), op.results))
    (loop,) = parts.loops.values() or (None,)
    if loop is None or len(loop.parts.tasks) != 1 or len(loop.regions) != 1:
        return False
    (task,) = loop.parts.tasks.values()
    sketch = stencil(task.workload.func, target)
    if sketch is None or ("rows" in sketch.default) is not banded:
        return False
    try:
        replay(task.workload.func, sketch.build(sketch.default))
    except ScheduleError:
        return False
    return True


def _unrolled(scan: Scan, steps: int) -> Graph:
    """The body executed several times."""
    builder = GraphBuilder()
    named = {v: builder.input(type_) for v, type_ in scan.body.inputs.items()}
    named.update((v, builder.constant(c.value, c.type)) for v, c in scan.body.constants.items())
    (carry,), (following,) = scan.body_carries, scan.next_carries
    for _ in range(steps):
        env = dict(named)
        for op in scan.body.ops:
            operands = [env[v] for v in op.operands]
            env.update(zip(op.results, builder.add(op.opcode, operands, op.params, op.types), strict=True))
        named[carry] = env[following]
    return builder.build([named[carry]])
