"""Arguments with which regions are checked: numbers for which the functions in them are defined."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tilewright
from tilewright.driver import pipeline
from tilewright.driver.references import references
from tilewright.frontends.jaxpr import to_graph

DEFINED: dict[str, Callable[[Any], Any]] = {
    "logarithm": jnp.log,
    "logarithm of a logarithm": lambda x: -jnp.log(-jnp.log(x)),
    "square root": jnp.sqrt,
    "power": lambda x: x**0.3,
    "arc sine": lambda x: jnp.arcsin(x * 0.999),
    "largest logarithm": lambda x: jnp.max(jnp.log(x), axis=-1),
    "place of the largest logarithm": lambda x: jnp.argmax(jnp.log(x), axis=-1),
    "softmax of logarithms": lambda x: jax.nn.softmax(jnp.log(x), axis=-1),
}


def arguments(fn: Callable[[Any], Any], dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    graph = to_graph(jax.make_jaxpr(fn)(np.ones((40, 1000), dtype)))
    (found,) = references([graph], seed=0)
    assert list(found.outputs) == list(graph.outputs)
    return found.arguments[next(iter(graph.inputs))], found.outputs[graph.outputs[0]]


@pytest.mark.parametrize("name", DEFINED)
def test_results_are_numbers(name: str) -> None:
    given, result = arguments(DEFINED[name])
    assert given.min() > 0 and given.max() < 1
    assert not np.isnan(result).any()


@pytest.mark.parametrize("name", ["tanh", "exp", "abs"])
def test_functions_defined_everywhere_see_both_signs(name: str) -> None:
    given, _ = arguments(getattr(jnp, name))
    assert given.min() < -2 and given.max() > 2


def test_norms_see_both_signs() -> None:
    given, _ = arguments(lambda x: x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5))
    assert given.min() < -2 and given.max() > 2


def test_inputs_that_no_such_function_reads_keep_both_signs() -> None:
    def gated(x: Any, u: Any) -> Any:
        return jnp.maximum(x, 0) * jnp.log(u + 1e-3)

    graph = to_graph(jax.make_jaxpr(gated)(*[np.ones((40, 1000), np.float32)] * 2))
    (found,) = references([graph], seed=0)
    x, u = (found.arguments[v] for v in graph.inputs)
    assert x.min() < -2 and u.min() > 0


def test_what_is_defined_nowhere_keeps_its_arguments() -> None:
    given, result = arguments(lambda x: jnp.log(-jnp.abs(x) - 1))
    assert given.min() < -2 and np.isnan(result).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32"])
def test_element_types(dtype: str) -> None:
    given, result = arguments(lambda x: jnp.log(x + jnp.ones((), dtype)), dtype)
    assert given.dtype == jnp.dtype(dtype) and not np.isnan(result).any()


def test_kernels_of_a_softmax_of_noise_pass_their_check(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gumbel(x: Any, u: Any) -> Any:
        return jax.nn.softmax((x - jnp.log(-jnp.log(u))) / 0.5, axis=-1)

    monkeypatch.setattr(pipeline, "worthwhile", lambda parts, choices, target, speedup: dict(choices))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((256, 1000)).astype(np.float32)
    u = rng.uniform(0.001, 0.999, (256, 1000)).astype(np.float32)
    with caplog.at_level(logging.WARNING, logger="tilewright"):
        fast = tilewright.compile(gumbel, effort=0, database=":memory:")
        np.testing.assert_allclose(fast(x, u), jax.jit(gumbel)(x, u), rtol=1e-4, atol=1e-6)
    assert fast.report().mode == "native" and not caplog.records
