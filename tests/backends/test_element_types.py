"""Kernels in every element type against JAX: all elementwise functions on extreme values, conversions, reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guarded_memory import run_native
from jax import lax

from tilewright.backends.llvm.codegen import compile_kernel
from tilewright.backends.llvm.vecmath import SUPPORTED
from tilewright.driver.planning import partition
from tilewright.frontends.jaxpr import to_graph
from tilewright.ir import dtypes
from tilewright.ir.interp import interpret
from tilewright.ir.target import Target, detect_target
from tilewright.passes.lower import Workload, lower
from tilewright.passes.manager import PassManager
from tilewright.passes.pipeline import GRAPH_PASSES
from tilewright.passes.schedule import replay
from tilewright.search.sketch import sketches

Array = np.ndarray[Any, np.dtype[Any]]
WIDE = detect_target()
TARGETS = {"wide": WIDE, "avx2": WIDE.restricted("avx2")} if WIDE.arch == "x86_64" else {"wide": WIDE}
NUMBERS = (*dtypes.INTEGERS, *dtypes.FLOATS)

_ANY = ("eq", "ne", "lt", "le", "gt", "ge", "max", "min")
_BITS = ("bitwise_and", "bitwise_or", "bitwise_xor")
_SHIFTS = ("shift_left", "shift_right_logical", "shift_right_arithmetic")
_ARITHMETIC = ("add", "sub", "mul", "div")
_UNARY = {
    "integer": ("sign", "square", "bitwise_not", "population_count", "clz"),
    "float": ("neg", "abs", "sign", "square", "sqrt", "floor", "ceil", "is_finite", "round"),
}
_REDUCTIONS: dict[str, Callable[..., Any]] = {"sum": jnp.sum, "prod": jnp.prod, "max": jnp.max, "min": jnp.min}


@pytest.fixture(autouse=True)
def _wide_types():
    with jax.enable_x64(True):
        yield


def _binary(dtype: str) -> list[Callable[..., Any]]:
    names = _ANY + (() if dtype == "bool" else _ARITHMETIC)
    if dtypes.is_integer(dtype):
        names += (*_BITS, *_SHIFTS, "rem")
    elif dtype == "bool":
        names += _BITS
    return [getattr(lax, name) for name in names]


def _unary(dtype: str) -> list[Callable[..., Any]]:
    if dtype == "bool":
        return [lax.bitwise_not]
    found: list[Callable[..., Any]] = [
        getattr(lax, n) for n in _UNARY["float" if dtypes.is_float(dtype) else "integer"]
    ]
    if dtype in dtypes.SIGNED:
        found += [lax.neg, lax.abs]
    if dtypes.is_integer(dtype):
        found += [lambda x: lax.integer_pow(x, 3), lambda x: lax.clamp(jnp.full_like(x, 2), x, jnp.full_like(x, 9))]
    return found


def special(dtype: str) -> Array:
    """Values at which functions go wrong. Numbers that the processor flushes to zero are not among them."""
    kind = dtypes.to_numpy(dtype)
    if dtype == "bool":
        return np.array([False, True])
    if dtypes.is_integer(dtype):
        info = np.iinfo(kind)
        bits = 8 * kind.itemsize
        found = [0, 1, 2, 3, 7, bits - 1, bits, bits + 1, info.max, info.max - 1, info.min, info.min + 1]
        return np.array(found + ([-1, -2, -7] if info.min < 0 else []), kind)
    finite = [0.0, -0.0, 1.0, -1.0, 0.5, -1.5, 2.5, 3.0, 100.25, -127.5, 300.7, 60000.0, -(2.0**31), 2.0**63, 1e-4]
    with np.errstate(over="ignore"):
        return np.array([*finite, np.nan, np.inf, -np.inf, 2.0**-24 if dtype == "float16" else 0.1], kind)


def pairs(dtype: str) -> tuple[Array, Array]:
    """Every pair of special values."""
    x, y = np.meshgrid(special(dtype), special(dtype))
    return x.ravel(), y.ravel()


def lowered(fn: Callable[..., Any], *args: Array) -> Workload:
    """One workload of a function."""
    return lower(to_graph(jax.make_jaxpr(fn)(*args)))


def run(work: Workload, target: Target, arrays: list[Array]) -> list[Array]:
    """The workload with its default schedule on a target."""
    sketch = sketches(work.func, target)[0]
    kernel = compile_kernel(replay(work.func, sketch.build(dict(sketch.default))), target)
    return run_native(kernel, [np.asarray(a).reshape(b.shape) for a, b in zip(arrays, work.func.inputs, strict=True)])


def same(got: Array, want: Any, what: str = "") -> None:
    """Equal to the last bit, zeros with their signs, NaN equal to NaN."""
    want = np.asarray(want).reshape(got.shape)
    assert got.dtype == want.dtype, what
    exact = [a.astype(np.float64) if dtypes.is_float(a.dtype.name) else a for a in (got, want)]
    np.testing.assert_array_equal(*exact, err_msg=what)
    if dtypes.is_float(got.dtype.name):
        number = ~np.isnan(exact[0])
        np.testing.assert_array_equal(*(np.signbit(a[number]) for a in exact), err_msg=what)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [*NUMBERS, "bool"])
def test_functions_of_every_type_equal_jax(dtype, target):
    x, y = pairs(dtype)
    signs = ("max", "min")  # the sign of a zero that is the larger of two zeros is left open

    def fn(x: Any, y: Any) -> list[Any]:
        return [*(f(x, y) for f in _binary(dtype)), *(f(x) for f in _unary(dtype))]

    names = [f.__name__ for f in (*_binary(dtype), *_unary(dtype))]
    work = lowered(fn, x, y)
    found, wanted = run(work, TARGETS[target], [x, y]), jax.jit(fn)(x, y)
    for name, got, want in zip(names, found, wanted, strict=True):
        want = np.asarray(want)
        if name in signs and dtypes.is_float(dtype):
            got, want = np.where(got == 0, 0, got), np.where(want == 0, 0, want)
        same(got, want, f"{name} of {dtype}")
    for name, got, want in zip(names, interpret(work.func, [x, y]), found, strict=True):
        equal = (got == want) | ((got != got) & (want != want))
        assert equal.all(), f"the interpreter's {name} of {dtype}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", [*NUMBERS, "bool"])
def test_conversions_between_all_types_equal_jax(source, target):
    x = np.resize(special(source), 37)
    others = [t for t in (*NUMBERS, "bool") if t != source]

    def fn(x: Any) -> list[Any]:
        return [lax.convert_element_type(x, t) for t in others]

    for dtype, got, want in zip(others, run(lowered(fn, x), TARGETS[target], [x]), jax.jit(fn)(x), strict=True):
        same(got, want, f"{source} to {dtype}")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", ["int16", "int32", "int64", "uint64", "float64"])
def test_a_tail_of_one_lane_is_stored_alone(source, target):
    """Truncated vectors and masks with a single lane: nothing behind the last element is written."""
    x = np.resize(special(source), 65)  # a whole number of vectors and one element
    for dtype in (t for t in (*NUMBERS, "bool") if dtypes.itemsize(t) < dtypes.itemsize(source)):
        fn = lambda x, t=dtype: lax.convert_element_type(x, t)  # noqa: E731
        (got,) = run(lowered(fn, x), TARGETS[target], [x])
        same(got, jax.jit(fn)(x), f"{source} to {dtype}")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_chosen_elements_of_narrow_floats(dtype, target, rng):
    """Single elements that cross branches: no library is called for them, which no kernel could be linked with."""
    x = rng.standard_normal(40).astype(dtypes.to_numpy(dtype))
    at = rng.integers(-5, 90, 23).astype(np.int32)

    def fn(x: Any, at: Any) -> Any:
        return jnp.take(lax.pad(x, jnp.ones((), x.dtype), [(1, 2, 1)]), at, mode="clip")

    workload = partition(PassManager(GRAPH_PASSES).run(to_graph(jax.make_jaxpr(fn)(x, at)))).workloads.popitem()[1]
    (got,) = run(workload, TARGETS[target], [x, at])
    same(got, jax.jit(fn)(x, at), dtype)


SHAPES = ((13, 67), (1, 1), (5, 1), (1, 130), (0, 4), (3, 0))
SAMPLED = ("int8", "bfloat16", "float64")


def _numbers(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if dtypes.is_integer(dtype):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return rng.integers(-3, 4, shape).astype(dtypes.to_numpy(dtype))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_reductions_of_every_type_equal_jax(dtype, shape, rng, request):
    """Small integers as floats, so that no order of a sum rounds; products wrap around or stay powers of two."""
    if shape != SHAPES[0] and dtype not in SAMPLED and not request.config.getoption("--full"):
        pytest.skip("a sample in a normal run: pytest --full")
    x = _numbers(dtype, shape, rng)
    for number, (name, reduce) in enumerate(_REDUCTIONS.items()):
        if name in ("max", "min") and 0 in shape:
            continue
        axis, target = number % 2, tuple(TARGETS.values())[number % len(TARGETS)]
        given = (
            np.exp2(np.sign(x.astype(np.float32))).astype(x.dtype) if name == "prod" and x.dtype.kind not in "iu" else x
        )
        fn = lambda v, reduce=reduce, axis=axis: reduce(v, axis, **_kept(reduce, v))  # noqa: E731
        (got,) = run(lowered(fn, given), target, [given])
        same(got, jax.jit(fn)(given), f"{name} of {dtype} along {axis}")


def _kept(reduce: Callable[..., Any], x: Any) -> dict[str, Any]:
    return {"dtype": x.dtype} if reduce in (jnp.sum, jnp.prod) else {}


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_pooling_of_every_type_equals_jax(dtype, channels_last, rng):
    x = rng.integers(-3, 4, (1, 9, 11, 35) if channels_last else (1, 3, 9, 35)).astype(dtypes.to_numpy(dtype))
    window, strides = ((1, 3, 3, 1), (1, 2, 2, 1)) if channels_last else ((1, 1, 3, 3), (1, 1, 2, 2))
    lowest = x.dtype.type(-np.inf) if dtypes.is_float(dtype) else x.dtype.type(np.iinfo(dtype).min)
    for init, combine, target in ((lowest, lax.max, "wide"), (x.dtype.type(0), lax.add, sorted(TARGETS)[0])):
        fn = lambda v, i=init, c=combine: lax.reduce_window(v, i, c, window, strides, "SAME")  # noqa: E731
        assert "reduce_window_" in str(jax.make_jaxpr(fn)(x))
        (got,) = run(lowered(fn, x), TARGETS[target], [x])
        same(got, jax.jit(fn)(x), f"{combine.__name__} of {dtype}")


@pytest.mark.parametrize("target", TARGETS)
def test_booleans_are_reduced(target, rng):
    x = rng.integers(0, 8, (9, 70)) > 0
    for fn in (lambda v: v.all(1), lambda v: v.any(0), lambda v: v.all(), lambda v: (~v).any(1) & v.all(1)):
        (got,) = run(lowered(fn, x), TARGETS[target], [x])
        same(got, jax.jit(fn)(x))


def test_every_function_that_kernels_take_is_tried_in_every_type():
    """What `SUPPORTED` lists without being a function of one float type is covered above."""
    tried = {"select_n", "copy", "convert_element_type", "bitcast_convert_type", "add_any", "clamp", "integer_pow"}
    jaxprs = {d: [*_binary(d), *_unary(d)] for d in ("int8", "float32", "bool")}
    for dtype, functions in jaxprs.items():
        x, y = pairs(dtype)
        for f in functions:
            args = (x, y) if f in _binary(dtype) else (x,)
            tried |= {e.primitive.name for e in jax.make_jaxpr(f)(*args).eqns}
    exact = {n for n, types in SUPPORTED.items() if types & set(dtypes.INTEGERS) or {"float16", "float64"} <= types}
    assert exact - tried <= {"exp", "threefry"} | _MATH


_MATH = {n for n, types in SUPPORTED.items() if types <= set(dtypes.FLOATS)}
