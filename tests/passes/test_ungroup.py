"""Sums over groups of channels: the same numbers as JAX, with the channels of large values in one axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from tilewright.backends.xla import emit
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.ir.graph_text import verify
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.ungroup import ungroup


def optimised(fn: Callable[..., Any], shape: tuple[int, ...], dtype: str = "float32") -> Graph:
    return PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(jax.ShapeDtypeStruct(shape, dtype))))


def grouped(x: Any, groups: int) -> Any:
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def group_norm(x: Any, groups: int) -> Any:
    y = grouped(x, groups)
    axes = (1, 2, 4)
    y = (y - y.mean(axes, keepdims=True)) * jax.lax.rsqrt(y.var(axes, keepdims=True) + 1e-3)
    return y.reshape(x.shape) * 2 + 1


def flax_group_norm(x: Any, groups: int) -> Any:
    y = grouped(x, groups)
    mean, square = y.mean((1, 2, 4)), (y * y).mean((1, 2, 4))
    size = x.shape[-1] // groups
    mean, square = (jnp.repeat(v, size, axis=1)[:, None, None, :] for v in (mean, square))
    return (x - mean) * jax.lax.rsqrt(square - mean * mean + 1e-3)


CASES: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "group norm": (lambda x: group_norm(x, 4), (2, 5, 3, 24)),
    "a group of one member each": (lambda x: group_norm(x, 24), (2, 5, 3, 24)),
    "one group": (lambda x: group_norm(x, 1), (2, 5, 3, 24)),
    "one image": (lambda x: group_norm(x, 4), (1, 5, 3, 24)),
    "as in Flax": (lambda x: flax_group_norm(x, 4), (2, 5, 3, 24)),
    "squares of groups": (lambda x: jnp.square(grouped(x, 3)).sum((0, 2)), (7, 12)),
    "squares of groups of planes": (lambda x: jnp.square(x.reshape(7, 3, 4, 5)).sum((0, 2, 3)), (7, 12, 5)),
    "with a table for each member": (
        lambda x: (grouped(x, 3) * jnp.arange(12.0).reshape(3, 4) + jnp.arange(4.0)).sum((0, 2)),
        (7, 12),
    ),
    "with a table for each group": (lambda x: (grouped(x, 3) + jnp.arange(3.0)[:, None]).sum((0, 2)), (7, 12)),
    "with a table for each row": (lambda x: (grouped(x, 3) + jnp.arange(7.0)[:, None, None]).sum((0, 2)), (7, 12)),
}


@pytest.mark.parametrize("name", CASES)
def test_computes_the_same(name: str, rng: np.random.Generator) -> None:
    fn, shape = CASES[name]
    graph = optimised(fn, shape)
    joined = ungroup(graph)
    if joined is not graph:
        verify(joined)
    assert (joined is graph) == (name in ("a group of one member each", "one group"))
    array = rng.standard_normal(shape).astype(np.float32)
    for got, want in zip(jaxpr_as_fun(emit(joined))(array), [jax.jit(fn)(array)], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_large_values_keep_their_channels_together() -> None:
    graph = ungroup(optimised(lambda x: group_norm(x, 4), (2, 5, 3, 24)))
    assert all(op.type.shape != (2, 5, 3, 4, 6) for op in graph.ops)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: grouped(x, 3).sum(-1),  # rows of members
        lambda x: grouped(x, 3).sum(1),  # members stay
        lambda x: grouped(x, 3).sum((0, 1, 2)),  # groups go as well
        lambda x: grouped(x, 3).max((0, 2)),  # XLA's code for both steps would lose NaN
        lambda x: jnp.sort(grouped(x, 3), 0).sum((0, 2)),  # not made element by element
    ],
)
def test_others_stay_as_they_are(fn: Callable[[Any], Any]) -> None:
    graph = optimised(fn, (7, 12))
    assert ungroup(graph) is graph
