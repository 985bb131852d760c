"""Whole plans whose stages write over what they read for the last time, with any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from handwritten import increment, negative, rotate, rotated
from random_graphs import random_function
from saved_functions import compiled, normal

import tilewright as tw
from tilewright.backends.llvm.kernel import Kernel
from tilewright.backends.llvm.native import run_plan_native
from tilewright.driver.assembly import NativePlan, assemble
from tilewright.driver.gate import runnable
from tilewright.driver.kernels import build_all
from tilewright.driver.pipeline import host
from tilewright.driver.planning import Choice, Partition, partition
from tilewright.driver.predictions import Predictions
from tilewright.driver.program import KernelCall, Place, Program
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph, TensorType
from tilewright.ir.plan import ExecPlan
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES

W = normal(48, 48) * 0.1


def cut_up(fn: Callable[..., Any], *args: Any) -> Partition:
    return partition(PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args))))


def assembled(parts: Partition, in_place: bool = True) -> tuple[Graph, list[NativePlan]]:
    """A partition's program, every region by a kernel."""
    target = replace(host(), threads=2)
    predictions = Predictions(target)
    built = build_all([(t.key, t.workload.func, predictions.traces(t)[0]) for t in parts.tasks.values()], target)
    kernels = {key: (trace, kernel) for (key, trace), kernel in built.items() if not isinstance(kernel, Exception)}
    choices = {k: Choice(t, b if in_place else replace(b, in_place=())) for k, (t, b) in kernels.items()}
    return assemble(parts, choices, target)


def in_place_stages(plan: ExecPlan) -> int:
    return sum(stage.args[-1] in stage.args[:-1] for stage in plan.stages)


def lodgers(plan: ExecPlan) -> int:
    """How many stages write into a part of a result."""
    return sum(stage.args[-1].kind == "output" and stage.args[-1].window is not None for stage in plan.stages)


def layers(x: Any) -> Any:
    """Products with residuals, and rows that are normalised."""
    for n in range(4):
        y = jnp.tanh(x @ (W + n)) @ W + x
        x = (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-3)
    return x @ W, x


def test_layers_run_in_place():
    x = normal(37, 48)
    parts = cut_up(layers, x)
    (graph, (native,)), (_, (apart,)) = assembled(parts), assembled(parts, in_place=False)
    assert in_place_stages(native.plan) >= 4 and not in_place_stages(apart.plan)
    assert native.plan.arena_bytes < apart.plan.arena_bytes
    for found, expected in zip(runnable(graph)(x), layers(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    expected = run_plan_native(apart.plan, apart.kernels, [x])
    for threads in (1, 2, 4):
        for a, b in zip(run_plan_native(native.plan, native.kernels, [x], threads), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_intermediates_live_in_results():
    """What is computed on the way to a large result fits into its memory."""

    def fn(x: Any) -> Any:
        y = x
        for _ in range(3):
            y = jnp.tanh(y @ W) @ W
        return y @ W, jax.nn.softmax(y @ normal(48, 300))

    x = normal(37, 48)
    graph, (native,) = assembled(cut_up(fn, x))
    assert lodgers(native.plan) > 0
    for found, expected in zip(runnable(graph)(x), jax.jit(fn)(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    expected = run_plan_native(native.plan, native.kernels, [x])
    for threads in (2, 4):
        for a, b in zip(run_plan_native(native.plan, native.kernels, [x], threads), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_random_graphs_compute_the_same_in_place():
    count = lodging = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        fn = random_function(rng, 24, 0.1)
        x, y = (rng.standard_normal((6, 8)).astype(np.float32) for _ in range(2))
        parts = cut_up(fn, x, y)
        (graph, natives), (_, apart) = assembled(parts), assembled(parts, in_place=False)
        for found, expected in zip(runnable(graph)(x, y), jax.jit(fn)(x, y), strict=True):
            np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
        for one, other in zip(natives, apart, strict=True):
            arrays = [rng.standard_normal(t.shape).astype(t.dtype) for t in one.plan.inputs]
            expected = run_plan_native(other.plan, other.kernels, arrays)
            count += in_place_stages(one.plan)
            lodging += lodgers(one.plan)
            for threads in (1, 2, 4):
                for a, b in zip(run_plan_native(one.plan, one.kernels, arrays, threads), expected, strict=True):
                    np.testing.assert_array_equal(a, b)
    assert count > 10 and lodging > 10


def test_equal_programs_give_equal_plans():
    digests = {assembled(cut_up(layers, normal(37, 48)))[1][0].plan.digest for _ in range(2)}
    assert len(digests) == 1


def test_what_a_value_is_read_for_later_is_not_written_over():
    def fn(x: Any) -> Any:
        y = jnp.tanh(x @ W) @ W
        return (y + x) @ W + jnp.exp(y) @ W

    x = normal(37, 48)
    graph, _ = assembled(cut_up(fn, x))
    np.testing.assert_allclose(runnable(graph)(x)[0], fn(x), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("sign", [-1, 1])
def test_what_another_stage_may_write_first_is_not_written_over(sign):
    """One of two stages writes a value, as a condition says; only the later one could do so in place."""
    test, turn, more = negative(37), rotate(37), increment(37)
    names = ("x", "below", "base", "chosen", "y")
    x, below, base, chosen, y = range(5)
    program = Program((x,), (y,), {}, {v: 1 if name == "below" else 4 * 37 for v, name in enumerate(names)})

    def call(kernel: Kernel, source: int, result: int, condition: tuple[int, bool] | None = None) -> KernelCall:
        return KernelCall(kernel, (Place(source), Place(result)), 1, condition)

    program.calls = [
        call(test, x, below),
        call(more, x, base),
        call(turn, base, chosen, (below, True)),
        call(more, base, chosen, (below, False)),
        call(more, chosen, y),
    ]
    arena, stages = program.layout()
    plan = ExecPlan((TensorType((37,), "float32"),), (TensorType((37,), "float32"),), (), arena, stages)
    values = np.full(37, sign, np.float32) * np.arange(1, 38, dtype=np.float32)
    (found,) = run_plan_native(plan, {k.symbol: k for k in (test, turn, more)}, [values])
    np.testing.assert_array_equal(found, (rotated(values + 1, 1) if sign < 0 else values + 2) + 1)


def test_an_in_place_plan_is_saved_as_it_is(tmp_path):
    x = normal(640, 48)
    fast = compiled(layers)
    expected = [np.asarray(y) for y in fast(x)]
    assert fast.report().mode == "native"
    loaded = tw.load(fast.save(tmp_path / "layers.tw", x))
    assert loaded.status.startswith("native")
    for a, b in zip(loaded(x), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)
