"""Random graphs of the operations that kernels are made for, some of them foreign; helpers that tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.ir.graph_edit import region_boundary, subgraph
from tilewright.ir.interp import interpret
from tilewright.passes.lower import LoweringError, lower
from tilewright.passes.numpy_eval import evaluate
from tilewright.passes.regions import Region

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


def check_regions(graph: Graph, regions: Sequence[Region]) -> None:
    """Regions share nothing, are convex and have one result each."""
    members = [m for r in regions for m in r.members]
    assert len(members) == len(set(members))
    reached = depends(graph)
    for region in regions:
        inside = set(region.members)
        assert list(region.members) == sorted(inside)
        _, results = region_boundary(graph, region.members)
        assert len(results) == 1
        for between in set(range(len(graph.ops))) - inside:
            assert not (reached[between] & inside and any(between in reached[m] for m in inside))


def run_regions(graph: Graph, regions: Sequence[Region], args: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Values of a graph, those of regions as their workloads compute them."""
    ends = {r.members[-1]: r for r in regions}
    inside = {m for r in regions for m in r.members}
    known = dict(zip(graph.inputs, args, strict=True))
    known.update((v, np.asarray(c.value)) for v, c in graph.constants.items())
    pending = [index for index in range(len(graph.ops)) if index in ends or index not in inside]
    while pending:
        for index in pending:
            region = ends.get(index)
            needed = region_boundary(graph, region.members)[0] if region else graph.ops[index].operands
            if all(v in known for v in needed):
                known.update(_region(graph, region.members, known) if region else _foreign(graph, index, known))
                pending.remove(index)
                break
        else:
            raise AssertionError("regions wait for each other")
    return known


def _region(graph: Graph, members: tuple[int, ...], known: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    try:
        work = lower(subgraph(graph, members))
    except LoweringError:
        found: dict[int, np.ndarray] = dict(known)
        for member in members:
            found.update(_foreign(graph, member, found))
        return found
    values = (*work.inputs, *work.constants)
    arrays = [np.array(known[v].reshape(b.shape)) for v, b in zip(values, work.func.inputs, strict=True)]
    outputs = interpret(work.func, arrays)
    return {v: o.reshape(graph.types[v].shape) for v, o in zip(work.outputs, outputs, strict=True)}


def _foreign(graph: Graph, index: int, known: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    op = graph.ops[index]
    operands = [known[v] for v in op.operands]
    if op.opcode in ("sin", "tanh", "exp"):
        return {op.result: getattr(np, op.opcode)(*operands)}
    found = evaluate(op, operands)
    assert found is not None, op.opcode
    return {op.result: found}
