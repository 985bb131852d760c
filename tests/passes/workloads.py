"""Small workloads made from JAX functions, with their arguments and JAX's answer; helpers that tests of passes share.

Most arguments are small integers, also as floats, so that no sum rounds: whatever the order of a reduction, results
must be equal to the last bit. Only workloads with division or transcendental functions are compared with a tolerance.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.graph import Graph
from tilewright.ir.interp import interpret
from tilewright.ir.loop import (
    Alloc,
    Block,
    For,
    If,
    Let,
    LoopFunc,
    Seq,
    Stmt,
    Where,
    blocks,
    loop_range,
    reads,
    subexpressions,
)
from tilewright.ir.sites import program
from tilewright.ir.verify import RULES, VerifyError
from tilewright.passes.lower import Workload, lower
from tilewright.passes.manager import PassManager
from tilewright.passes.packing import pack_array
from tilewright.passes.pipeline import GRAPH_PASSES

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Case:
    """A function to lower.

    Args:
        name: test id.
        fn: takes the arguments, then the constants.
        args: shapes (float32), or arrays.
        constants: likewise; they become constants of the graph.
        exact: whether float results don't depend on the order of operations.
        special: whether arguments may hold NaN and infinities.
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    constants: tuple[Any, ...] = ()
    exact: bool = True
    special: bool = True


@dataclass(frozen=True)
class Sample:
    """A lowered case: the workload, arrays for its inputs and constants as in the graph, and JAX's outputs."""

    case: Case
    workload: Workload
    arrays: tuple[Array, ...]
    wanted: tuple[Array, ...]

    @property
    def func(self) -> LoopFunc:
        return self.workload.func

    def arguments(self, func: LoopFunc) -> list[Array]:
        """Arrays in the layout that a scheduled form of the workload wants."""
        pairs = zip(self.arrays, func.inputs, strict=True)
        return [pack_array(a, b) if b.packing else np.array(a.reshape(b.shape), order="C") for a, b in pairs]

    def check(self, outputs: tuple[Array, ...] | list[Array], what: str) -> None:
        """Compare outputs with JAX's."""
        for got, want in zip(outputs, self.wanted, strict=True):
            assert_same(got, want, self.case.exact, f"{self.case.name}: {what}")


def assert_same(got: Array, want: Array, exact: bool, what: str) -> None:
    """Equal, NaN equal to NaN; unless exact, within rounding of the largest value."""
    want = want.reshape(got.shape)
    assert got.dtype == want.dtype, what
    if exact or got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=what)
    finite = want[np.isfinite(want)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=4e-6 * largest + 1e-30, err_msg=what)


def values(shape: tuple[int, ...], rng: np.random.Generator, special: bool = False) -> Array:
    """Small integers as float32, if ``special`` with a few NaN and infinities."""
    out = rng.integers(-4, 5, shape).astype(np.float32)
    if special and out.size:
        count = max(1, out.size // 20)
        out.reshape(-1)[rng.integers(0, out.size, count)] = rng.choice([np.nan, np.inf, -np.inf], count)
    return out


def graph_of(fn: Callable[..., Any], args: tuple[Array, ...]) -> Graph:
    """The simplified graph of a function."""
    return PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(*args)))


def sample(case: Case, special: bool = False) -> Sample:
    """Lower a case and run it in JAX."""
    rng = np.random.default_rng(len(case.name))
    args = tuple(values(a, rng, special) if isinstance(a, tuple) else a for a in case.args)
    constants = tuple(values(c, rng) if isinstance(c, tuple) else c for c in case.constants)

    def fn(*xs: Any) -> Any:
        return case.fn(*xs, *(jnp.asarray(c) for c in constants))

    graph = graph_of(fn, args)
    workload = lower(graph, "case")
    given = dict(zip(graph.inputs, args, strict=True))
    arrays = [given[v] for v in workload.inputs]
    arrays += [np.asarray(graph.constants[v].value) for v in workload.constants]
    found = jax.tree.leaves(jax.jit(fn)(*args))
    by_value = dict(zip(graph.outputs, found, strict=True))
    return Sample(case, workload, tuple(arrays), tuple(np.asarray(by_value[v]) for v in workload.outputs))


@functools.cache
def samples(special: bool = False) -> tuple[Sample, ...]:
    """All cases, lowered once per process."""
    return tuple(sample(c, special) for c in CASES if c.special or not special)


# ---- checks on programs


def verify_schedule(func: LoopFunc) -> None:
    """Every verifier rule but the one on registers, which holds only once a schedule is complete."""
    checked = program(func)
    for rule in RULES:
        if rule.__name__ != "registers":
            for _, message in rule(checked):
                raise VerifyError(rule.__name__, message, "")


