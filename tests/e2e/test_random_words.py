"""Random numbers in compiled functions: the same words as JAX draws, made where they are used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

import tilewright as tw
from tilewright.backends.xla import emit
from tilewright.driver import pipeline
from tilewright.frontends.jaxpr import to_graph
from tilewright.frontends.random_words import THREEFRY
from tilewright.ir.graph import Graph

SHAPES = [(5,), (1,), (7, 33), (3, 1, 129), (1, 1), (2, 3, 4, 5), (1000,), (0, 3), ()]
DRAWS: dict[str, Callable[[Any], Any]] = {
    "bits": lambda key: jax.random.bits(key, (37, 19)),
    "uniform": lambda key: jax.random.uniform(key, (129,), minval=-2.0, maxval=3.0),
    "normal": lambda key: jax.random.normal(key, (64, 33)),
    "integers": lambda key: jax.random.randint(key, (501,), -7, 90),
    "mask": lambda key: jax.random.bernoulli(key, 0.3, (17, 31)),
    "several": lambda key: sum(jax.random.normal(k, (4, 50)) for k in jax.random.split(key, 3)),
    "folded": lambda key: jax.random.uniform(jax.random.fold_in(key, 3), (200,)) + jax.random.exponential(key, (200,)),
    "several keys": lambda key: jax.vmap(lambda k: jax.random.uniform(k, (40,)))(jax.random.split(key, 5)),
    "bytes": lambda key: jax.random.bits(key, (100,), "uint8"),
}


def graph_of(fn: Callable[..., Any], *args: Any) -> Graph:
    return to_graph(jax.make_jaxpr(fn)(*args))


def opcodes(graph: Graph) -> list[str]:
    return [op.opcode for op in graph.ops]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_words_are_those_of_jax(shape: tuple[int, ...]) -> None:
    key = jax.random.key(11)
    graph = graph_of(lambda k: jax.random.bits(k, shape), key)
    assert (THREEFRY in opcodes(graph)) == (shape != ())
    (words,) = jax.jit(jax.extend.core.jaxpr_as_fun(emit(graph)))(key)
    np.testing.assert_array_equal(words, jax.random.bits(key, shape))


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey], ids=["typed", "raw"])
@pytest.mark.parametrize("name", DRAWS)
def test_draws_agree_natively(
    name: str, make: Callable[[int], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("MIN_PREDICTED_SPEEDUP", "WORTHWHILE_SECONDS"):  # native code, however small the gain
        monkeypatch.setattr(pipeline, limit, 0.0)
    key, draw = make(5), DRAWS[name]
    fast = tw.compile(draw, effort=0, database=tmp_path / "tuning.db")
    got, expected = np.asarray(fast(key)), np.asarray(jax.jit(draw)(key))
    assert got.dtype == expected.dtype
    if np.issubdtype(got.dtype, np.floating):
        np.testing.assert_allclose(got, expected, rtol=3e-5, atol=2e-6)  # XLA forms 1 - x * x where x is near 1
    else:
        np.testing.assert_array_equal(got, expected)
    assert (THREEFRY in opcodes(graph_of(draw, key))) == (name not in ("several keys", "bytes"))
    assert (fast.report().mode == "native") == (name != "bytes")


def test_raw_keys_leave_nothing_that_only_jax_knows() -> None:
    graph = graph_of(lambda key: jax.random.normal(key, (3, 4)), jax.random.PRNGKey(0))
    assert not graph.opaque and THREEFRY in opcodes(graph)


def test_keys_may_be_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MIN_PREDICTED_SPEEDUP", "WORTHWHILE_SECONDS"):
        monkeypatch.setattr(pipeline, limit, 0.0)

    def threaded(key: Any) -> Any:
        key, own = jax.random.split(key)
        return key, jax.random.uniform(own, (40, 50))

    fast = tw.compile(threaded, effort=0, database=tmp_path / "tuning.db")
    (key, words), (usual_key, usual) = fast(jax.random.key(7)), jax.jit(threaded)(jax.random.key(7))
    assert fast.report().mode == "native" and key == usual_key
    np.testing.assert_allclose(words, usual, rtol=1e-6)


def test_other_generators_stay_as_they_are() -> None:
    key = jax.random.key(3, impl="rbg")
    assert "random_bits" in opcodes(graph_of(lambda k: jax.random.bits(k, (8, 8)), key))


def test_other_ways_of_counting_stay_as_they_are() -> None:
    with jax.threefry_partitionable(False):
        key = jax.random.key(3)
        graph = graph_of(lambda k: jax.random.bits(k, (8, 8)), key)
        assert "random_bits" in opcodes(graph) and THREEFRY not in opcodes(graph)


@pytest.mark.parametrize(
    ("old", "new"), [("float32", "int32"), ("int32", "float32"), ("float64", "uint64"), ("bfloat16", "int16")]
)
def test_bits_are_reinterpreted_natively(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    for limit in ("MIN_PREDICTED_SPEEDUP", "WORTHWHILE_SECONDS"):
        monkeypatch.setattr(pipeline, limit, 0.0)

    def program(x: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(x, new)[::-1]

    with jax.enable_x64(True):
        x = rng.standard_normal((5, 77)).astype(jnp.dtype(old)) if "float" in old else rng.integers(1, 9, (5, 77), old)
        fast = tw.compile(program, effort=0, database=tmp_path / "tuning.db")
        got, expected = fast(x), jax.jit(program)(x)
        assert got.dtype == expected.dtype and fast.report().mode == "native"
        np.testing.assert_array_equal(np.asarray(got).view(np.uint8), np.asarray(expected).view(np.uint8))


@pytest.mark.parametrize(("old", "new"), [("float32", "int16"), ("uint8", "int32"), ("int8", "int4")])
def test_reinterpretations_that_change_the_size_are_jax_s(old: str, new: str) -> None:
    def program(x: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(x, new)

    x = np.arange(24).reshape(6, 4).astype(old)
    (op,) = graph_of(program, x).ops
    assert op.opaque
    np.testing.assert_array_equal(tw.compile(program, effort=0)(x).astype(int), jax.jit(program)(x).astype(int))
