"""Functions of one region as tuning tasks, for comparing search strategies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..backends.llvm.vecmath import SUPPORTED
from ..driver.kernels import BACKEND
from ..driver.references import references
from ..frontends.jaxpr import to_graph
from ..ir.graph_edit import subgraph
from ..ir.measure import MeasureData, TaskKey
from ..ir.target import Target
from ..ir.text import digest, print_ir
from ..passes.fusion import greedy
from ..passes.lower import Workload, lower
from ..passes.manager import PassManager
from ..passes.pipeline import GRAPH_PASSES
from ..passes.schedule import SCHEDULE_VERSION
from ..passes.sink_views import sink_views
from ..search.contest import TuneTask


@dataclass(frozen=True, slots=True)
class Case:
    """A function of one region.

    Args:
        fn: takes the arguments, then the constants.
        args: shapes of the arguments.
        constants: shapes of the constants.
    """

    fn: Callable[..., jax.Array]
    args: tuple[tuple[int, ...], ...]
    constants: tuple[tuple[int, ...], ...] = ()


def _conv(stride: int = 1, groups: int = 1) -> Callable[..., jax.Array]:
    def run(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=layout, feature_group_count=groups
        )
        return jax.nn.relu(y + b)

    return run


def _layer_norm(x: jax.Array, gain: jax.Array, bias: jax.Array) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6) * gain + bias


CASES: dict[str, Case] = {
    "conv3x3": Case(_conv(), ((1, 28, 28, 64),), ((3, 3, 64, 64), (64,))),
    "conv3x3-deep": Case(_conv(), ((1, 7, 7, 256),), ((3, 3, 256, 256), (256,))),
    "conv3x3-first": Case(_conv(2), ((1, 224, 224, 3),), ((3, 3, 3, 32), (32,))),
    "conv5x5": Case(_conv(), ((1, 14, 14, 48),), ((5, 5, 48, 64), (64,))),
    "conv1x1-narrow": Case(_conv(), ((1, 112, 112, 16),), ((1, 1, 16, 96), (96,))),
    "conv1x1-small": Case(_conv(), ((1, 7, 7, 576),), ((1, 1, 576, 160), (160,))),
    "conv1x1-deep": Case(_conv(), ((1, 14, 14, 384),), ((1, 1, 384, 96), (96,))),
    "conv1x1-wide": Case(_conv(), ((1, 28, 28, 32),), ((1, 1, 32, 192), (192,))),
    "depthwise": Case(_conv(1, 384), ((1, 14, 14, 384),), ((3, 3, 1, 384), (384,))),
    "depthwise-strided": Case(_conv(2, 144), ((1, 56, 56, 144),), ((3, 3, 1, 144), (144,))),
    "dense-gelu": Case(lambda x, w, b: jax.nn.gelu(x @ w + b), ((128, 256),), ((256, 512), (512,))),
    "dense-tall": Case(lambda x, w: x @ w, ((2048, 64),), ((64, 256),)),
    "dense-skinny": Case(lambda x, w: x @ w, ((8, 1024),), ((1024, 1024),)),
    "batched-product": Case(lambda a, b: jnp.einsum("bqd,bkd->bqk", a, b), ((4, 256, 64), (4, 256, 64))),
    "layer-norm": Case(_layer_norm, ((1024, 96),), ((96,), (96,))),
    "softmax": Case(lambda x: jax.nn.softmax(x), ((512, 512),)),
}


def make_task(case: Case, target: Target, seed: int = 0) -> TuneTask:
    """The tuning task of a function of one region.

    Raises:
        ValueError: the function is not one region.
    """
    rng = np.random.default_rng(seed)
    args = [jax.ShapeDtypeStruct(shape, np.float32) for shape in case.args]
    constants = [jnp.asarray(rng.standard_normal(shape), np.float32) for shape in case.constants]
    closed = jax.make_jaxpr(lambda *operands: case.fn(*operands, *constants))(*args)
    graph = sink_views(PassManager(GRAPH_PASSES).run(to_graph(closed)))
    regions = [r for r in greedy(graph, SUPPORTED) if r.kind not in ("alias", "view")]
    if len(regions) != 1:
        raise ValueError(f"expected one region, found {len(regions)}")
    region = subgraph(graph, regions[0].members)
    workload = lower(region, regions[0].kind)
    (known,) = references([region], seed)
    data = measure_data(workload, known.arguments, known.outputs, known.tolerances)
    func = workload.func
    key = TaskKey(digest(func), print_ir(func), target.fingerprint, BACKEND, SCHEDULE_VERSION, target.threads)
    return TuneTask(key, func, target, 1.0, data)


def measure_data(
    workload: Workload,
    arguments: dict[int, np.ndarray],
    outputs: dict[int, np.ndarray],
    tolerances: dict[int, float],
) -> MeasureData:
    """What the runner needs, from arrays by graph value."""
    func = workload.func
    values = (*workload.inputs, *workload.constants)
    pairs = zip(values, func.inputs, strict=True)
    inputs = tuple(np.ascontiguousarray(arguments[v], buffer.dtype).reshape(buffer.shape) for v, buffer in pairs)
    results = zip(workload.outputs, func.outputs, strict=True)
    expected = tuple(np.ascontiguousarray(outputs[v], buffer.dtype).reshape(buffer.shape) for v, buffer in results)
    constants = frozenset(range(len(workload.inputs), len(values)))
    return MeasureData(inputs, expected, tuple(tolerances[v] for v in workload.outputs), constants)
