"""Attention in chunks of keys: equal to JAX in every form, with special values and whole chunks masked; refusals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tilewright.driver.planning import partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.interp import interpret
from tilewright.ir.verify import verify
from tilewright.passes.formulation import Formulation, Value
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.split_axis import split_axis

Array = np.ndarray[Any, np.dtype[Any]]


def plain(q, k, v):
    return jnp.einsum("hqk,hkd->hqd", jax.nn.softmax(jnp.einsum("hqd,hkd->hqk", q, k) * 0.25, axis=-1), v)


def masked(value):
    def fn(q, k, v, mask):
        s = jnp.where(mask, jnp.einsum("hqd,hkd->hqk", q, k) * 0.25, value)
        return jnp.einsum("hqk,hkd->hqd", jax.nn.softmax(s, axis=-1), v)

    return fn


def biased(q, k, v, bias):
    s = jnp.einsum("hqd,hkd->hqk", q, k) + bias
    return jnp.einsum("hqk,hkd->hqd", jax.nn.softmax(s, axis=-1), v)


def unnormalised(q, k, v):
    s = jnp.einsum("hqd,hkd->hqk", q, k)
    return jnp.einsum("hqk,hkd->hqd", jnp.exp(s - s.max(axis=-1, keepdims=True)), v)


def grouped(q, k, v):
    return jax.nn.dot_product_attention(q, k, v)


def scaled_after(q, k, v, w):
    return plain(q, k, v) * w + 1.0


def heads(h: int, n: int, s: int, d: int, e: int) -> tuple[Any, ...]:
    return (h, n, d), (h, s, d), (h, s, e)


def some(h: int, n: int, s: int) -> Array:
    """A mask with whole chunks hidden, from some rows or all, and a row that is hidden as a whole."""
    mask = np.random.default_rng(s).random((h, n, s)) > 0.4
    mask[:, :, : s // 3] = False
    mask[:, 2:, s // 2 :] = False
    mask[:, n // 2] = False
    return mask


FORMS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "plain": (plain, heads(1, 9, 512, 3, 4)),
    "heads": (plain, heads(3, 8, 768, 2, 3)),
    "odd chunks": (plain, heads(1, 8, 257 * 3, 2, 2)),
    "grouped": (grouped, ((1, 1, 8, 3), (1, 512, 1, 3), (1, 512, 1, 3))),
    "masked -inf": (masked(-np.inf), (*heads(2, 9, 768, 2, 3), some(2, 9, 768))),
    "masked finite": (masked(float(np.finfo(np.float32).min)), (*heads(2, 9, 768, 2, 3), some(2, 9, 768))),
    "masked for all": (masked(-np.inf), (*heads(2, 9, 768, 2, 3), some(2, 9, 768)[:1])),
    "biased": (biased, (*heads(1, 8, 512, 2, 3), (8, 512))),
    "bias of keys": (biased, (*heads(1, 8, 512, 2, 3), (512,))),
    "epilogue": (scaled_after, (*heads(1, 9, 512, 3, 4), (1, 9, 4))),
}


def arguments(shapes: tuple[Any, ...], special: bool, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    out = [rng.standard_normal(s).astype(np.float32) if isinstance(s, tuple) else s for s in shapes]
    for array in out if special else ():
        if array.dtype == np.float32:
            array.reshape(-1)[rng.integers(0, array.size, 2)] = rng.choice([np.nan, np.inf, -np.inf], 2)
    return out


def made(fn: Any, args: list[Array]) -> tuple[Formulation | None, dict[Value, Array]]:
    """The formulation of the one region that a function becomes, and the region's arguments."""
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))
    parts = partition(graph)
    (task,) = (parts.tasks[key] for region, key in parts.regions if region.kind == "stream")
    known: dict[Value, Array] = dict(zip(graph.inputs, args, strict=True))
    for op in parts.graph.ops:
        if op.opcode in ("reshape", "squeeze", "broadcast_in_dim") and op.operands[0] in known:
            held = known[op.operands[0]]
            if held.size == op.type.size:
                known[op.result] = held.reshape(op.type.shape)
    return split_axis(task.region), known


@pytest.mark.parametrize("special", [False, True], ids=["numbers", "special"])
@pytest.mark.parametrize("name", FORMS)
def test_chunks_give_what_jax_gives(name, special):
    fn, shapes = FORMS[name]
    for seed in range(2):
        args = arguments(shapes, special, seed)
        formulation, known = made(fn, args)
        assert formulation is not None and formulation.valid is None
        for part in formulation.parts:
            verify(part.func)
            *inputs, output = part.args
            arrays = [known[v].reshape(b.shape) for v, b in zip(inputs, part.func.inputs, strict=True)]
            with np.errstate(all="ignore"):
                (known[output],) = interpret(part.func, arrays)
        want = np.asarray(jax.jit(fn)(*args))
        got = known[formulation.parts[-1].args[-1]].reshape(want.shape)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got, want, rtol=3e-5, atol=3e-6)


def test_there_are_as_many_chunks_as_make_enough_tasks():
    counts = []
    for h, s in ((1, 8192), (3, 8192), (1, 512), (12, 2048)):
        formulation, _ = made(plain, arguments(heads(h, 8, s, 2, 2), False, 0))
        assert formulation is not None
        counts.append(formulation.temporaries["state"].shape[0])
    assert counts == [16, 8, 2, 2]


REFUSED = {
    "a prime": (plain, heads(1, 8, 1031, 2, 2)),
    "few keys": (plain, heads(1, 8, 500, 2, 2)),
    "enough heads": (plain, heads(16, 8, 512, 2, 2)),
    "enough rows": (plain, heads(1, 1000, 512, 2, 2)),
    "positions": (
        lambda q, k, v: masked(-np.inf)(q, k, v, jnp.arange(512) > jnp.arange(9)[:, None]),
        heads(1, 9, 512, 2, 2),
    ),
    "no sum": (unnormalised, heads(1, 9, 512, 3, 4)),
    "no second product": (
        lambda q, k: jax.nn.logsumexp(jnp.einsum("qd,kd->qk", q, k), axis=-1),
        ((8, 2), (512, 2)),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stays_whole(name):
    fn, shapes = REFUSED[name]
    assert made(fn, arguments(shapes, False, 0))[0] is None


@pytest.mark.parametrize("other", [False, True])
def test_only_the_maximum_of_the_scores_themselves_will_do(other):
    """Where a chunk's maximum is of something else, the chunk's exponentials may overflow or be lost."""

    def fn(q, k, v, mask):
        s = jnp.einsum("hqd,hkd->hqk", q, k)
        e = jnp.exp(s - (jnp.where(mask, s, -jnp.inf) if other else s).max(axis=-1, keepdims=True))
        return jnp.einsum("hqk,hkd->hqd", e / e.sum(axis=-1, keepdims=True), v)

    args = arguments((*heads(1, 9, 512, 3, 4), some(1, 9, 512)), False, 0)
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))
    assert (split_axis(graph) is None) == other
