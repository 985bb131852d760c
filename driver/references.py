"""Reference data for regions: random arguments, results in float64, and the error that `jax.jit` itself makes.

Arguments are normal numbers. Where those leave the domain of a function (a logarithm), what it is computed from is
drawn between 0 and 1.

All regions of a function go through XLA in one program per precision, since compiling dozens of small ones takes
seconds. Constants become arguments, or XLA would fold them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from ..backends.xla import emit
from ..ir import dtypes
from ..ir.graph import Constant, Graph, Op
from ..passes.promote import promote

_PARTIAL = frozenset("log log1p sqrt rsqrt pow asin acos acosh atanh erf_inv lgamma digamma".split())
"""Functions that are NaN for some numbers."""
_EXTREMES = frozenset("reduce_max reduce_min argmax argmin reduce_window_max reduce_window_min".split())
"""What is NaN or not of elements of which some are, as XLA happens to cut its loops."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What a region has to compute.

    Args:
        arguments: by graph value, inputs and constants.
        outputs: by graph value, in float64 where they are floating point numbers, else what `jax.jit` gives.
        tolerances: by graph value, the largest error that the accuracy contract allows.
    """

    arguments: dict[int, np.ndarray]
    outputs: dict[int, np.ndarray]
    tolerances: dict[int, float]


def tolerance(exact: np.ndarray, baseline: np.ndarray, dtype: str) -> float:
    """Largest absolute error allowed: twice the baseline's and 16 units in the last place of the largest value."""
    if not dtypes.is_float(dtype) or exact.size == 0:
        return 0.0
    finite = np.isfinite(exact) & np.isfinite(baseline)
    if not finite.any():
        return 0.0
    epsilon = float(jax.numpy.finfo(dtype).eps)
    error = largest_error(baseline, exact, finite)
    return 2.0 * error + 16.0 * epsilon * float(np.max(np.abs(exact), where=finite, initial=0.0))


def largest_error(found: np.ndarray, exact: np.ndarray, where: np.ndarray) -> float:
    """Largest absolute difference where a mask says that both are finite."""
    with np.errstate(invalid="ignore"):  # infinities may stand elsewhere
        return float(np.max(np.abs(found - exact), where=where, initial=0.0))


def references(regions: Sequence[Graph], seed: int) -> list[Reference]:
    """Reference data of regions.

    Args:
        regions: graphs of transparent operations.
        seed: of the random inputs.
    """
    rng = np.random.default_rng(seed)
    found = _computed(regions, [_arguments(region, rng, frozenset()) for region in regions])
    undefined = [n for n, (_, count) in enumerate(found) if count]
    again = [regions[n] for n in undefined]
    named = [_under_partial(region) or region.inputs.keys() for region in again]
    others = _computed(again, [_arguments(r, rng, between) for r, between in zip(again, named, strict=True)])
    for number, other in zip(undefined, others, strict=True):
        found[number] = min(found[number], other, key=lambda item: item[1])
    return [reference for reference, _ in found]


def _computed(regions: Sequence[Graph], arguments: list[dict[int, np.ndarray]]) -> list[tuple[Reference, int]]:
    """Reference data for arguments, and how many elements are NaN of results and of what extremes are taken of."""
    opened = [_constants_as_inputs(g) for g in regions]
    operands = [[a[v] for v in graph.inputs] for graph, a in zip(opened, arguments, strict=True)]
    with jax.enable_x64(any(_has_64_bits(g) for g in opened)):
        baseline = run_graphs(opened, operands)
    with jax.enable_x64(True):
        exact = run_graphs([promote(g) for g in opened], operands)
        counts = _undefined(opened, operands, exact)
    made = [_reference(*item) for item in zip(regions, arguments, exact, baseline, strict=True)]
    return list(zip(made, counts, strict=True))


def _undefined(graphs: list[Graph], operands: list[list[np.ndarray]], exact: list[list[np.ndarray]]) -> list[int]:
    """For each graph, how many elements of its results are NaN, and of what extremes are taken of behind functions."""
    counts = [sum(int(np.isnan(x).sum()) for x in xs if x.dtype.kind == "f") for xs in exact]
    behind = {n: found for n, graph in enumerate(graphs) if (found := _extremes_behind_functions(graph))}
    watched = [promote(replace(graphs[n], outputs=found)) for n, found in behind.items()]
    for n, xs in zip(behind, run_graphs(watched, [operands[n] for n in behind], _count_nan), strict=True):
        counts[n] += sum(int(x) for x in xs)
    return counts


