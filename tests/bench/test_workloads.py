"""The kernel suite's rows: counts against independent computations, and every function against float64."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest
from tiny_rows import TINY

from tilewright.bench.cases import load_case, row_names, workload_case
from tilewright.bench.child import Child
from tilewright.bench.counts import product_flops, tree_bytes
from tilewright.bench.messages import Describe, Description, Prepare, Prepared, Time, Timed
from tilewright.bench.workloads import counting
from tilewright.bench.workloads.base import Array, Workload, chain
from tilewright.bench.workloads.jax_functions import JAX_FUNCTIONS
from tilewright.bench.workloads.kernels import KERNELS


def shapes(workload: Workload) -> tuple[dict[str, jax.ShapeDtypeStruct], list[jax.ShapeDtypeStruct]]:
    def struct(array: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype)

    return {name: struct(array) for name, array in workload.weights.items()}, [struct(a) for a in workload.inputs]


def applied(workload: Workload):
    return lambda weights, *args: JAX_FUNCTIONS[workload.expression](weights, *args, **workload.parameters)


def _kinds(number: int) -> set[str]:
    """Functions of the rows in front of this one."""
    return {row.expression for row in list(TINY.values())[:number]}


def test_every_row_has_a_tiny_form_here() -> None:
    assert list(TINY) == list(KERNELS) == list(row_names("kernels"))
    for name, row in KERNELS.items():
        assert (TINY[name].expression, TINY[name].family) == (row.expression, row.family)
    assert {row.expression for row in KERNELS.values()} == set(JAX_FUNCTIONS)


@pytest.mark.parametrize("name", KERNELS)
def test_results_and_traffic_are_what_jax_makes_of_it(name: str) -> None:
    for workload in (KERNELS[name], TINY[name]):
        weights, args = shapes(workload)
        found = jax.tree.leaves(jax.eval_shape(applied(workload), weights, *args))
        assert [(f.shape, f.dtype.name) for f in found] == [(a.shape, a.dtype) for a in workload.outputs]
        assert workload.bytes == tree_bytes((weights, args, found))


@pytest.mark.parametrize("name", [n for n, row in KERNELS.items() if row.family in ("contraction", "convolution")])
def test_products_dominate_the_operations_of_contractions_and_convolutions(name: str) -> None:
    workload = KERNELS[name]
    weights, args = shapes(workload)
    counted = product_flops(jax.make_jaxpr(applied(workload))(weights, *args).jaxpr)
    if workload.expression == "pool":
        assert counted == 0
        return
    exact = name.startswith(("matmul", "gemv", "skinny", "conv-", "depthwise"))
    assert counted == workload.flops if exact else counted < workload.flops < 1.15 * counted


@pytest.mark.parametrize("name", ["matmul-512", "skinny", "gelu", "layernorm", "softmax", "mlp-block", "attention"])
def test_counts_agree_with_xla(name: str) -> None:
    """XLA counts what it compiled: some operations are folded, and its windows stop at the border."""
    workload = TINY[name]
    weights, args = shapes(workload)
    analysis = jax.jit(applied(workload)).lower(weights, *args).compile().cost_analysis()
    # XLA counts exponentials and the like apart from other operations.
    counted = analysis["flops"] + analysis.get("transcendentals", 0.0)
    assert workload.flops == pytest.approx(counted, rel=0.35)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_causal_pairs_are_counted_one_by_one(length: int) -> None:
    assert counting.causal_pairs(length) == sum(1 for q in range(length) for k in range(length) if k <= q)


def test_loops_count_as_often_as_they_run() -> None:
    def three(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda _, y: y @ y, x)

    assert product_flops(jax.make_jaxpr(three)(np.zeros((4, 4), np.float32)).jaxpr) == 3 * counting.matmul(4, 4, 4)


def test_products_in_an_endless_loop_are_refused() -> None:
    def doubling(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda y: y.sum() < 10, lambda y: y @ y, x)

    with pytest.raises(NotImplementedError, match="loops of known length"):
        product_flops(jax.make_jaxpr(doubling)(np.zeros((4, 4), np.float32)).jaxpr)


_FIRST_OF_ITS_KIND = {name for number, name in enumerate(TINY) if TINY[name].expression not in _kinds(number)}


@pytest.mark.parametrize("name", TINY)
def test_row_keeps_the_contract_through_jit_and_compile(name: str, request: pytest.FixtureRequest) -> None:
    if name not in _FIRST_OF_ITS_KIND and not request.config.getoption("--full"):
        pytest.skip("another row runs the same function; --full runs all")
    child = Child(workload_case(TINY[name]), seed=0, pool=2)
    usual = child.answer(Prepare(side="jit", accuracy_inputs=2))
    ours = child.answer(Prepare(side="effort 0", effort=0, database=":memory:", accuracy_inputs=2))
    assert isinstance(usual, Prepared) and isinstance(ours, Prepared)
    forms = 1 if TINY[name].calls == 1 else 2
    assert len(ours.errors) == 2 * forms * len(TINY[name].outputs)
    assert all(error.holds and math.isfinite(error.scale) for error in (*usual.errors, *ours.errors))
    assert max(error.scale for error in ours.errors) > 0
    timed = child.answer(Time(side="effort 0", round=1))
    assert isinstance(timed, Timed) and timed.milliseconds > 0


def test_weights_depend_on_name_and_seed_alone() -> None:
    workload = TINY["mlp-block"]
    first, again, other = workload.draw_weights(0), workload.draw_weights(0), workload.draw_weights(1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_chain_calls_on_its_own_result() -> None:
    assert chain(lambda x, y: x * y, 3)(2, 5) == 250
    function = abs
    assert chain(function, 1) is function


def test_chain_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a result like the first argument"):
        dataclasses.replace(TINY["matmul-512"], calls=2)


def test_unknown_row_is_refused() -> None:
    with pytest.raises(
        ValueError, match="expected a row of the kernel suite, found 'matmul-513': there are matmul-512"
    ):
        load_case("kernels", "matmul-513")


def test_description_is_of_one_call() -> None:
    found = Child(workload_case(TINY["depthwise-3x3"]), 0, 1).answer(Describe())
    assert found == Description(flops=2 * 6 * 6 * 5 * 9, bytes=4 * (2 * 6 * 6 * 5 + 45), dtype="float32")
