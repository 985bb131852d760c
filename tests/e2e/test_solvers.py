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
    assert fast.report().mode == "xla" or detect_target().threads == 1


def test_what_was_measured_is_kept() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 200)).astype(np.float32)
    fast = tilewright.compile(solved, effort=1, budget=2, database=":memory:")
    np.testing.assert_allclose(fast(x), jax.jit(solved)(x), rtol=1e-4, atol=1e-5)
