"""Axes of size 1 that are dropped before products and added behind them."""

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

import tilewright
from tilewright.backends.xla import emit
from tilewright.driver.planning import partition
from tilewright.ir.graph_text import verify


def integers(seed: int, *shape: int) -> np.ndarray:
    """Numbers of which sums of products don't round."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def dropped(x: Any, y: Any) -> Any:
    return lax.dot_general(x[0, :, 0], y[:, :, 0, 0], (((1,), (1,)), ((), ())))


# function, shapes of its arguments, operations that are left
CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], list[str]]] = {
    "matmul": (jnp.matmul, [(1, 5, 3, 4), (1, 5, 4, 6)], ["dot_general"]),
    "matmul, one axis": (jnp.matmul, [(1, 3, 4), (1, 4, 6)], ["dot_general"]),
    "second axis": (jnp.matmul, [(5, 1, 3, 4), (5, 1, 4, 6)], ["dot_general", "reshape"]),
    "two axes": (jnp.matmul, [(1, 1, 3, 4), (1, 1, 4, 6)], ["dot_general"]),
    "transposed": (
        lambda x, y: x @ y.swapaxes(-1, -2),
        [(1, 5, 3, 4), (1, 5, 6, 4)],
        ["transpose", "dot_general"],
    ),
    "both transposed": (
        lambda x, y: x.swapaxes(-1, -2) @ y.transpose(0, 2, 3, 1),
        [(1, 5, 4, 3), (1, 6, 5, 4)],
        ["transpose", "transpose", "dot_general"],
    ),
    "transposed afterwards": (
        lambda x, y: (x[0].transpose(1, 0, 2) @ y[0].transpose(2, 1, 0))[None],
        [(1, 3, 2, 4), (1, 6, 4, 2)],
        ["transpose", "transpose", "dot_general"],
    ),
    "not added again": (dropped, [(1, 3, 1, 4), (6, 4, 1, 1)], ["squeeze", "squeeze", "dot_general"]),
    "of another size": (jnp.matmul, [(1, 5, 3, 4), (2, 1, 4, 6)], ["squeeze", "squeeze", "dot_general", "transpose"]),
    "one operand": (lambda x, y: x[0] @ y, [(1, 3, 4), (4, 6)], ["squeeze", "dot_general"]),
    "added elsewhere": (lambda x, y: (x @ y)[0][:, None], [(1, 3, 4), (1, 4, 6)], ["dot_general", "reshape"]),
    "different numbers of axes": (
        lambda x, y: lax.dot_general(x[0], y[0, 0], (((1,), (0,)), ((), ())))[None],
        [(1, 3, 4), (1, 1, 4, 6)],
        ["squeeze", "squeeze", "dot_general", "broadcast_in_dim"],
    ),
    "with itself": (lambda x, y: x @ x + y, [(1, 4, 4), (1, 4, 4)], ["dot_general", "add"]),
    "stretched": (
        lambda x, y: jnp.broadcast_to((x @ y)[0], (2, 3, 6)),
        [(1, 3, 4), (1, 4, 6)],
        ["squeeze", "squeeze", "dot_general", "broadcast_in_dim"],
    ),
    "nothing in it": (jnp.matmul, [(1, 5, 0, 4), (1, 5, 4, 6)], ["dot_general"]),
    "nothing to add up": (jnp.matmul, [(1, 5, 3, 0), (1, 5, 0, 6)], ["dot_general"]),
}


@pytest.mark.parametrize("name", CASES)
def test_values_stay(name: str) -> None:
    fn, shapes, opcodes = CASES[name]
    arrays = tuple(integers(seed, *shape) for seed, shape in enumerate(shapes))
    if all(array.size for array in arrays):
        arrays[0].flat[1], arrays[1].flat[2] = np.nan, np.inf
    graph = graph_of(fn, arrays)
    verify(graph)
    assert [op.opcode for op in graph.ops] == opcodes
    (got,) = jax.jit(jaxpr_as_fun(emit(graph)))(*arrays)
    np.testing.assert_array_equal(got, jax.jit(fn)(*arrays))


def test_a_product_that_is_returned_as_well_stays() -> None:
    x, y = integers(0, 1, 3, 4), integers(1, 1, 4, 6)
    graph = graph_of(lambda x, y: (p := x[0] @ y[0], p[None]), (x, y))
    assert [op.opcode for op in graph.ops] == ["squeeze", "squeeze", "dot_general", "broadcast_in_dim"]


@pytest.mark.parametrize("dtype", ["int8", "int32", "bfloat16", "float64", "complex64", "bool"])
def test_element_types(dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        x, y = integers(0, 1, 3, 4).astype(dtype), integers(1, 1, 4, 6).astype(dtype)

        def wide(x: Any, y: Any) -> Any:
            return jnp.matmul(x, y, preferred_element_type={"int8": "int32", "bfloat16": "float32"}.get(dtype))

        graph = graph_of(wide, (x, y))
        assert [op.opcode for op in graph.ops] == ["dot_general"]
        (got,) = jax.jit(jaxpr_as_fun(emit(graph)))(x, y)
        wanted = jax.jit(wide)(x, y)
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def test_products_that_only_jax_knows_stay() -> None:
    x, y = integers(0, 1, 64, 64), integers(1, 1, 64, 64)
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec
    with jax.set_mesh(mesh):

        def product(x: Any, y: Any) -> Any:
            return lax.dot_general(jnp.tanh(x)[0], y[0], (((1,), (0,)), ((), ())), out_sharding=spec(None, None))

        def sharded(x: Any, y: Any) -> Any:
            return jnp.tanh(product(x, y)[None]), jnp.tanh(product(y, x).T)

        fast = tilewright.compile(sharded, effort=0, database=":memory:")
        for got, wanted in zip(fast(x, y), jax.jit(sharded)(x, y), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)
        assert "Error" not in (fast.report().reason or "")


def attention(q: Any, k: Any, v: Any) -> Any:
    return jax.nn.softmax(q @ k.swapaxes(-1, -2) * 0.25, axis=-1) @ v


@pytest.mark.parametrize("batch", [(1, 3), (3, 1), (1, 1), (2, 3), (1,), (2,), ()])
def test_attention_is_one_region(batch: tuple[int, ...]) -> None:
    arrays = [integers(seed, *batch, 128, 16) for seed in range(3)]
    (task,) = partition(graph_of(attention, tuple(arrays))).tasks.values()
    opcodes = [op.opcode for op in task.region.ops]
    assert opcodes.count("dot_general") == 2 and "exp" in opcodes


@pytest.mark.parametrize("batch", [(1, 2), (2, 1), (1, 1)])
def test_attention_of_one_sequence(batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((*batch, 128, 64)).astype(np.float32) for _ in range(3))
    fast = tilewright.compile(attention, effort=0, database=":memory:")
    np.testing.assert_allclose(fast(q, k, v), jax.jit(attention)(q, k, v), rtol=1e-5, atol=1e-5)
    assert fast.report().mode == "native"


@pytest.mark.parametrize("images", [1, 3])
def test_convolutions_of_single_images_under_vmap(images: int) -> None:
    kernels = [integers(seed, 8, 8, 3, 3) for seed in range(2)]

    def network(image: Any) -> Any:
        for kernel in kernels:
            image = jax.nn.relu(lax.conv_general_dilated(image[None], kernel, (1, 1), "SAME")[0])
        return image

    batch = integers(0, images, 8, 6, 5)
    graph = graph_of(jax.vmap(network), (batch,))
    assert [op.opcode for op in graph.ops] == ["conv_general_dilated", "max"] * 2
    (got,) = jax.jit(jaxpr_as_fun(emit(graph)))(batch)
    np.testing.assert_array_equal(got, jax.vmap(network)(batch))
