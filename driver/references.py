"""Reference data for regions: random arguments, results in float64, and the error that `jax.jit` itself makes.

Arguments are normal numbers, or where those leave the domain of a function (a logarithm), numbers between 0 and 1.

All regions of a function go through XLA in one program per precision, since compiling dozens of small ones takes
seconds. Constants become arguments, or XLA would fold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from ..backends.xla import emit
from ..ir import dtypes
from ..ir.graph import Constant, Graph
from ..passes.promote import promote

Draw = Callable[[tuple[int, ...], str, np.random.Generator], np.ndarray]
_PARTIAL = frozenset("log log1p sqrt rsqrt pow asin acos acosh atanh erf_inv lgamma digamma".split())
_EXTREMES = frozenset("reduce_max reduce_min argmax argmin reduce_window_max reduce_window_min".split())


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
    found = _computed(regions, [_arguments(region, rng, random_array) for region in regions])
    undefined = [n for n, (_, count) in enumerate(found) if count]
    again = [regions[n] for n in undefined]
    others = _computed(again, [_arguments(region, rng, _fractions) for region in again]) if again else []
    for number, other in zip(undefined, others, strict=True):
        found[number] = min(found[number], other, key=lambda item: item[1])
    return [reference for reference, _ in found]


def _computed(regions: Sequence[Graph], arguments: list[dict[int, np.ndarray]]) -> list[tuple[Reference, int]]:
    """Reference data for arguments, and how many elements of what `_watched` names are NaN."""
    opened = [_constants_as_inputs(g) for g in regions]
    operands = [[a[v] for v in graph.inputs] for graph, a in zip(opened, arguments, strict=True)]
    with jax.enable_x64(any(_has_64_bits(g) for g in opened)):
        baseline = run_graphs(opened, operands)
    with jax.enable_x64(True):
        exact = run_graphs([promote(_watched(g)) for g in opened], operands)
    counts = [sum(int(np.isnan(x).sum()) for x in xs if x.dtype.kind == "f") for xs in exact]
    made = [_reference(*item) for item in zip(regions, arguments, exact, baseline, strict=True)]
    return list(zip(made, counts, strict=True))


def _watched(region: Graph) -> Graph:
    """A region that also returns what its extremes are taken of, where functions may leave their domain before.

    An extreme of elements of which some are NaN is NaN or not, as XLA happens to cut its loops.
    """
    if not any(op.opcode in _PARTIAL for op in region.ops):
        return region
    return replace(region, outputs=(*region.outputs, *(op.operands[0] for op in region.ops if op.opcode in _EXTREMES)))


def _reference(
    region: Graph, arguments: dict[int, np.ndarray], exact: list[np.ndarray], baseline: list[np.ndarray]
) -> Reference:
    exact = exact[: len(region.outputs)]
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


def _arguments(graph: Graph, rng: np.random.Generator, draw: Draw) -> dict[int, np.ndarray]:
    given = {value: draw(type_.shape, type_.dtype, rng) for value, type_ in graph.inputs.items()}
    given.update((v, np.asarray(c.value)) for v, c in graph.constants.items() if c.type.size != 1)
    return given


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


def run_graphs(graphs: Sequence[Graph], operands: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Results of graphs, all compiled by XLA as one program.

    Args:
        graphs: the graphs.
        operands: arguments of each.
    """
    functions = [jaxpr_as_fun(emit(g)) for g in graphs]

    def run(all_operands: list[list[jax.Array]]) -> list[list[jax.Array]]:
        return [list(f(*xs)) for f, xs in zip(functions, all_operands, strict=True)]

    results = jax.jit(run)(operands)
    return [[np.asarray(x) for x in xs] for xs in results]
