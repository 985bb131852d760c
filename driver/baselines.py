"""How long XLA's own code takes for regions, in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import jax
import numpy as np

from ..backends.xla import PLAN
from ..ir import dtypes
from ..ir.graph import Graph
from .gate import runnable
from .planning import Task
from .references import random_array

_REPEATS = 5


def region_seconds(tasks: Sequence[Task], seed: int) -> dict[str, float]:
    """Median seconds of each task's region as a jitted function of its own, by key."""
    return {t.key: graph_seconds(t.region, seed) for t in tasks}


def graph_seconds(graph: Graph, seed: int) -> float:
    """Median seconds of a pure graph under `jax.jit`, on random arguments; less than 20 us is not resolved."""
    rng = np.random.default_rng(seed)
    arguments = [jax.device_put(random_array(t.shape, t.dtype, rng)) for t in graph.inputs.values()]
    run = runnable(graph)
    jax.block_until_ready(run(*arguments))
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - start)
    return median(times)


def rest_seconds(graph: Graph, seed: int) -> float | None:
    """Seconds of what native calls left to XLA; None if it can't run by itself (effects, keys, collectives)."""
    left = tuple(op for op in graph.ops if op.opcode != PLAN)
    if not left:
        return 0.0
    if any(op.effects or op.opaque for op in left):
        return None
    calls = [op for op in graph.ops if op.opcode == PLAN]
    given = {v: t for op in calls for v, t in zip(op.results, op.types, strict=True)}
    inputs = {**graph.inputs, **given}
    if not all(dtypes.is_known(t.dtype) for t in inputs.values()):
        return None
    read = {v for op in calls for v in op.operands}
    made = {v for op in left for v in op.results}
    outputs = tuple(v for v in dict.fromkeys([*graph.outputs, *sorted(read)]) if v in made)
    return graph_seconds(Graph(inputs, graph.constants, left, outputs), seed)
