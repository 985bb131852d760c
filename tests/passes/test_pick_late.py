"""Cross-entropies that pick their logits without the product: the same numbers, and where it is left alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from tilewright.backends.xla import emit
from tilewright.driver.planning import partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES


def pick(x, y):
    return jnp.take_along_axis(x, y[..., None], axis=-1)[..., 0]


def by_logsumexp(h, w, y):
    logits = h @ w
    return jax.nn.logsumexp(logits, axis=-1) - pick(logits, y)


def by_log_softmax(h, w, y):
    return -pick(jax.nn.log_softmax(h @ w), y)


def transposed(h, w, y):
    logits = jnp.einsum("...d,vd->...v", h, w.T)
    return jax.nn.logsumexp(logits, axis=-1) - pick(logits, y)


def with_bias(h, w, y):
    logits = h @ w + 0.5
    return jax.nn.logsumexp(logits, axis=-1) - pick(logits, y)


def with_logits(h, w, y):
    logits = h @ w
    return jax.nn.logsumexp(logits, axis=-1) - pick(logits, y), logits


def optimized(fn, *args):
    return PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))


def arguments(rows, depth=5, columns=40):
    rng = np.random.default_rng(1)
    h = rng.standard_normal((*rows, depth)).astype(np.float32)
    labels = rng.integers(-columns, columns, rows).astype(np.int32)
    labels.reshape(-1)[:2] = (columns, -columns - 1)  # out of bounds: NaN
    return h, rng.standard_normal((depth, columns)).astype(np.float32), labels


@pytest.mark.parametrize("rows", [(12,), (3, 4)], ids=["rows", "batches"])
@pytest.mark.parametrize("fn", [by_logsumexp, by_log_softmax, transposed], ids=lambda f: f.__name__)
def test_the_product_is_streamed(fn, rows):
    args = arguments(rows)
    graph = optimized(fn, *args)
    assert [r.kind for r, _ in partition(graph).regions].count("stream") == 1
    assert all(40 not in op.type.shape for op in graph.ops if op.opcode == "gather")
    (got,) = jax.jit(jaxpr_as_fun(emit(graph)))(*args)
    want = jax.jit(fn)(*args)
    assert np.isnan(want).sum() == 2
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fn", [with_bias, with_logits], ids=lambda f: f.__name__)
def test_what_is_stored_is_picked_from(fn):
    gathers = [op for op in optimized(fn, *arguments((12,))).ops if op.opcode == "gather"]
    assert [op.type.shape for op in gathers] == [(12, 1)]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_number_for_places_out_of_bounds_is_left_alone(dtype):
    h, w, y = arguments((12,))
    h, w = (np.round(9 * a).astype(dtype) for a in (h, w))
    fill = 7 if dtype == np.float32 else None  # None is the least integer

    def fn(h, w, y):
        logits = h @ w
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return jnp.take_along_axis(shifted, y[:, None], axis=-1, mode="fill", fill_value=fill)[:, 0] + logits.sum(-1)

    graph = optimized(fn, h, w, y)
    assert [op.type.shape for op in graph.ops if op.opcode == "gather"] == [(12, 1)]
    np.testing.assert_array_equal(jax.jit(jaxpr_as_fun(emit(graph)))(h, w, y)[0], jax.jit(fn)(h, w, y))


def test_more_than_one_element_per_row_is_left_alone():
    def fn(h, w, y):
        logits = h @ w
        return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, y, axis=-1).sum(-1)

    h, w, _ = arguments((12,))
    gathers = [op for op in optimized(fn, h, w, np.zeros((12, 3), np.int32)).ops if op.opcode == "gather"]
    assert [op.type.shape for op in gathers] == [(12, 3)]
