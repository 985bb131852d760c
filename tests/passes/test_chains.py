"""Runs of convolutions that could be one kernel: which are found, and that their region computes what JAX does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from random_graphs import SUPPORTED, check_regions, run_regions

from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph_text import canonical
from tilewright.passes.chains import chains
from tilewright.passes.fusion import greedy
from tilewright.passes.graph_choices import graph_choices
from tilewright.passes.graph_trace import Grouping, apply_graph_step
from tilewright.passes.sink_views import sink_views


def conv(x, shape, groups=1, strides=1):
    w = np.random.default_rng(len(shape)).integers(-2, 3, shape).astype(np.float32)
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, w, (strides, strides), "SAME", dimension_numbers=dims, feature_group_count=groups
    )


def inverted_residual(x, narrow=4):
    y = jnp.maximum(conv(x, (1, 1, 4, 8)), 0)
    y = jnp.maximum(conv(y, (3, 3, 1, 8), groups=8), 0)
    y = conv(y, (1, 1, 8, narrow))
    return y + x if narrow == 4 else y


def grouped(fn) -> Grouping:
    graph = canonical(sink_views(to_graph(jax.make_jaxpr(fn)(jnp.zeros((1, 6, 7, 4))))))
    return Grouping(graph, greedy(graph, SUPPORTED))


def lengths(fn) -> list[int]:
    return sorted(len(run) for run in chains(grouped(fn)))


@pytest.mark.parametrize(
    ("fn", "found"),
    [
        (lambda x: conv(x, (3, 3, 4, 4)), []),
        (inverted_residual, [2, 2, 3]),
        (lambda x: inverted_residual(inverted_residual(x)), [2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4]),
        (lambda x: conv(conv(x, (1, 1, 4, 8)).sum((1, 2), keepdims=True), (1, 1, 8, 4)), []),
    ],
)
def test_which_runs_are_found(fn, found):
    assert lengths(fn) == found


@pytest.mark.parametrize("fn", [inverted_residual, lambda x: inverted_residual(x, 5)])
def test_a_chain_as_one_region_computes_what_jax_does(fn):
    start = grouped(fn)
    steps = [step for step in graph_choices(start, "group") if len(step.args) == 2]
    assert len(steps) == 1
    after = apply_graph_step(start, steps[0])
    assert len(after.regions) == 1
    x = np.random.default_rng(0).integers(-3, 4, (1, 6, 7, 4)).astype(np.float32)
    check_regions(after.graph, after.regions)
    found = run_regions(after.graph, after.regions, [x])[after.graph.outputs[0]]
    np.testing.assert_array_equal(found, jax.jit(fn)(x))
