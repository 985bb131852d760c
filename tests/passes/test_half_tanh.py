"""Tangents between 0 and 1 as logistic functions: where the rule applies, and what comes out."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from tilewright.backends.xla import emit
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES

INF, NAN = float("inf"), float("nan")
SPECIAL = [0.0, -0.0, 1e-30, -1e-30, 1e20, -1e20, 3e38, -3e38, INF, -INF, NAN]


def gate_last(x):
    return x * (0.5 * (1.0 + jnp.tanh(0.8 * (x + 0.04 * x**3))))


def half_first(x):
    return 0.5 * x * (jnp.tanh(0.8 * x) + 1.0)


def any_factor(x):
    return (1 + jnp.tanh(x)) * 3


def optimized(fn, x) -> Graph:
    return PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(x)))


def run(graph: Graph, *args):
    return jax.jit(jaxpr_as_fun(emit(graph)))(*args)[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fn", [gate_last, half_first, any_factor], ids=lambda f: f.__name__)
def test_a_gate_is_a_logistic_function(fn, dtype):
    numbers = np.random.default_rng(0).normal(size=(7, 33)) * 3
    numbers[0, : len(SPECIAL)] = SPECIAL
    x = jnp.asarray(numbers, dtype)
    graph = optimized(fn, x)
    counts = Counter(op.opcode for op in graph.ops)
    assert counts["logistic"] == 1 and counts["tanh"] == 0
    got, want = (np.asarray(y, np.float64) for y in (run(graph, x), jax.jit(fn)(x)))
    unit = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(got, want, rtol=20 * unit, atol=20 * unit)


def test_half_of_it_costs_no_operation():
    graph = optimized(gate_last, jnp.ones((3, 4)))
    assert Counter(op.opcode for op in graph.ops)["mul"] == 3


def test_small_results_are_more_accurate_than_the_sum():
    x = jnp.asarray([-3.0, -4.0, -5.0], jnp.float32)
    exact = np.asarray(x, np.float64)
    exact = exact * (0.5 * (1.0 + np.tanh(0.8 * (exact + 0.04 * exact**3))))
    np.testing.assert_allclose(run(optimized(gate_last, x), x), exact, rtol=1e-3)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: 1.5 + jnp.tanh(x),
        lambda x: 1.0 - jnp.tanh(x),
        lambda x: (1.0 + jnp.tanh(x)) * jnp.tanh(x),  # computed once
        lambda x: jnp.tanh(x) + x,
        lambda x: jnp.tanh(x) * 0.5,
        lambda x: 1.0 + jnp.tanh(x * 2e38),
        lambda x: 1.0 + jnp.tanh(x.astype(jnp.float16)),
    ],
)
def test_other_tangents_stay(fn):
    graph = optimized(fn, jnp.ones((3, 4)))
    assert not any(op.opcode == "logistic" for op in graph.ops)
    np.testing.assert_array_equal(run(graph, jnp.ones((3, 4))), jax.jit(fn)(jnp.ones((3, 4))))
