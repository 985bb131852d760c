"""Random rows: decided by their name, of every family, of measurable size, and computed as their counts say."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from tilewright.bench.cases import find_workload, load_case, row_names
from tilewright.bench.child import Child
from tilewright.bench.messages import Prepare, Prepared
from tilewright.bench.workloads.draws import draw_name, drawn_workload
from tilewright.bench.workloads.jax_functions import JAX_FUNCTIONS

DRAWS = [drawn_workload(name) for name in row_names("random", seed=3, draws=160)]


def test_name_decides_a_draw() -> None:
    assert drawn_workload(draw_name(3, 17)) == DRAWS[17]
    assert drawn_workload(draw_name(4, 17)) != DRAWS[17]
    assert DRAWS[17].name == "draw-3-017"


def test_draws_take_turns_through_the_families_and_differ() -> None:
    assert [row.family for row in DRAWS[:4]] == ["contraction", "convolution", "reduction", "memory"]
    assert all(a.family == b.family for a, b in zip(DRAWS, DRAWS[4:], strict=False))
    assert len({row.detail for row in DRAWS}) > 150
    expressions = {row.expression for row in DRAWS}
    assert len(expressions) > 20 and expressions <= set(JAX_FUNCTIONS)


def test_sizes_are_odd_and_even_and_options_vary() -> None:
    sizes = [extent for row in DRAWS for array in row.inputs for extent in array.shape]
    assert 0.2 < np.mean([size % 2 for size in sizes if size > 1]) < 0.8
    convolutions = [row for row in DRAWS if row.expression == "conv"]
    assert {row.parameters["stride"] for row in convolutions} == {1, 2}
    assert len({len(row.inputs[0].shape) for row in convolutions}) == 3
    assert {row.parameters["groups"] == 1 for row in convolutions} == {True, False}


def test_work_is_within_what_can_be_measured() -> None:
    for row in DRAWS:
        assert row.bytes < 192 * 2**20 and row.flops <= 3e9, row.detail
        assert row.bytes > 100_000 or row.flops > 1e6, row.detail


@pytest.mark.parametrize("row", DRAWS[:60], ids=lambda row: row.detail)
def test_results_are_what_jax_makes_of_it(row) -> None:
    weights = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in row.weights.items()}
    args = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in row.inputs]

    def applied(weights, *args):
        return JAX_FUNCTIONS[row.expression](weights, *args, **row.parameters)

    found = jax.tree.leaves(jax.eval_shape(applied, weights, *args))
    assert [(f.shape, f.dtype.name) for f in found] == [(a.shape, a.dtype) for a in row.outputs]


def test_draw_is_a_row() -> None:
    name = draw_name(0, 5)
    case = load_case("random", name)
    assert case.workload == find_workload("random", name) == drawn_workload(name)
    child = Child(case, seed=0, pool=1)
    assert isinstance(child.answer(Prepare(side="jit", accuracy_inputs=1)), Prepared)


@pytest.mark.parametrize("name", ["draw-1", "draw--1-002", "draw-0-2-3", "softmax", "draw-0-002 ", f"draw-{10**9}-1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a draw like draw-0-007"):
        load_case("random", name)
