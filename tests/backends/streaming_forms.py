"""Functions whose dependent reductions are streamed, in the forms that people write; helpers that tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tilewright.driver.planning import Task, partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.passes.manager import PassManager
from tilewright.passes.packing import pack_array
from tilewright.passes.pipeline import GRAPH_PASSES

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Form:
    """A way to write attention or a log-sum-exp.

    Args:
        fn: the function.
        args: its arguments for (queries, keys, depth, columns): shapes, or arrays.
    """

    fn: Callable[..., Any]
    args: Callable[[int, int, int, int], tuple[Any, ...]]


def bhtd(t: int, s: int, d: int, e: int) -> tuple[Any, ...]:
    return (2, 2, t, d), (2, 2, s, d), (2, 2, s, e)


def btnh(t: int, s: int, d: int, e: int) -> tuple[Any, ...]:
    return (2, t, 2, d), (2, s, 2, d), (2, s, 2, d)


def grouped(t: int, s: int, d: int, e: int) -> tuple[Any, ...]:
    return (2, t, 4, d), (2, s, 2, d), (2, s, 2, d)


def scores(q: Any, k: Any) -> Any:
    return jnp.einsum("bhqd,bhkd->bhqk", q, k)


def weighted(p: Any, v: Any) -> Any:
    return jnp.einsum("bhqk,bhkd->bhqd", p, v)


def masked(value: float) -> Callable[..., Any]:
    def fn(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return weighted(jax.nn.softmax(jnp.where(mask, scores(q, k) * 0.3, value), axis=-1), v)

    return fn


def some(t: int, s: int, d: int, e: int) -> tuple[Any, ...]:
    mask = np.random.default_rng(t + s).random((1, 1, t, s)) > 0.4
    mask[:, :, t // 2] = False  # a row that is masked as a whole
    mask[:, :, :, : s // 3] &= np.arange(t)[:, None] % 3 > 0
    return *bhtd(t, s, d, e), mask


def causal(value: float) -> Callable[..., Any]:
    def fn(q: Any, k: Any, v: Any) -> Any:
        s = scores(q, k) * 0.3
        rows, columns = (jax.lax.broadcasted_iota(jnp.int32, s.shape[2:], axis) for axis in (0, 1))
        return weighted(jax.nn.softmax(jnp.where(rows >= columns + 3, s, value), axis=-1), v)

    return fn


def unnormalised(q: Any, k: Any, v: Any) -> Any:
    s = scores(q, k)
    return weighted(jnp.exp(s - s.max(axis=-1, keepdims=True)), v)


def unnormalised_masked(q: Any, k: Any, v: Any, mask: Any) -> Any:
    s = jnp.where(mask, scores(q, k), -jnp.inf)
    return weighted(jnp.exp(s - s.max(axis=-1, keepdims=True)), v)


def divided_later(q: Any, k: Any, v: Any) -> Any:
    s = scores(q, k) * 0.3
    p = jnp.exp(s - jax.lax.stop_gradient(s.max(axis=-1, keepdims=True)))
    return weighted(p, v) / p.sum(axis=-1)[..., None]


def other_order(q: Any, k: Any, v: Any) -> Any:
    return jnp.einsum("hqbk,kbhd->bqhd", jax.nn.softmax(jnp.einsum("qbhd,kbhd->hqbk", q, k) / 4.0, axis=-1), v)


def _dpa(**options: Any) -> Callable[..., Any]:
    return lambda q, k, v: jax.nn.dot_product_attention(q, k, v, **options)


FORMS: dict[str, Form] = {
    "plain": Form(lambda q, k, v: weighted(jax.nn.softmax(scores(q, k) / 8.0, axis=-1), v), bhtd),
    "dpa": Form(_dpa(), btnh),
    "dpa-causal": Form(_dpa(is_causal=True), btnh),
    "dpa-window": Form(_dpa(local_window_size=(5, 3)), btnh),
    "dpa-causal-window": Form(_dpa(is_causal=True, local_window_size=(9, 0)), btnh),
    "dpa-grouped": Form(_dpa(), grouped),
    "dpa-grouped-causal": Form(_dpa(is_causal=True), grouped),
    "dpa-bias": Form(
        lambda q, k, v, b: jax.nn.dot_product_attention(q, k, v, bias=b),
        lambda t, s, d, e: (*btnh(t, s, d, e), (1, 2, t, s)),
    ),
    "dpa-mask": Form(
        lambda q, k, v, m: jax.nn.dot_product_attention(q, k, v, mask=m),
        lambda t, s, d, e: (*btnh(t, s, d, e), some(t, s, d, e)[-1]),
    ),
    "dpa-padding": Form(
        lambda q, k, v, m: jax.nn.dot_product_attention(q, k, v, mask=m),
        lambda t, s, d, e: (
            *btnh(t, s, d, e),
            np.arange(s)[None, None, None] < np.array([s, s // 2])[:, None, None, None],
        ),
    ),
    "masked-inf": Form(masked(-np.inf), some),
    "masked-finite": Form(masked(-1e30), some),
    "masked-little": Form(masked(-2.0), some),
    "causal-inf": Form(causal(-np.inf), bhtd),
    "causal-finite": Form(causal(float(np.finfo(np.float32).min)), bhtd),
    "causal-little": Form(causal(-2.0), bhtd),
    "unnormalised": Form(unnormalised, bhtd),
    "unnormalised-masked": Form(unnormalised_masked, some),
    "divided-later": Form(divided_later, bhtd),
    "other-order": Form(other_order, lambda t, s, d, e: ((t, 2, 3, d), (s, 2, 3, d), (s, 2, 3, e))),
    "log-sum-exp": Form(lambda h, w: jax.nn.logsumexp(h @ w, axis=-1), lambda t, s, d, e: ((t, d), (d, s))),
    "softmax-sum": Form(
        lambda h, w: jnp.log(jnp.exp((z := h @ w) - z.max(-1, keepdims=True)).sum(-1)) + z.max(-1),
        lambda t, s, d, e: ((t, d), (d, s)),
    ),
}


def arguments(form: Form, sizes: tuple[int, int, int, int], seed: int, special: bool) -> tuple[Array, ...]:
    """Random arguments of a form, if ``special`` with NaN and infinities here and there."""
    rng = np.random.default_rng(seed)
    out = []
    for a in form.args(*sizes):
        array = rng.standard_normal(a).astype(np.float32) if isinstance(a, tuple) else np.asarray(a)
        if special and array.dtype == np.float32:
            array.reshape(-1)[rng.integers(0, array.size, 2)] = rng.choice([np.nan, np.inf, -np.inf], 2)
        out.append(array)
    return tuple(out)


@dataclass(frozen=True)
class Streamed:
    """A function cut down to the one region that it becomes, with arrays for it and JAX's answer in float64."""

    task: Task
    arrays: list[Array]
    wanted: Array

    def packed(self, params: Any) -> list[Array]:
        """Arrays in the layout that a scheduled form wants."""
        pairs = zip(self.arrays, params, strict=False)
        return [pack_array(a, b) if b.packing else np.array(a.reshape(b.shape), order="C") for a, b in pairs]

    def check(self, got: Array, what: str) -> None:
        """Compare with what JAX gives: NaN and infinities in the same places, the rest within rounding."""
        want = self.wanted
        got = got.reshape(want.shape)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=what)
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want), err_msg=what)
        np.testing.assert_allclose(got, want, rtol=3e-5, atol=3e-6, err_msg=what)


def streamed(form: Form, args: tuple[Array, ...]) -> Streamed | None:
    """The region that a function becomes; None if it is more than one."""
    graph = PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(form.fn)(*args)))
    parts = partition(graph)
    if [r.kind for r, key in parts.regions if key] != ["stream"]:
        return None
    task = next(iter(parts.tasks.values()))
    known = dict(zip(graph.inputs, args, strict=True))
    for op in parts.graph.ops:
        if op.opcode in ("reshape", "squeeze", "broadcast_in_dim") and op.operands[0] in known:
            held = known[op.operands[0]]
            if held.size == op.type.size:
                known[op.result] = held.reshape(op.type.shape)
    if any(v not in known for v in task.workload.inputs):
        return None
    arrays = [known[v] for v in task.workload.inputs]
    arrays += [np.asarray(parts.graph.constants[v].value) for v in task.workload.constants]
    return Streamed(task, arrays, np.asarray(jax.jit(form.fn)(*args)))
