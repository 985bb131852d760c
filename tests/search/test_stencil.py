"""The sketch of stencils: what it fits, and that every schedule of it computes what the workload says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.backends.llvm.native import run_plan_native
from tilewright.driver.planning import partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import TensorType
from tilewright.ir.loop import LoopFunc
from tilewright.ir.plan import ExecPlan, Slot, Stage
from tilewright.ir.target import detect_target
from tilewright.ir.verify import verify
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.schedule import replay
from tilewright.search.space import SearchSpace
from tilewright.search.stencil import stencil

TARGET = replace(detect_target(), threads=2)
"""Bands are shared among threads: with more of them, small grids are no stencils."""


def mean(u: Any) -> Any:
    inner = 0.25 * (u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:])
    return u.at[1:-1, 1:-1].set(inner)


def wide(u: Any) -> Any:
    """Neighbours up to three rows away, and a border of that width."""
    return u.at[3:-3, 2:].set(u[:-6, 2:] + u[6:, :-2] * u[3:-3, 1:-1])


def shared(u: Any) -> Any:
    """A costly value that neighbours share."""
    t = jnp.tanh(u)
    return u.at[1:-1, 1:-1].set(t[:-2, 1:-1] + t[2:, 1:-1] + t[1:-1, 1:-1])


def solid(u: Any) -> Any:
    v = u.reshape(6, -1, u.shape[1])
    inner = v[:-2, 1:-1, 1:-1] + v[2:, 1:-1, 1:-1] + v[1:-1, :-2, 1:-1] + v[1:-1, 1:-1, 2:]
    return v.at[1:-1, 1:-1, 1:-1].set(inner)


PROGRAMS: list[Callable[..., Any]] = [
    mean,
    lambda u: mean(mean(u)),
    lambda u: mean(mean(mean(u))),
    wide,
    lambda u: wide(mean(u)),
    shared,
    solid,
    lambda u: u.at[2:].set(u[:-2]),
]


def workload(fn: Callable[..., Any], *shape: int) -> LoopFunc:
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(np.zeros(shape, np.float32))))
    (task,) = partition(graph).tasks.values()
    return task.workload.func


@pytest.mark.parametrize("bits", [256, 512])
@pytest.mark.parametrize("shape", [(48, 70), (60, 131)])
@pytest.mark.parametrize("fn", PROGRAMS)
def test_every_schedule_computes_the_workload(fn: Callable[..., Any], shape: tuple[int, int], bits: int) -> None:
    if TARGET.vector_bits < bits:
        pytest.skip(f"this machine has no {bits}-bit vectors")
    target = TARGET.restricted("avx2") if bits == 256 else TARGET
    func = workload(fn, *shape)
    sketch = stencil(func, target)
    assert sketch is not None
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x[0, 0], x[shape[0] // 2, 5] = np.nan, np.inf
    wanted = np.asarray(jax.jit(fn)(x))
    kinds = TensorType(shape, "float32"), TensorType(wanted.shape, "float32")
    for candidate in list(SearchSpace(func, target, [sketch]).enumerate()):
        scheduled = replay(func, candidate.trace)
        verify(scheduled)
        kernel = compile_kernel(scheduled, target)
        stage = Stage(kernel.symbol, (Slot("input", 0), Slot("output", 0)), kernel.extent, min(kernel.extent, 3))
        (found,) = run_plan_native(
            ExecPlan(kinds[:1], kinds[1:], (), 0, (stage,)), {kernel.symbol: kernel}, [x], threads=2
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=str(candidate.decisions))


@pytest.mark.parametrize(
    "fn",
    [
        lambda u: u * 2 + 1,  # places don't matter
        lambda u: u.at[:, 3].set(0.0).sum(),  # a reduction
        lambda u: jax.nn.softmax(u),
        lambda u: u[0].at[3:].set(1.0),  # a single axis
        lambda u: u[:, :8].at[1:].set(1.0),  # too narrow for vectors
    ],
)
def test_what_is_no_stencil(fn: Callable[..., Any]) -> None:
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(np.zeros((20, 40), np.float32))))
    assert all(stencil(task.workload.func, TARGET) is None for task in partition(graph).tasks.values())


def test_values_that_neighbours_share_are_computed_in_bands() -> None:
    func = workload(lambda u: mean(mean(u)), 400, 900)
    sketch = stencil(func, TARGET)
    assert sketch is not None and sketch.default["rows"] > 2
    scheduled = replay(func, sketch.build(sketch.default))
    assert compile_kernel(scheduled, TARGET).scratch_bytes <= TARGET.l2_bytes
