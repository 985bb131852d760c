"""What several readers compute for themselves: where, and that it is the same."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from tilewright.backends.xla import emit
from tilewright.driver.planning import partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.ir.graph_text import verify
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.recompute import recompute


def optimized(fn, *args) -> Graph:
    return PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))


def batch_norm(x, scale):
    mean = x.mean(axis=(0, 1))
    variance = jnp.mean(jnp.square(x - mean), axis=(0, 1))
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6) * scale, mean, variance


def layer_norm(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6) * scale


def after_product(x, scale):
    y = x @ jnp.ones((24, 24)) + scale
    return jnp.sin(y) + y.sum(axis=(0, 1))


def one_reader(x, scale):
    return jnp.sin(x - x.mean(axis=(0, 1))) * scale


def result(x, scale):
    centred = x - scale
    return centred, centred.sum(axis=(0, 1)), jnp.sin(centred)


X = np.random.default_rng(0).normal(size=(6, 9, 24)).astype(np.float32) * 1e-2 + 100
SCALE = np.linspace(-1, 1, 24, dtype=np.float32)


def test_batch_norm_stores_no_differences():
    graph = optimized(batch_norm, X, SCALE)
    copied = recompute(graph)
    verify(copied)
    assert Counter(op.opcode for op in copied.ops)["sub"] == Counter(op.opcode for op in graph.ops)["sub"] + 1
    parts = partition(graph)
    stored = [parts.graph.ops[r.members[-1]].opcode for r, key in parts.regions if key]
    assert "sub" not in stored
    got = jax.jit(jaxpr_as_fun(emit(copied)))(X, SCALE)
    for ours, theirs in zip(got, jax.jit(batch_norm)(X, SCALE), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fn", [layer_norm, after_product, one_reader, result], ids=lambda f: f.__name__)
def test_what_costs_more_is_left_alone(fn):
    graph = optimized(fn, X, SCALE)
    assert recompute(graph) is graph


@pytest.mark.parametrize("shape", [(0, 9, 24), (1, 1, 24), (6, 9, 1), (5, 0, 1)])
def test_odd_shapes(shape):
    x, scale = np.ones(shape, np.float32), np.ones(shape[-1], np.float32)
    graph = recompute(optimized(batch_norm, x, scale))
    verify(graph)
    for ours, theirs in zip(jax.jit(jaxpr_as_fun(emit(graph)))(x, scale), jax.jit(batch_norm)(x, scale), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_special_values():
    x = X.copy()
    x[0, 0, :6] = np.inf, -np.inf, np.nan, -0.0, 3e38, -3e38
    graph = recompute(optimized(batch_norm, x, SCALE))
    for ours, theirs in zip(jax.jit(jaxpr_as_fun(emit(graph)))(x, SCALE), jax.jit(batch_norm)(x, SCALE), strict=True):
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
