"""Products that sum nothing: they become multiplications, with the same bits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxpr_as_fun
from workloads import graph_of

import tilewright
from tilewright.backends.xla import emit
from tilewright.ir.graph_text import verify

# shapes of the operands, their batch axes
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "vectors": ((5,), (7,), (), ()),
    "a number": ((), (7,), (), ()),
    "numbers": ((), (), (), ()),
    "matrices": ((3, 4), (5, 2), (), ()),
    "batch in front": ((3, 4), (3, 5), (0,), (0,)),
    "batch behind": ((4, 3), (5, 3), (1,), (1,)),
    "batch axes in another order": ((2, 4, 3), (3, 2, 5), (2, 0), (0, 1)),
    "batch axes in between": ((4, 2, 6), (5, 2, 7), (1,), (1,)),
    "nothing but batch": ((2, 3), (3, 2), (0, 1), (1, 0)),
    "one element": ((1, 1), (1, 1), (0,), (1,)),
    "no element": ((3, 0), (3, 5), (0,), (0,)),
}


def numbers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    special = np.array([-0.0, np.inf, np.nan, 0.0], np.float32)[: array.size]
    if array.ndim:
        array.reshape(-1)[: len(special)] = special
    return array


def outer(case: str) -> Any:
    _, _, left, right = CASES[case]
    return lambda x, y: lax.dot_general(x, y, (((), ()), (left, right)))


@pytest.mark.parametrize("case", CASES)
def test_same_bits(case: str) -> None:
    left, right, *_ = CASES[case]
    x, y = numbers(0, left), numbers(1, right)
    graph = graph_of(outer(case), (x, y))
    verify(graph)
    assert "dot_general" not in [op.opcode for op in graph.ops]
    (got,) = jax.jit(jaxpr_as_fun(emit(graph)))(x, y)
    wanted = jax.jit(outer(case))(x, y)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(wanted))


TYPES = ["int8 int32", "int8 int8", "int32 int32", "bfloat16 float32", "bfloat16 bfloat16", "float16 float16"]


@pytest.mark.parametrize("types", [*TYPES, "float64 float64", "complex64 complex64"])
def test_element_types(types: str) -> None:
    given, wanted = types.split()
    with jax.enable_x64(given == "float64"):
        x, y = ((10 * numbers(s, (3, 9))).astype(np.float32) for s in range(2))
        x, y = (np.nan_to_num(a, nan=3.0, posinf=7.0).astype(given) for a in (x, y))

        def product(x: Any, y: Any) -> Any:
            return lax.dot_general(x, y, (((), ()), ((0,), (0,))), preferred_element_type=wanted)

        graph = graph_of(product, (x, y))
        assert "dot_general" not in [op.opcode for op in graph.ops]
        (got,) = jax.jit(jaxpr_as_fun(emit(graph)))(x, y)
        assert got.dtype == wanted
        np.testing.assert_array_equal(got, jax.jit(product)(x, y))


@pytest.mark.parametrize("types", ["float32 float16", "float32 bfloat16", "float32 int32", "int8 float32"])
def test_products_that_are_rounded_afterwards_stay(types: str) -> None:
    given, wanted = types.split()
    x, y = np.array([100, 3], given), np.array([100, 0, 7], given)

    def product(x: Any, y: Any) -> Any:
        return lax.dot_general(x, y, (((), ()), ((), ())), preferred_element_type=wanted)

    assert [op.opcode for op in graph_of(product, (x, y)).ops] == ["dot_general"]


def test_products_of_truths_stay() -> None:
    x, y = np.array([True, False]), np.array([False, True, True])
    graph = graph_of(lambda x, y: lax.dot_general(x, y, (((), ()), ((), ()))), (x, y))
    assert [op.opcode for op in graph.ops] == ["dot_general"]


def test_products_with_a_sum_stay() -> None:
    x, y = numbers(0, (3, 4)), numbers(1, (4, 5))
    assert [op.opcode for op in graph_of(jnp.matmul, (x, y)).ops] == ["dot_general"]


def test_a_form_of_three_operands() -> None:
    rng = np.random.default_rng(3)
    x, w, y = (rng.standard_normal(s).astype(np.float32) for s in [(33, 20), (20, 17, 9), (33, 17)])

    def form(x: Any, w: Any, y: Any) -> Any:
        return jnp.einsum("bi,ijk,bj->bk", x, w, y)

    fast = tilewright.compile(form, effort=0, database=":memory:")
    np.testing.assert_allclose(fast(x, w, y), jax.jit(form)(x, w, y), rtol=1e-4, atol=1e-4)