def executions(stmt: Stmt, ranges: dict[str, tuple[int, int]] | None = None) -> int:
    """How often Blocks run, at most: what the interpreter's time depends on."""
    ranges = ranges or {}
    match stmt:
        case Block():
            return 1
        case For():
            low, high = loop_range(stmt, ranges)
            return (high - low + 1) * executions(stmt.body, {**ranges, stmt.name: (low, high)})
        case Alloc():
            return executions(stmt.body, ranges)
        case Seq():
            return sum(executions(s, ranges) for s in stmt.body)
        case If():
            return executions(stmt.then, ranges) + (executions(stmt.orelse, ranges) if stmt.orelse else 0)


def run(sampled: Sample, func: LoopFunc) -> tuple[Array, ...]:
    """Interpret a scheduled form of a sample's workload."""
    return interpret(func, sampled.arguments(func))


def guarded(func: LoopFunc) -> bool:
    """Whether anything is padded."""
    return any(r.guard for b in blocks(func.body) for r in reads(b.value))


def put_together(func: LoopFunc) -> bool:
    """Whether values depend on where a point lies, or indices on data."""
    return any(isinstance(e, Where | Let) for b in blocks(func.body) for e in subexpressions(b.value))


def dependent(func: LoopFunc) -> bool:
    """Whether rows of a product are reduced in several ways."""
    found = [b.monoid for b in blocks(func.body) if b.monoid is not None]
    return "max" in found and found.count("sum") > 1


# ---- the cases


def conv(strides: int = 1, padding: Any = "SAME", groups: int = 1, dilation: int = 1) -> Callable[..., Any]:
    """A 2D convolution (NHWC, HWIO) with bias and clamp."""

    def fn(x: Any, w: Any, b: Any) -> Any:
        y = lax.conv_general_dilated(
            x,
            w,
            (strides, strides),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return jnp.clip(y + b, 0, 6)

    return fn


def pool(kind: str, window: tuple[int, int], strides: int, padding: Any) -> Callable[..., Any]:
    """2D pooling (NHWC)."""
    start, op = {"max": (-jnp.inf, lax.max), "min": (jnp.inf, lax.min), "sum": (0.0, lax.add)}[kind]
    return lambda x: lax.reduce_window(x, start, op, (1, *window, 1), (1, strides, strides, 1), padding)


def planes(strides: int = 1, padding: Any = "SAME", groups: int = 1, dilation: int = 1) -> Callable[..., Any]:
    """A 2D convolution (NCHW, OIHW) with bias and clamp."""

    def fn(x: Any, w: Any, b: Any) -> Any:
        steps, spread = (strides, strides), (dilation, dilation)
        y = lax.conv_general_dilated(x, w, steps, padding, rhs_dilation=spread, feature_group_count=groups)
        return jnp.clip(y + b[:, None, None], 0, 6)

    return fn


def layer_norm(x: Any, g: Any, b: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-3) * g + b


def attention(q: Any, k: Any, v: Any) -> Any:
    return jax.nn.softmax(q @ k.T * 0.3) @ v


def causal_attention(q: Any, k: Any, v: Any) -> Any:
    rows, columns = (lax.broadcasted_iota(jnp.int32, (q.shape[0], k.shape[0]), axis) for axis in (0, 1))
    return jax.nn.softmax(jnp.where(rows >= columns, q @ k.T * 0.3, -1e30)) @ v


def integers(x: Any, y: Any) -> Any:
    return jnp.where(x > y, lax.div(x, y), lax.rem(x, y + 1)) ^ lax.shift_right_arithmetic(x, 2)


_INTS = np.array([[7, -8, 3, 0, -1, 2**31 - 1, -(2**31)], [2, 3, -3, 5, -7, 1, 0], [9, 8, 7, 6, 5, 4, 3]], np.int32)
_ROWS = np.array([[1, -1, 8], [100, 0, -9], [-10, 3, 3]], np.int32)
_PLACES = np.array([[1, 0, 8], [2, 2, -2], [-1, 0, 20], [8, 9, 1]], np.int32)
_BOOLS = np.arange(35).reshape(5, 7) % 3 == 0


def relaxed(u: Any) -> Any:
    """Sums of four neighbours inside a border that stays."""
    return u.at[1:-1, 1:-1].set(u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:])


