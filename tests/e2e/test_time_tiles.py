"""Several steps of a stencil in one pass: which loops are unrolled for it, and that they compute the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxpr_as_fun

import tilewright as tw
from tilewright.backends.xla import emit
from tilewright.driver import pipeline
from tilewright.driver.pipeline import host
from tilewright.driver.time_tiles import tile_time
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES

SMALL_CACHES = replace(host(), l2_bytes=1 << 15, threads=2)
U = np.random.default_rng(0).standard_normal((150, 170)).astype(np.float32)


def step(u: Any) -> Any:
    inner = 0.25 * (u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:])
    return u.at[1:-1, 1:-1].set(inner)


def repeated(fn: Callable[[Any], Any], count: int) -> Callable[[Any], Any]:
    return lambda u: lax.fori_loop(0, count, lambda _, c: fn(c), u)


def tiled(fn: Callable[[Any], Any], u: Any = U) -> Graph:
    return tile_time(PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(u))), SMALL_CACHES)


def lengths(graph: Graph) -> list[int]:
    return [op.params["length"] for op in graph.ops if op.opcode == "scan"]


@pytest.mark.parametrize(("count", "expected"), [(40, [20]), (7, [3, 1]), (4, [2]), (3, [3]), (1, [1])])
def test_some_steps_are_taken_at_once(count: int, expected: list[int]) -> None:
    graph = tiled(repeated(step, count))
    assert lengths(graph) == expected
    assert lengths(tile_time(graph, SMALL_CACHES)) == expected, "a loop is not tiled again"
    (found,) = jax.jit(jaxpr_as_fun(emit(graph)))(U)
    np.testing.assert_allclose(found, jax.jit(repeated(step, count))(U), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "fn",
    [
        repeated(lambda u: u * 0.5 + 1, 8),  # neighbours don't matter
        repeated(lambda u: step(u) / u.sum(), 8),  # a whole pass has to end before the next begins
        lambda u: lax.scan(lambda c, _: (step(c), c[0]), u, None, 8),  # every step is looked at
        lambda u: lax.fori_loop(0, 8, lambda _, c: (step(c[0]), c[0] - c[1]), (u, u)),
        repeated(lambda u: jnp.sort(step(u)), 8),
    ],
)
def test_other_loops_are_left_alone(fn: Callable[[Any], Any]) -> None:
    assert lengths(tiled(fn)) == [8]


def test_a_grid_that_fits_into_the_caches_is_left_alone() -> None:
    assert lengths(tiled(repeated(step, 8), U[:20, :20])) == [8]


def test_a_large_grid_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "host", lambda: replace(host(), l2_bytes=1 << 16))
    fast = tw.compile(repeated(step, 9), effort=0, database=":memory:")
    u = np.random.default_rng(0).standard_normal((400, 500)).astype(np.float32)
    np.testing.assert_allclose(fast(u), jax.jit(repeated(step, 9))(u), rtol=1e-5, atol=1e-6)
    assert fast.report().mode == "native"