def _extremes_behind_functions(graph: Graph) -> tuple[int, ...]:
    """What extremes are taken of, where it depends on a function that may be NaN."""
    extremes = [op for op in graph.ops if op.opcode in _EXTREMES]
    return tuple(op.operands[0] for op in extremes if any(o.opcode in _PARTIAL for o in _behind(graph, op)))


def _behind(graph: Graph, op: Op) -> list[Op]:
    """All operations that an operation's operands are computed by."""
    found: dict[int, Op] = {}
    pending = [graph.producer(v) for v in op.operands]
    while pending:
        producer = pending.pop()
        if producer is not None and producer.result not in found:
            found[producer.result] = producer
            pending += [graph.producer(v) for v in producer.operands]
    return list(found.values())


def _reference(
    region: Graph, arguments: dict[int, np.ndarray], exact: list[np.ndarray], baseline: list[np.ndarray]
) -> Reference:
    results = list(zip(region.outputs, exact, baseline, strict=True))
    types = {v: region.types[v].dtype for v in region.outputs}
    outputs = {v: wide if dtypes.is_float(types[v]) else usual for v, wide, usual in results}
    return Reference(arguments, outputs, {v: tolerance(wide, usual, types[v]) for v, wide, usual in results})


def _has_64_bits(graph: Graph) -> bool:
    """Whether JAX computes the graph's types only where it is told to keep 64 bits."""
    return any(t.dtype in ("int64", "uint64", "float64") for t in graph.types.values())


def _constants_as_inputs(graph: Graph) -> Graph:
    moved = {v: c.type for v, c in graph.constants.items() if c.type.size != 1}
    kept: dict[int, Constant] = {v: c for v, c in graph.constants.items() if v not in moved}
    return Graph({**graph.inputs, **moved}, kept, graph.ops, graph.outputs)


def _arguments(graph: Graph, rng: np.random.Generator, between: Collection[int]) -> dict[int, np.ndarray]:
    """Random arguments, floating point numbers between 0 and 1 for the inputs that are named."""
    given = {
        value: (_fractions if value in between else random_array)(type_.shape, type_.dtype, rng)
        for value, type_ in graph.inputs.items()
    }
    given.update((v, np.asarray(c.value)) for v, c in graph.constants.items() if c.type.size != 1)
    return given


def _under_partial(graph: Graph) -> set[int]:
    """Inputs that functions depend on which are NaN for some numbers."""
    found: set[int] = set()
    for op in graph.ops:
        if op.opcode in _PARTIAL:
            found |= {v for behind in (op, *_behind(graph, op)) for v in behind.operands if v in graph.inputs}
    return found


def random_array(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> np.ndarray:
    """Normal numbers, small non-negative integers, or booleans."""
    if dtype == dtypes.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtypes.is_integer(dtype):
        return rng.integers(0, 8, shape).astype(dtype)
    return rng.standard_normal(shape, np.float32).astype(dtypes.to_numpy(dtype))


def _fractions(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> np.ndarray:
    """Like `random_array`, but floating point numbers lie between 0 and 1."""
    if not dtypes.is_float(dtype):
        return random_array(shape, dtype, rng)
    return rng.uniform(0.02, 0.98, shape).astype(dtypes.to_numpy(dtype))


def _count_nan(x: jax.Array) -> jax.Array:
    return jax.numpy.isnan(x).sum()


def run_graphs(
    graphs: Sequence[Graph], operands: list[list[np.ndarray]], finish: Callable[[jax.Array], jax.Array] | None = None
) -> list[list[np.ndarray]]:
    """Results of graphs, all compiled by XLA as one program.

    Args:
        graphs: the graphs.
        operands: arguments of each.
        finish: what to return instead of each result.
    """
    functions = [jaxpr_as_fun(emit(g)) for g in graphs]

    def run(all_operands: list[list[jax.Array]]) -> list[list[jax.Array]]:
        found = [list(f(*xs)) for f, xs in zip(functions, all_operands, strict=True)]
        return found if finish is None else [[finish(x) for x in xs] for xs in found]

    results = jax.jit(run)(operands) if graphs else []
    return [[np.asarray(x) for x in xs] for xs in results]
