"""Long reductions in two steps, windows over constants, decided selections: the same numbers as JAX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxpr_as_fun

from tilewright.backends.xla import emit
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.ir.graph_text import verify
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.split_reductions import split_reductions

SHAPE = (1024, 520)


def optimised(fn: Callable[..., Any], *shapes: tuple[int, ...], dtype: str = "float32") -> Graph:
    args = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))


def opcodes(graph: Graph) -> Counter[str]:
    return Counter(op.opcode for op in graph.ops)


def wholes(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> np.ndarray:
    """Small whole numbers, whose sums don't round, or booleans."""
    return rng.integers(0, 2, shape).astype(bool) if dtype == "bool" else rng.integers(-2, 3, shape).astype(dtype)


SPLIT: dict[str, tuple[Callable[..., Any], tuple[int, ...], str]] = {
    "everything": (lambda x: x.sum(), SHAPE, "float32"),
    "a long vector": (lambda x: x.sum(), (1024 * 520,), "float32"),
    "squares of a long vector": (lambda x: (x * x + 1).sum(), (1024 * 520,), "float32"),
    "minus a scalar": (lambda x: jnp.square(x - x[0]).sum(), (1024 * 520,), "float32"),
    "two rows": (lambda x: x.max(1), (2, 300_000), "int32"),
    "shifted rows": (lambda x: (x + x[:, :1]).min(1), (2, 300_000), "int32"),
    "few columns": (lambda x: (x - x[0]).sum(0), (40_000, 10), "float32"),
    "weighted rows": (lambda x: (x * lax.broadcast_in_dim(x[:, 0], x.shape, (0,))).sum(0), (40_000, 10), "float32"),
    "weighted columns": (lambda x: (x * lax.broadcast_in_dim(x[0], x.shape, (1,))).sum(0), (40_000, 10), "float32"),
    "all but the last": (lambda x: x.sum((0, 1, 2)), (30, 20, 15, 40), "float32"),
    "first and last": (lambda x: x.max((0, 2)), (64, 5, 900), "int32"),
    "any": (lambda x: x.any(), (2048, 1024), "bool"),
    "product": (lambda x: x.prod(), SHAPE, "int32"),
}


@pytest.mark.parametrize("name", SPLIT)
def test_two_steps_compute_the_same(name: str, rng: np.random.Generator) -> None:
    fn, shape, dtype = SPLIT[name]
    graph = optimised(fn, shape, dtype=dtype)
    split = split_reductions(graph)
    verify(split)
    reductions = sum(n for op, n in opcodes(split).items() if op.startswith("reduce_"))
    assert reductions == 1 + sum(n for op, n in opcodes(graph).items() if op.startswith("reduce_"))
    assert split_reductions(split) is split
    array = wholes(shape, dtype, rng)
    np.testing.assert_array_equal(jax.jit(jaxpr_as_fun(emit(split)))(array)[0], jax.jit(fn)(array))


def test_the_first_step_leaves_the_parts() -> None:
    split = split_reductions(optimised(lambda x: x.sum(0), (100_352, 64)))
    first, second = (op for op in split.ops if op.opcode == "reduce_sum")
    assert (split.types[first.operands[0]].shape, first.type.shape) == ((64, 1568, 64), (64, 64))
    assert second.operands == first.results


def test_large_parts_are_split_again(rng: np.random.Generator) -> None:
    graph = optimised(lambda x: x.sum((0, 1)), (4096, 3, 100))
    split = split_reductions(graph)
    verify(split)
    assert opcodes(split)["reduce_sum"] == 3
    array = wholes((4096, 3, 100), "float32", rng)
    np.testing.assert_array_equal(jaxpr_as_fun(emit(split))(array)[0], array.sum((0, 1)))


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (lambda x: x.sum(), (1000,)),  # small
        (lambda x: x.sum(1), (64, 20_000)),  # rows enough
        (lambda x: x.sum(0), (20_000, 4096)),  # columns enough
        (lambda x: x.sum(), (1_048_583,)),  # a prime
        (lambda x: jnp.argmax(x), (1024 * 520,)),
        (lambda x: x.max(), (1024 * 520,)),  # XLA's code for both steps would lose NaN
        (lambda x: x.sum(0), (1, 600_000)),
    ],
)
def test_others_stay_whole(fn: Callable[..., Any], shape: tuple[int, ...]) -> None:
    graph = optimised(fn, shape)
    assert split_reductions(graph) is graph


def test_long_sums_are_accurate(rng: np.random.Generator) -> None:
    """The mean of a long vector is as exact as the contract of the whole program asks for."""
    import tilewright as tw

    array = rng.standard_normal(3_000_000, np.float32) + 3
    fast = tw.compile(lambda x: (x * x).mean(), effort=0, database=":memory:")
    exact = np.mean(np.square(array.astype(np.float64)))
    assert abs(float(fast(array)) - exact) <= 16 * np.finfo(np.float32).eps * exact


POOLS = [
    ((2, 9, 7, 5), (1, 3, 3, 1), (1, 2, 2, 1), "SAME"),
    ((2, 9, 7, 5), (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    ((3, 4, 11), (1, 1, 4), (1, 1, 1), ((0, 0), (0, 0), (2, 1))),
    ((6,), (3,), (1,), ((3, 3),)),
]


@pytest.mark.parametrize(("shape", "window", "strides", "padding"), POOLS)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_windows_over_a_constant_are_counted(
    shape: Any, window: Any, strides: Any, padding: Any, dtype: str, rng: np.random.Generator
) -> None:
    def pool(x: Any) -> Any:
        def total(y: Any) -> Any:
            return jax.lax.reduce_window(y, np.asarray(0, dtype), jax.lax.add, window, strides, padding)

        return total(x), total(jnp.full_like(x, 3))

    graph = optimised(pool, shape, dtype=dtype)
    assert opcodes(graph)["reduce_window_sum"] == 1
    array = wholes(shape, dtype, rng)
    for got, want in zip(jaxpr_as_fun(emit(graph))(array), jax.jit(pool)(array), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("value", [0.5, np.inf, np.nan, 3e7])
def test_windows_over_numbers_that_could_round_stay(value: float) -> None:
    graph = optimised(
        lambda x: jax.lax.reduce_window(jnp.full_like(x, value), 0.0, jax.lax.add, (3,), (1,), "SAME") + x, (8,)
    )
    assert opcodes(graph)["reduce_window_sum"] == 1


def test_decided_selections_go() -> None:
    graph = optimised(lambda x, y: jnp.where(np.True_, x, y) + jnp.where(np.zeros(4, bool), y, x), (4,), (4,))
    assert opcodes(graph)["select_n"] == 0
