"""16-bit floats are computed in float32, and rounded where they are stored or where exact results depend on them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tilewright.frontends.jaxpr import to_graph
from tilewright.ir.dtypes import to_numpy
from tilewright.ir.interp import interpret
from tilewright.ir.lanes import vector_lanes
from tilewright.ir.loop import Apply, Expr, LoopFunc, blocks, buffers
from tilewright.ir.target import detect_target
from tilewright.ir.verify import verify
from tilewright.passes.lower import lower
from tilewright.passes.widen import NARROW, widen


def _lowered(fn, *args) -> LoopFunc:
    func = lower(to_graph(jax.make_jaxpr(fn)(*args))).func
    verify(func)
    return func


def _functions(func: LoopFunc) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    pending: list[Expr] = [b.value for b in blocks(func.body)]
    while pending:
        expr = pending.pop()
        if isinstance(expr, Apply):
            found.append((expr.op, expr.dtype))
            pending += expr.args
    return sorted(found)


def _numbers(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(to_numpy(dtype))


@pytest.mark.parametrize("dtype", sorted(NARROW))
def test_one_rounding_per_region(dtype):
    a, b, c = (_numbers(dtype, 300, seed=s) for s in range(3))
    func = _lowered(lambda a, b, c: a * b + c, a, b, c)
    convert = "convert_element_type"
    assert _functions(func) == [("add", "float32"), (convert, dtype), *[(convert, "float32")] * 3, ("mul", "float32")]
    wide = [x.astype(np.float32) for x in (a, b, c)]
    np.testing.assert_array_equal(interpret(func, [a, b, c])[0], (wide[0] * wide[1] + wide[2]).astype(a.dtype))


@pytest.mark.parametrize("dtype", sorted(NARROW))
def test_what_moves_stays_narrow(dtype):
    x = _numbers(dtype, 6, 40)
    func = _lowered(lambda x: jnp.where(x[::-1] > 0, -x.T.reshape(6, 40), to_numpy(dtype).type(2)), x)
    assert {d for op, d in _functions(func) if op != "gt"} == {dtype}
    assert vector_lanes(func, detect_target()) == detect_target().vector_bytes // 2


@pytest.mark.parametrize("dtype", sorted(NARROW))
def test_sums_are_kept_in_float32(dtype):
    x = np.ones((3, 3000), to_numpy(dtype))
    func = _lowered(lambda x: lax.reduce(x, to_numpy(dtype).type(0), lax.add, (1,)), x)
    assert {b.dtype for b in buffers(func).values()} == {dtype, "float32"}
    assert interpret(func, [x])[0].tolist() == [3000.0 if dtype == "float16" else 3008.0] * 3  # 256 + 1 is 256


@pytest.mark.parametrize("dtype", sorted(NARROW))
@pytest.mark.parametrize(
    "fn",
    [
        lambda a, b, c: a * b + c > 0.25,
        lambda a, b, c: lax.convert_element_type((a + b) * 100, "int32"),
        lambda a, b, c: lax.eq(jnp.sin(a * b) * c, a * c),
        lambda a, b, c: (lambda e: (e * e > e, e * b))(jnp.exp(a) + c)[0],
        lambda a, b, c: (lambda e: (lambda g: g * g > g * b)(jnp.exp(e * b) + e))(jnp.exp(a) + c),
        lambda a, b, c: lax.nextafter(a * b, c) > b,
        lambda a, b, c: lax.nextafter(a, c),
        lambda a, b, c: ((a * b).astype("float32") + 1 > 1.25).astype(a.dtype),
        lambda a, b, c: (a * b * c).astype("float64") > 0.125,
        lambda a, b, c: (a * b + c).astype("float16").astype("bfloat16").astype("float32") > 0.125,
    ],
)
def test_exact_results_are_what_xla_gives(dtype, fn):
    args = [_numbers(dtype, 4001, seed=s) for s in range(3)]
    with jax.enable_x64(True):
        if {"sin", "exp"} & {e.primitive.name for e in jax.make_jaxpr(fn)(*args).eqns}:
            args = [a[:100] for a in args]  # few enough that no approximation of XLA's rounds otherwise
        func, wanted = _lowered(fn, *args), np.asarray(jax.jit(fn)(*args))
    np.testing.assert_array_equal(interpret(func, args)[0], wanted)


def test_what_is_converted_is_not_rounded_first():
    a, b = (_numbers("bfloat16", 300, seed=s) for s in range(2))
    func = _lowered(lambda a, b: (a * b).astype("float32"), a, b)
    np.testing.assert_array_equal(interpret(func, [a, b])[0], a.astype(np.float32) * b.astype(np.float32))


def test_sums_that_exact_results_need_are_kept_in_float32():
    x = np.ones((3, 300), to_numpy("bfloat16"))
    func = _lowered(lambda x: lax.reduce(x * x, x.dtype.type(0), lax.add, (1,)) > 290, x)
    assert interpret(func, [x])[0].all()


def test_explicit_conversions_round():
    x = _numbers("float32", 500)
    func = _lowered(lambda x: (x * 3).astype("bfloat16").astype("float32") + 1, x)
    rounded = (x * np.float32(3)).astype(to_numpy("bfloat16")).astype(np.float32)
    np.testing.assert_array_equal(interpret(func, [x])[0], rounded + 1)


def test_shared_temporaries_are_wide_unless_exact_results_need_them():
    x = _numbers("bfloat16", 64)
    costly = _lowered(lambda x: (lambda e: e * e * e + e)(jnp.exp(x) + 1), x)
    assert "float32" in {b.dtype for b in buffers(costly).values()}
    exact = _lowered(lambda x: (lambda e: e * e * e + e > 3)(jnp.exp(x) + 1), x)
    assert "float32" not in {b.dtype for b in buffers(exact).values()}
    chain = _lowered(lambda x: (lambda e: (lambda g: g * g + g > 3)(jnp.exp(e) + e))(jnp.exp(x) + 1), x)
    assert len(buffers(chain)) > len(buffers(exact))
    assert "float32" not in {b.dtype for b in buffers(chain).values()}


def test_other_types_are_left_alone():
    for dtype in ("float32", "int8", "bool"):
        x = np.ones(9, dtype)
        func = lower(to_graph(jax.make_jaxpr(lambda x: x & x if x.dtype == bool else x * x + x)(x))).func
        assert widen(func) is func
