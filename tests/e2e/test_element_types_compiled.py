"""Whole functions in other element types than float32, compiled to native code, against `jax.jit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tilewright as tw
from tilewright.driver import pipeline
from tilewright.ir.dtypes import is_float, is_integer, to_numpy


@pytest.fixture(autouse=True)
def _setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """64 bits are kept, and everything that has kernels is native."""
    monkeypatch.setattr(pipeline, "MIN_PREDICTED_SPEEDUP", 0.0)
    monkeypatch.setattr(pipeline, "WORTHWHILE_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "worthwhile", lambda parts, choices, target, speedup: dict(choices))
    with jax.enable_x64(True):
        yield


def activation(x: Any) -> Any:
    return jax.nn.relu(x * 3 + 1) - x / (1 + jnp.abs(x))


def normalised(x: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1)


def quantised(x: Any) -> Any:
    return jnp.clip(jnp.round(x * 16), -128, 127).astype("int8")


def compared(x: Any) -> Any:
    return (x * x + x > 1).sum(0)


def columns(x: Any) -> Any:
    return jnp.maximum(x, x[::-1]).max(0) + x.sum(0, dtype=x.dtype)


def hashed(x: Any) -> Any:
    x = x ^ (x >> 3)
    x = x * jnp.asarray(77, x.dtype) + (x << 2)
    return jnp.where(x % 7 == 0, x // 5, ~x)


def counted(x: Any) -> Any:
    return jax.lax.population_count(x).astype("int32").sum(1), (x > 5).any(0), x.min(1)


def smooth(x: Any) -> Any:
    return jax.nn.gelu(x) + jnp.exp(jnp.sin(x)) * jax.nn.sigmoid(x) - jnp.log1p(x * x) * jnp.arctan2(x, 1 + x * x)


CASES: list[tuple[str, Callable[..., Any]]] = [
    *(("float16", fn) for fn in (smooth, compared)),
    *(("bfloat16", fn) for fn in (smooth, activation, normalised, quantised)),
    *(("float64", fn) for fn in (smooth, normalised, columns)),
    *(("int8", fn) for fn in (hashed, counted, columns)),
    ("uint64", hashed),
    ("int64", counted),
]


def _argument(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    if is_integer(dtype):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, (37, 53), dtype=dtype, endpoint=True)
    return rng.standard_normal((37, 53)).astype(to_numpy(dtype))


@pytest.mark.parametrize(("dtype", "fn"), CASES, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_functions_run_natively(dtype: str, fn: Callable[..., Any]) -> None:
    x = _argument(dtype)
    fast = tw.compile(fn, effort=0, database=":memory:")
    found, wanted = fast(x), jax.jit(fn)(x)
    report = fast.report()
    assert report.mode == "native", str(report)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        if not is_float(want.dtype.name):
            np.testing.assert_array_equal(got, want)
            continue
        step = 8 * float(jnp.finfo(want.dtype).eps)
        got, want = (np.asarray(a).astype(np.float64) for a in (got, want))
        np.testing.assert_allclose(got, want, rtol=step, atol=step * float(np.abs(want).max()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_special_values(dtype: str) -> None:
    """NaN, infinities, signed zeros and subnormal numbers are what they are under `jax.jit`."""
    kind = to_numpy(dtype)
    tiny = jnp.finfo(kind).smallest_subnormal
    with np.errstate(over="ignore"):
        x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -3 * tiny, 1e4, 0.1, -2.5, 6e4], kind)
    functions = [lambda v: v * 2, lambda v: v + v, lambda v: jnp.maximum(v, -7), lambda v: -v, lambda v: v / 4]
    for fn in functions:
        fast = tw.compile(fn, effort=0, database=":memory:")
        got, want = np.asarray(fast(x)), np.asarray(jax.jit(fn)(x))
        assert fast.report().mode == "native"
        bits = f"uint{8 * kind.itemsize}"
        number = ~np.isnan(want.astype(np.float64))
        np.testing.assert_array_equal(np.isnan(got.astype(np.float64)), ~number)
        np.testing.assert_array_equal(got.view(bits)[number], want.view(bits)[number])


def test_contractions_of_other_types_stay_xla() -> None:
    """The region around them is cut there, not lost."""
    x = _argument("bfloat16")
    fast = tw.compile(lambda x: activation(activation(x) @ x.T), effort=0, database=":memory:")
    got, want = fast(x), jax.jit(lambda x: activation(activation(x) @ x.T))(x)
    report = str(fast.report())
    assert "native" in report and "dot_general" not in report.split("xla")[0]
    np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(want, np.float32), rtol=0.1, atol=1.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ["erf_inv", "lgamma", "digamma"])
def test_special_values_are_those_of_this_jax(name: str, dtype: str) -> None:
    points = "0 -0 1 -1 2 -2 -3 0.5 -0.5 0.25 3.5 -2.5 20 -20 -2.75 inf -inf nan".split()
    x = np.tile(np.array(points, np.float64), 30).astype(to_numpy(dtype))
    fast = tw.compile(getattr(jax.lax, name), effort=0, database=":memory:")
    found, wanted = (np.asarray(fn(x)).astype(np.float64) for fn in (fast, jax.jit(getattr(jax.lax, name))))
    assert fast.report().mode == "native", str(fast.report())
    bound = 32 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found, wanted, rtol=bound, atol=bound)
