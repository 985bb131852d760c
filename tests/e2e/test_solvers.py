"""Programs that call LAPACK: without measuring, they stay as they are where it would use threads of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import tilewright
from tilewright.frontends.jaxpr import to_graph
from tilewright.frontends.solvers import uses_solver_threads
from tilewright.ir.target import detect_target

SOLVERS: dict[str, Callable[[Any], Any]] = {
    "cholesky": jnp.linalg.cholesky,
    "eigh": lambda x: jnp.linalg.eigh(x)[0],
    "inv": jnp.linalg.inv,
    "qr": lambda x: jnp.linalg.qr(x)[0],
    "solve": lambda x: jnp.linalg.solve(x, x),
    "svd": lambda x: jnp.linalg.svd(x)[1],
    "triangular": lambda x: lax.linalg.triangular_solve(x, x),
    "in a loop": lambda x: lax.fori_loop(0, 2, lambda _, y: jnp.linalg.inv(y), x),
    "in a branch": lambda x: lax.cond(x[0, 0] > 0, jnp.linalg.inv, jnp.tanh, x),
    "of a batch": lambda x: jnp.linalg.inv(jnp.stack([x, x + 1])),
}


def graph(fn: Callable[[Any], Any], size: int) -> Any:
    return to_graph(jax.make_jaxpr(fn)(np.eye(size, dtype=np.float32)))


@pytest.mark.parametrize("name", SOLVERS)
def test_large_matrices(name: str) -> None:
    assert uses_solver_threads(graph(SOLVERS[name], 200))


@pytest.mark.parametrize("name", SOLVERS)
def test_small_matrices(name: str) -> None:
    assert not uses_solver_threads(graph(SOLVERS[name], 40))


def test_other_opaque_operations() -> None:
    assert not uses_solver_threads(graph(lambda x: jnp.sort(jnp.fft.fft(x).real), 200))


def solved(x: Any) -> Any:
    return jnp.linalg.solve(jnp.tanh(x) @ x.T + 300 * jnp.eye(x.shape[0]), jnp.exp(x))


def test_a_prediction_does_not_decide() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 200)).astype(np.float32)
    fast = tilewright.compile(solved, effort=0, database=":memory:")
    np.testing.assert_allclose(fast(x), jax.jit(solved)(x), rtol=1e-4, atol=1e-5)
    assert "LAPACK" in (fast.report().reason or "") or detect_target().threads == 1


def test_measuring_decides() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 200)).astype(np.float32)
    fast = tilewright.compile(solved, effort=1, budget=2, database=":memory:")
    np.testing.assert_allclose(fast(x), jax.jit(solved)(x), rtol=1e-4, atol=1e-5)
    assert "LAPACK" not in (fast.report().reason or "")


def test_only_the_matrices_of_solvers_count() -> None:
    def small_beside_large(x: Any) -> Any:
        return lax.fori_loop(0, 2, lambda _, c: (jnp.linalg.inv(c[0]), c[1] + 1), (x[:4, :4], x))

    def large_in_a_loop_over_little(x: Any) -> Any:
        return lax.fori_loop(0, 2, lambda _, v: jnp.linalg.inv(jnp.diag(v)) @ v, x[0])

    assert not uses_solver_threads(graph(small_beside_large, 200))
    assert not uses_solver_threads(graph(lambda x: lax.linalg.triangular_solve(x[:4, :4], x[:4], left_side=True), 200))
    assert uses_solver_threads(graph(large_in_a_loop_over_little, 200))


def test_functions_that_share_functions_are_looked_at_once() -> None:
    function = jnp.tanh
    for _ in range(30):
        function = jax.jit(lambda x, inner=function: inner(x) + inner(2 * x))

    def repeated(x: Any) -> Any:
        return lax.while_loop(lambda y: y[0, 0] < 1, function, x)

    assert not uses_solver_threads(graph(repeated, 200))
