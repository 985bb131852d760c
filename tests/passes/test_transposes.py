"""Transpositions move behind pooling, where they meet those that undo them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxpr_as_fun
from workloads import graph_of

from tilewright.backends.xla import emit
from tilewright.ir.graph_text import verify

X = np.random.default_rng(0).integers(-9, 10, (3, 7, 8)).astype(np.float32)  # sums of integers don't round
X[1, 2, 3], X[2, 0, 0] = np.nan, -np.inf


def pool(x: Any, op: Any = lax.max, start: float = -np.inf) -> Any:
    """Pooling pixel by pixel, with another setting on every axis."""
    return lax.reduce_window(
        x, start, op, (1, 3, 2, 2), (1, 2, 1, 1), ((0, 0), (1, 2), (0, 1), (0, 0)), None, (1, 1, 2, 1)
    )


def pixelwise(x: Any, op: Any = lax.max, start: float = -np.inf) -> Any:
    return pool(x.transpose(1, 2, 0)[None], op, start)[0].transpose(2, 0, 1)


CASES: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "there and back": (pixelwise, ["broadcast_in_dim", "reduce_window_max", "squeeze"]),
    "sum": (lambda x: pixelwise(x, lax.add, 0.0), ["broadcast_in_dim", "reduce_window_sum", "squeeze"]),
    "minimum": (lambda x: pixelwise(x, lax.min, np.inf), ["broadcast_in_dim", "reduce_window_min", "squeeze"]),
    "only there": (
        lambda x: pool(x.transpose(2, 0, 1)[None]),
        ["broadcast_in_dim", "reduce_window_max", "transpose"],
    ),
    "axes on both sides": (
        lambda x: lax.squeeze(lax.expand_dims(x.transpose(2, 1, 0), (0, 2, 4)), (0, 4)) + 1,
        ["broadcast_in_dim", "squeeze", "transpose", "add"],
    ),
    "more than axes of one": (lambda x: jnp.broadcast_to(x.T, (2, 8, 7, 3)), ["transpose", "broadcast_in_dim"]),
}


@pytest.mark.parametrize("name", CASES)
def test_transpositions_move_back(name: str) -> None:
    fn, opcodes = CASES[name]
    graph = graph_of(fn, (X,))
    verify(graph)
    assert [op.opcode for op in graph.ops] == opcodes
    (got,) = jax.jit(jaxpr_as_fun(emit(graph)))(X)
    np.testing.assert_array_equal(got, jax.jit(fn)(X))


A, B = (np.random.default_rng(n).integers(-3, 4, (2, 5, 3, 4)).astype(np.float32) for n in range(2))
PRODUCTS: dict[str, tuple[Callable[[Any, Any], Any], list[str]]] = {
    "swapped": (lambda a, b: (a[0, 0] @ b[0, 0].T).T, ["dot_general"]),
    "swapped with a batch": (lambda a, b: jnp.einsum("ijkl,ijml->ijmk", a[:, :, :2], b), ["dot_general"]),
    "swapped but for a unit axis": (
        lambda a, b: lax.transpose(lax.dot_general(a[:1], b[0], (((1, 3), (0, 2)), ((), ()))), (2, 1, 0)),
        ["dot_general", "reshape"],
    ),
    "batch moved as well": (
        lambda a, b: jnp.einsum("ijkl,ijml->ijkm", a, b).transpose(1, 0, 3, 2),
        ["dot_general", "transpose"],
    ),
    "read twice": (
        lambda a, b: (p := a[0, 0] @ b[0, 0].T).T + p,
        ["dot_general", "transpose", "add"],
    ),
    "only unit axes moved": (
        lambda a, b: lax.transpose(lax.dot_general(a[:1], b[0], (((1, 3), (0, 2)), ((), ()))), (1, 0, 2)),
        ["dot_general", "transpose"],
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_take_their_operands_in_the_order_of_the_result(name: str) -> None:
    fn, opcodes = PRODUCTS[name]
    graph = graph_of(fn, (A, B))
    verify(graph)
    assert [op.opcode for op in graph.ops if op.opcode not in ("slice", "squeeze")][-len(opcodes) :] == opcodes
    (got,) = jax.jit(jaxpr_as_fun(emit(graph)))(A, B)
    np.testing.assert_array_equal(got, jax.jit(fn)(A, B))


def test_precision_stays_with_its_operand() -> None:
    precision = (lax.Precision.HIGHEST, lax.Precision.DEFAULT)
    graph = graph_of(lambda a, b: lax.dot(a[0, 0], b[0, 0].T, precision=precision).T, (A, B))
    (product,) = (op for op in graph.ops if op.opcode == "dot_general")
    assert "HIGHEST" in str(product.params["precision"]).split(",")[1]


def test_a_product_that_is_returned_as_well_is_computed_once() -> None:
    graph = graph_of(lambda a, b: (p := a[0, 0] @ b[0, 0].T, p.T), (A, B))
    assert [op.opcode for op in graph.ops][-2:] == ["dot_general", "transpose"]
    assert sum(op.opcode == "dot_general" for op in graph.ops) == 1