CASES = (
    Case("matmul-bias-relu", lambda x, w, b: jax.nn.relu(x @ w + b), ((9, 7),), ((7, 19), (19,))),
    Case("matmul-inputs", lambda x, w: x @ w, ((5, 6), (6, 17))),
    Case("matmul-transposed", lambda x, w: x @ w.T, ((5, 6), (18, 6))),
    Case("matmul-batched", lambda x, w: jnp.einsum("bij,bjk->bik", x, w), ((2, 3, 5), (2, 5, 9))),
    Case("matvec", lambda x, w, b: x @ w + b, ((1, 23),), ((23, 35), (35,))),
    Case("dot-to-vector", lambda x, y: x @ y, ((6, 11), (11,))),
    Case("conv-1x1", conv(), ((1, 4, 5, 6),), ((1, 1, 6, 18), (18,))),
    Case("conv-3x3-same", conv(), ((1, 6, 7, 3),), ((3, 3, 3, 17), (17,))),
    Case("conv-strided", conv(2), ((2, 7, 8, 3),), ((3, 3, 3, 5), (5,))),
    Case("conv-dilated", conv(1, "VALID", 1, 2), ((1, 7, 8, 3),), ((3, 2, 3, 6), (6,))),
    Case("conv-groups", conv(1, ((1, 0), (0, 2)), 2), ((1, 5, 6, 4),), ((3, 3, 2, 6), (6,))),
    Case("conv-on-one-pixel", conv(), ((1, 1, 1, 5),), ((3, 3, 5, 7), (7,))),
    Case("depthwise", conv(1, "SAME", 9), ((1, 6, 7, 9),), ((3, 3, 1, 9), (9,))),
    Case("depthwise-strided", conv(2, "SAME", 18), ((1, 5, 9, 18),), ((3, 3, 1, 18), (18,))),
    Case("conv-of-computed", lambda x, w, b: conv()(x * 2 + 1, w, b), ((1, 5, 6, 3),), ((3, 3, 3, 4), (4,))),
    Case("max-pool", pool("max", (3, 3), 2, ((0, 0), (1, 1), (1, 1), (0, 0))), ((1, 7, 9, 5),)),
    Case("min-pool-of-one-pixel", pool("min", (3, 2), 1, ((0, 0), (2, 2), (1, 1), (0, 0))), ((1, 1, 1, 4),)),
    Case("sum-pool", pool("sum", (2, 3), 1, "VALID"), ((1, 5, 7, 17),)),
    Case("conv-planes", planes(), ((1, 3, 6, 19),), ((18, 3, 3, 3), (18,))),
    Case("conv-planes-strided", planes(2, ((2, 0), (0, 5))), ((2, 3, 7, 9),), ((5, 3, 3, 2), (5,))),
    Case("conv-planes-groups", planes(1, "VALID", 2, 2), ((1, 4, 7, 8),), ((6, 2, 3, 3), (6,))),
    Case("depthwise-planes", planes(1, "SAME", 4), ((1, 4, 6, 21),), ((8, 1, 3, 3), (8,))),
    Case(
        "max-pool-planes",
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), "SAME"),
        ((1, 3, 7, 37),),
    ),
    Case("gram", lambda x: x @ x.T, ((18, 7),)),
    Case("average", lambda x: x.mean((1, 2)), ((2, 3, 4, 19),), exact=False),
    Case("softmax", lambda x: jax.nn.softmax(x), ((5, 37),), exact=False),
    Case("log-softmax", lambda x: jax.nn.log_softmax(x, axis=0), ((7, 5),), exact=False),
    Case("layer-norm", layer_norm, ((6, 21),), ((21,), (21,)), exact=False, special=False),
    Case("attention", attention, ((6, 3), (9, 3), (9, 5)), exact=False),
    Case("causal-attention", causal_attention, ((7, 3), (7, 3), (7, 4)), exact=False),
    Case("log-sum-exp", lambda h, w: jax.nn.logsumexp(h @ w, axis=-1), ((5, 3), (3, 8)), exact=False),
    Case("gelu", lambda x: jax.nn.gelu(x), ((3, 41),), exact=False),
    Case("scaled-sum", lambda x, y: x + y * 2 - 1, ((7, 33), (7, 33))),
    Case("broadcast", lambda x, y, z: x * y[:, None] + z[None, :], ((5, 18), (5,), (18,))),
    Case("views", lambda x: jnp.flip(x, 0).T[1:, ::2] + 1, ((5, 7),)),
    Case("reshaped", lambda x, y: x.reshape(6, 10) + y, ((4, 15), (6, 10))),
    Case("iota", lambda x: x + jnp.arange(7, dtype=jnp.float32)[None, ::-1] * 3, ((4, 7),)),
    Case("border", relaxed, ((7, 35),)),
    Case("border-twice", lambda u: relaxed(relaxed(u)), ((9, 21),)),
    Case("update-row", lambda x, y: x.at[2].set(y * 2), ((4, 9), (9,))),
    Case("update-corner", lambda x, y: x.at[1:, :-3].set(jnp.maximum(y, 0)) + 1, ((5, 9), (4, 6))),
    Case("update-integers", lambda x: x.at[:2, 1:3].set(x[1:, 2:4] + 1), (_INTS,)),
    Case("update-booleans", lambda x: x.at[:, 2].set(~x[:, 0]), (_BOOLS,)),
    Case("shared", lambda x: (lambda e: e * e + jnp.tanh(e))(jnp.exp(x * 0.5)), ((6, 9),), exact=False),
    Case("two-sums", lambda x: (x - x.sum(0)) * x.max(1, keepdims=True), ((5, 6),)),
    Case("reduce-last", lambda x: x.max(-1), ((4, 45),)),
    Case("reduce-all", lambda x: x.sum(), ((4, 9),)),
    Case("reduce-prod", lambda x: jnp.sign(x).prod(1), ((3, 5),)),
    Case("integer", integers, (_INTS, _INTS[:, ::-1].copy())),
    Case("integer-sum", lambda x: x.sum(1), (_INTS,)),
    Case("boolean", lambda x, y: jnp.logical_xor(x, y > 0) & ~x, (_BOOLS, (5, 7))),
    Case("any", lambda x: (x.any(0), x.all(1)), (_BOOLS,)),
    Case("convert", lambda x: (x * 1.5).astype(jnp.int32) + (x != 0).astype(jnp.int32), ((5, 6),)),
    Case("two-outputs", lambda x, y: (x + y, (x * y).sum(1)), ((4, 18), (4, 18))),
    Case("one-element", lambda x, y: x * 2 + y, ((1, 1), (1,))),
    Case("scalar", lambda x: x * x + 1, ((),)),
    Case("nothing", lambda x: x * 2, ((0, 5),)),
    Case("empty-sum", lambda x: x.sum(0), ((0, 5),)),
    Case("empty-product", lambda x, y: x @ y, ((3, 0), (0, 4))),
    Case("concatenate-last", lambda x, y, z: jnp.concatenate([x, y * 2, z], 1), ((3, 7), (3, 33), (3, 18))),
    Case("concatenate-first", lambda x, y: jnp.concatenate([x, y], 0) + 1, ((2, 19), (3, 19))),
    Case("concatenate-middle", lambda x, y: jnp.concatenate([x, y[:, ::-1], x], 1), ((2, 1, 9), (2, 3, 9))),
    Case("sum-of-parts", lambda x, y: jnp.concatenate([x, y], 1).sum(1), ((4, 7), (4, 21))),
    Case("softmax-of-parts", lambda x, y: jax.nn.softmax(jnp.concatenate([x, y], 1)), ((4, 7), (4, 21)), exact=False),
    Case("pad", lambda x: jnp.pad(x * 2, ((1, 2), (3, 20)), constant_values=7), ((3, 17),)),
    Case("pad-cut", lambda x, v: lax.pad(x, v, ((-1, 2, 0), (3, -2, 0))), ((5, 19), ())),
    Case("pad-inside", lambda x: lax.pad(x, np.float32(2), ((-1, 2, 1), (3, -2, 2))), ((4, 7),)),
    Case("dynamic-slice", lambda x, i, j: lax.dynamic_slice(x, (i, j), (2, 17)), ((5, 37), np.int32(9), np.int32(3))),
    Case("update", lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 0)), ((5, 17), (2, 17), np.int32(-2))),
    Case(
        "update-inside",
        lambda x, u, i, j: lax.dynamic_update_slice(x, u * 2, (i, j)),
        ((5, 37), (2, 11), np.int32(1), np.int32(5)),
    ),
    Case("take-rows", lambda x, i: jnp.take(x, i, axis=0) * 2, ((9, 18), _ROWS)),
    Case("take-columns", lambda x, i: jnp.take(x, i, axis=1, mode="clip"), ((3, 9), _ROWS)),
    Case("index-rows", lambda x, i: x[i], ((9, 5), _ROWS)),
    Case("index-elements", lambda x, i: x[i[0], i[1]], ((9, 37), _ROWS)),
    Case("take-along", lambda x, i: jnp.take_along_axis(x, i, axis=1), ((4, 9), _PLACES)),
    Case("take-of-table", lambda i, t: jnp.take(t, i, axis=0), (_ROWS,), ((9, 18),)),
)
