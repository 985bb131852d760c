"""Constants that are functions of their indices, and masks made of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tilewright.driver.planning import partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.affine import var
from tilewright.ir.loop import Const, IndexValue
from tilewright.passes.closed_form import closed_form, has_closed_form
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES

ROW, COLUMN = var("i"), var("j")
GROWING = np.arange(4, dtype=np.int32)[:, None] * 3 - np.arange(5, dtype=np.int32) + 7


def test_integers_that_grow_evenly_are_index_values():
    found = closed_form(GROWING, "int32", (ROW, COLUMN))
    assert isinstance(found, IndexValue)
    assert found.expr == 3 * ROW - COLUMN + 7


@pytest.mark.parametrize(
    ("array", "dtype", "value"),
    [
        (np.full((2, 3), -np.inf, np.float32), "float32", -np.inf),
        (np.zeros((2, 3), bool), "bool", False),
        (np.full((2, 1), 5, np.int32), "int32", 5),
    ],
)
def test_equal_elements_are_a_number(array, dtype, value):
    found = closed_form(array, dtype, (ROW, COLUMN))
    assert isinstance(found, Const)
    assert found.value == value


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([[0.0, -0.0]], np.float32), "float32"),
        (np.arange(6, dtype=np.float32).reshape(2, 3), "float32"),
        (np.where(GROWING == 7, 8, GROWING).astype(np.int32), "int32"),
        (np.tri(3, dtype=bool), "bool"),
        (np.zeros((0, 3), np.int32), "int32"),
    ],
)
def test_other_constants_have_none(array, dtype):
    assert closed_form(array, dtype, (ROW, COLUMN)) is None


@pytest.mark.parametrize("values", [[2**63, 2**63 + 1], [2**64 - 1, 0], [2**62, 2**62 + 1]])
def test_integers_too_large_for_an_index_stay_an_array(values):
    assert not has_closed_form(np.array(values, np.uint64), "uint64")


def test_a_mask_of_indices_is_computed_by_each_of_its_readers():
    def fn(x, y):
        mask = jnp.tril(jnp.ones((64, 64), bool))
        return jnp.where(mask, x, 0.0).sum(-1), jnp.where(mask, y, -1.0) * 2

    args = (np.ones((64, 64), np.float32), np.ones((64, 64), np.float32))
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))
    tasks = partition(graph).tasks.values()
    assert len(tasks) == 2
    assert all(len(t.workload.inputs) == 1 and not t.workload.constants for t in tasks)


def test_a_mask_that_is_a_result_is_left_to_xla():
    fn = lambda: jnp.tril(jnp.ones((64, 64), bool))  # noqa: E731
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)()))
    assert not partition(graph).regions
