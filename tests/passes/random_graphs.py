"""Random graphs of the operations that kernels are made for, some of them foreign; helpers that tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph

SUPPORTED = dict.fromkeys(
    ("add", "mul", "sub", "max", "neg", "tanh", "exp", "select_n", "gt", "convert_element_type"), ("float32", "bool")
)
"""Elementwise functions that count as native, with their element types; ``sin`` stands for what does not."""
_ROWS, _COLUMNS = 6, 8


def random_function(rng: np.random.Generator, steps: int, foreign: float) -> Callable[..., Any]:
    """A function of two matrices that applies random operations to random earlier results, and returns a few."""
    plan = [(int(rng.integers(0, 11)), rng.random() < foreign, rng.random(2)) for _ in range(steps)]
    returned = rng.random(3)

    def fn(x: Any, y: Any) -> tuple[Any, ...]:
        found = [x, y]
        for kind, is_foreign, picks in plan:
            a, b = (found[int(p * len(found))] for p in picks)
            found.append(jnp.sin(a) if is_foreign else _apply(kind, a, b))
        tail = found[2:]
        return (tail[-1], *(tail[int(p * len(tail))] for p in returned))

    return fn


def _apply(kind: int, a: Any, b: Any) -> Any:
    match kind:
        case 0 | 1:
            return a + b
        case 2:
            return a * 0.5
        case 3:
            return jnp.tanh(a)
        case 4:
            return a - a.max(-1, keepdims=True)
        case 5:
            return a + b.sum(0)
        case 6:
            return jnp.tanh((a @ b.T) @ b * 0.1)
        case 7:
            return jnp.where(a > b, a, -b)
        case 8:
            return a.T.reshape(_ROWS, _COLUMNS)
        case 9:
            return jax.nn.softmax(a)
        case _:
            return lax.pad(a, 0.0, ((1, -1, 0), (0, 0, 0)))


def random_graph(rng: np.random.Generator, steps: int, foreign: float) -> Graph:
    """The graph of a random function."""
    shape = jax.ShapeDtypeStruct((_ROWS, _COLUMNS), jnp.float32)
    return to_graph(jax.make_jaxpr(random_function(rng, steps, foreign))(shape, shape))


def depends(graph: Graph) -> list[set[int]]:
    """For each operation, all operations that it depends on."""
    reached: list[set[int]] = []
    for op in graph.ops:
        direct = {graph.producers[v] for v in op.operands if v in graph.producers}
        reached.append(direct.union(*(reached[p] for p in direct)))
    return reached
