"""Networks whose arrays are put together and taken apart run as native plans and give what JAX gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import tilewright
from tilewright.driver import pipeline

RNG = np.random.default_rng(5)


def some(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape).astype(np.float32) * 0.1)


def conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


WEIGHTS = [(some(1, 1, 32 + 16 * n, 32), some(3, 3, 32, 16), some(32 + 16 * n)) for n in range(3)]


def dense_block(x):
    for narrow, wide, scale in WEIGHTS:
        h = jax.nn.relu(conv(jax.nn.relu(x * scale), narrow))
        x = jnp.concatenate([x, conv(h, wide)], -1)
    return jax.nn.relu(x)


def skip_connection(x, down, up):
    s = jax.nn.relu(conv(x, down))
    pooled = lax.reduce_window(s, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    back = jnp.repeat(jnp.repeat(pooled, 2, 1), 2, 2)
    return jax.nn.relu(conv(jnp.concatenate([back, s], -1), up))


def embedding(ids, table, scale):
    x = jnp.take(table, ids, axis=0, mode="clip")
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * scale


def cached_attention(keys, values, k, v, q, at):
    keys = lax.dynamic_update_slice(keys, k, (0, at, 0))
    values = lax.dynamic_update_slice(values, v, (0, at, 0))
    scores = jnp.einsum("hqd,hkd->hqk", q, keys) / 8
    scores = jnp.where(jnp.arange(keys.shape[1]) <= at, scores, -jnp.inf)
    return jnp.einsum("hqk,hkd->hqd", jax.nn.softmax(scores), values), keys, values


IDS = np.array([[1, -7, 300], [5999, 6000, 2**31 - 1]] * 40, np.int32)
CASES = {
    "dense": (dense_block, some(1, 28, 28, 32)),
    "skip": (skip_connection, some(1, 32, 32, 8), some(3, 3, 8, 32), some(3, 3, 64, 16)),
    "embedding": (embedding, jnp.asarray(IDS), some(6000, 256), some(256)),
    "cache": (cached_attention, *(some(4, 512, 64) for _ in range(2)), *(some(4, 1, 64) for _ in range(3)), 600),
}


@pytest.mark.parametrize("name", CASES)
def test_networks(name):
    fn, *args = CASES[name]
    compiled = tilewright.compile(fn, effort=0, database=":memory:")
    for got, want in zip(jax.tree.leaves(compiled(*args)), jax.tree.leaves(jax.jit(fn)(*args)), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
    assert "Error" not in compiled.report().reason
    if name in ("dense", "embedding"):
        assert "native" in str(compiled.report())
        assert "xla " not in str(compiled.report())


@pytest.mark.parametrize("number", [3, np.int64(3), 2.5, np.float64(2.5), True])
def test_numbers_are_arguments(number, monkeypatch):
    monkeypatch.setattr(pipeline, "MIN_PREDICTED_SPEEDUP", 0.0)

    def program(x, number):
        start = jnp.asarray(number, jnp.int32)
        return lax.dynamic_update_slice(x, x[:2] * number, (start, start))

    x = some(300, 400)
    compiled = tilewright.compile(program, effort=0, database=":memory:")
    np.testing.assert_array_equal(compiled(x, number), jax.jit(program)(x, number))
    assert compiled.report().mode == "native"
