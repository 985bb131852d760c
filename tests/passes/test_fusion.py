"""Regions: a partition into convex sets with one result each, whose workloads together compute what JAX does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_graphs import SUPPORTED, check_regions, random_function, random_graph, run_regions

from tilewright.backends.llvm.vecmath import SUPPORTED as EMITTED
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.passes.fusion import greedy
from tilewright.passes.sink_views import sink_views


def _graph(fn, *shapes) -> Graph:
    return to_graph(jax.make_jaxpr(fn)(*(jnp.zeros(s, jnp.float32) for s in shapes)))


def _opcodes(graph: Graph) -> list[set[str]]:
    return [{graph.ops[m].opcode for m in r.members} for r in greedy(graph, SUPPORTED)]


@pytest.mark.parametrize("seed", range(60))
def test_regions_are_convex_disjoint_and_have_one_result(seed):
    graph = sink_views(random_graph(np.random.default_rng(seed), 25, foreign=0.2))
    regions = greedy(graph, SUPPORTED)
    members = [m for r in regions for m in r.members]
    assert {graph.ops[m].opcode for m in members} & {"sin"} == set()
    check_regions(graph, regions)


def _kinds(fn, *args) -> list[str]:
    with jax.enable_x64(True):
        graph = to_graph(jax.make_jaxpr(fn)(*args))
    return [r.kind for r in greedy(graph, EMITTED)]


def test_element_types_decide_what_a_region_holds():
    x, y = np.ones((4, 4), np.float32), np.ones((4, 4))
    assert _kinds(lambda x: jnp.tanh(x @ x), x) == ["contraction"]
    assert _kinds(lambda x: jnp.tanh(x @ x) * 2, x.astype(jnp.bfloat16)) == ["elementwise"], "the product stays outside"
    assert _kinds(lambda x: (x @ x).astype("float64") * 2, x) == ["contraction", "elementwise"], (
        "vectors would be short"
    )
    assert _kinds(lambda x: (x @ x).astype("int8") * 2, x) == ["contraction"]
    assert _kinds(lambda y: jnp.tanh(y * 2) - y, y) == ["elementwise"]
    assert _kinds(lambda y: jnp.fmod(y * 2, y + 1) - y, y).count("elementwise") == 3, "float64 has no remainder"


@pytest.mark.parametrize("seed", range(12))
def test_workloads_of_regions_compute_what_jax_does(seed):
    rng = np.random.default_rng(seed)
    fn = random_function(rng, 12, 0.15)
    args = [rng.standard_normal((6, 8)).astype(np.float32) for _ in range(2)]
    graph = sink_views(to_graph(jax.make_jaxpr(fn)(*args)))
    known = run_regions(graph, greedy(graph, SUPPORTED), args)
    for value, want in zip(graph.outputs, jax.tree.leaves(jax.jit(fn)(*args)), strict=True):
        np.testing.assert_allclose(known[value], want, rtol=1e-4, atol=1e-4)


# ---- what joins what


def test_bias_and_activation_join_the_contraction():
    graph = _graph(lambda x, w, b: jnp.tanh(x @ w + b), (4, 5), (5, 6), (6,))
    assert _opcodes(graph) == [{"dot_general", "broadcast_in_dim", "add", "tanh"}]


def test_softmax_is_one_region():
    graph = _graph(lambda x: jnp.exp(x - x.max(-1, keepdims=True)) * 2, (4, 9))
    (region,) = greedy(graph, SUPPORTED)
    assert region.kind == "rows"
    assert (region.full, region.kept) == ((4, 9), (0,))


def test_a_result_that_two_read_ends_its_region():
    graph = _graph(lambda x, w: (lambda y: (jnp.tanh(y), y.sum(0)))(x @ w), (4, 5), (5, 6))
    assert {"dot_general"} in _opcodes(graph)


def test_two_contractions_stay_apart():
    graph = _graph(lambda x, w, v: (x @ w) @ v, (4, 5), (5, 6), (6, 3))
    assert _opcodes(graph) == [{"dot_general"}, {"dot_general"}]


def test_unsupported_functions_and_element_types_stay_outside():
    assert _opcodes(_graph(lambda x: jnp.sin(x), (4,))) == []
    graph = to_graph(jax.make_jaxpr(lambda x: x + x)(jnp.zeros(4, jnp.float16)))
    assert _opcodes(graph) == []


def test_empty_arrays_stay_outside():
    assert _opcodes(_graph(lambda x: x + x, (0, 4))) == []


def test_every_reader_of_a_view_gets_its_own():
    graph = _graph(lambda x: (lambda t: (t + 1, t * 2))(x.T), (3, 4))
    sunk = sink_views(graph)
    assert sum(op.opcode == "transpose" for op in sunk.ops) == 2
    assert all(len(sunk.users[op.result]) == 1 for op in sunk.ops if op.opcode == "transpose")


def test_an_operation_with_several_results_lies_between_regions():
    def fn(x):
        values, _ = jax.lax.top_k(jnp.tanh(x), 3)
        return jnp.exp(values) + values

    graph = sink_views(to_graph(jax.make_jaxpr(fn)(np.zeros((4, 9), np.float32))))
    assert _opcodes(graph) == [{"tanh"}, {"exp", "add"}]


def test_operations_with_several_results_or_none_are_kept():
    def program(x):
        jax.debug.callback(lambda: None)
        left, right = jnp.split(x.T, 2)
        values, places = jax.lax.top_k(left, 2)
        return values + 1, places, right * 2, left.sum()

    graph = _graph(program, (3, 8))
    several = [op.opcode for op in graph.ops if len(op.results) != 1]
    assert set(several) >= {"split", "top_k"} and len(several) == 3
    assert [op.opcode for op in sink_views(graph).ops if len(op.results) != 1] == several
