"""Workloads that every backend is held to, beside those of the tests of passes; helpers that tests share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax
from workloads import CASES, Case, layer_norm, sample

from tilewright.ir import dtypes
from tilewright.ir.interp import interpret
from tilewright.ir.loop import LoopFunc
from tilewright.ir.text import parse_ir
from tilewright.passes.packing import pack_array

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Run:
    """Arguments of a program and what JAX gives for them, if it was made from a JAX function."""

    arrays: tuple[Array, ...]
    wanted: tuple[Array, ...] | None = None


@dataclass(frozen=True, eq=False)
class Program:
    """An unscheduled program with arguments.

    Args:
        name: test id.
        func: the program.
        runs: arguments to run it on.
        exact: whether results don't depend on the order of operations.
    """

    name: str
    func: LoopFunc
    runs: tuple[Run, ...]
    exact: bool
    interpreted: dict[int, tuple[Array, ...]] = field(default_factory=dict)

    def arguments(self, run: Run, func: LoopFunc) -> list[Array]:
        """Arrays in the layout that a scheduled form of the program wants."""
        pairs = zip(run.arrays, func.inputs, strict=True)
        return [pack_array(a, b) if b.packing else np.array(a.reshape(b.shape), order="C") for a, b in pairs]

    def check(self, run: Run, outputs: list[Array]) -> None:
        """Compare outputs with the interpreter's, and with JAX's."""
        number = self.runs.index(run)
        if number not in self.interpreted:
            self.interpreted[number] = interpret(self.func, self.arguments(run, self.func))
        for got, want in zip(outputs, self.interpreted[number], strict=True):
            close(got, want, self.exact, f"{self.name}, run {number}, against the interpreter")
        for got, want in zip(outputs, run.wanted or (), strict=run.wanted is not None):
            close(got, want, self.exact, f"{self.name}, run {number}, against JAX")


def close(got: Array, want: Array, exact: bool, what: str) -> None:
    """Equal, NaN equal to NaN; unless exact, within rounding of the largest value."""
    got, want = np.asarray(got), np.asarray(want).reshape(np.shape(got))
    assert got.dtype == want.dtype, what
    if exact or not dtypes.is_float(str(got.dtype)):
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    narrow = got.dtype == ml_dtypes.bfloat16
    got, want = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=what)
    finite = want[np.isfinite(want)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    rtol, atol = (2**-7, 2**-8) if narrow else (2e-5, 4e-6)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol * largest + 1e-30, err_msg=what)


def lowered_case(case: Case) -> Program:
    """A case as a program, with numbers and, where it may hold them, with NaN and infinities."""
    samples = [sample(case, special) for special in ((False, True) if case.special else (False,))]
    runs = tuple(Run(s.arrays, s.wanted) for s in samples)
    return Program(case.name, samples[0].func, runs, case.exact)


# ---- more cases

_SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e30, 88.5, -104, 0.5, -0.75, 1, 3, -7.5], np.float32)
_PAIRS = np.stack(np.meshgrid(_SPECIAL[:9], _SPECIAL[:9]), 0).reshape(2, -1)
_TRANSCENDENTAL = (jnp.exp, jnp.expm1, jnp.tanh, lax.logistic, lax.erf)
_ROOTS = (lambda x: lax.sqrt(lax.abs(x)), lambda x: lax.rsqrt(lax.abs(x) + 1), lambda x: lax.log1p(lax.abs(x)))
_PLAIN = (lax.neg, lax.abs, lax.sign, lax.floor, lax.ceil, lax.square, lambda x: lax.integer_pow(x, 3), lax.is_finite)
_BINARY = (lax.add, lax.sub, lax.mul, lax.div, lax.max, lax.min, lax.lt, lax.ge, lax.eq, lax.ne)


def _epilogue(x: Any, r: Any, w: Any, b: Any) -> Any:
    return jax.nn.gelu(x @ w + b) + r


def _matmul(m: int, k: int, n: int) -> Case:
    return Case(f"epilogue-{m}x{k}x{n}", _epilogue, ((m, k), (m, n)), ((k, n), (n,)), exact=False, special=m > 1)


def _softmax(rows: int, columns: int) -> Case:
    return Case(f"softmax-{rows}x{columns}", lambda x: jax.nn.softmax(x), ((rows, columns),), exact=False)


MORE_CASES = (
    Case("special-plain", lambda x: tuple(f(x) for f in _PLAIN), (_SPECIAL,)),
    Case("special-math", lambda x: tuple(f(x) for f in (*_TRANSCENDENTAL, *_ROOTS)), (_SPECIAL,), exact=False),
    Case("special-binary", lambda x, y: tuple(f(x, y) for f in _BINARY), tuple(_PAIRS)),
    Case("special-select", lambda x, y: jnp.where(x > y, jnp.clip(x, -1, 1), y), tuple(_PAIRS)),
    _matmul(1, 1, 1),
    _matmul(1, 7, 1),
    _matmul(5, 1, 9),
    _matmul(17, 33, 19),
    _matmul(0, 3, 4),
    _matmul(3, 0, 4),
    _softmax(1, 1),
    _softmax(1, 7),
    _softmax(9, 1),
    _softmax(0, 5),
    _softmax(13, 129),
    Case("layer-norm-1x1", layer_norm, ((1, 1),), ((1,), (1,)), exact=False, special=False),
    Case("layer-norm-13x65", layer_norm, ((13, 65),), ((65,), (65,)), exact=False, special=False),
    Case("max-of-rows", lambda x: x.max(1), ((17, 33),)),
    Case("min-of-columns", lambda x: x.min(0), ((17, 33),)),
)


# ---- programs in element types that JAX functions are not lowered in


def _program(text: str) -> LoopFunc:
    return parse_ir(f"tilewright loop ir 1\n{text.strip()}\n")


_PRODUCT = """
func product
  input x: {narrow}[9, 35]
  input w: {narrow}[35, 18]
  output y: {narrow}[9, 18]
  alloc t: {wide}[9, 18]
    block init [i: 0..9, j: 0..18]
      t[i, j] = {zero}:{wide}
    block update [i: 0..9, j: 0..18, k: 0..35 reduce]
      t[i, j] sum= {value}
    block out [i: 0..9, j: 0..18]
      y[i, j] = {result}
"""
_ROWS = """
func rows
  input x: bfloat16[9, 35]
  output y: bfloat16[9, 35]
  alloc t: float32[9]
    block init [i: 0..9]
      t[i] = -inf:float32
    block update [i: 0..9, k: 0..35 reduce]
      t[i] max= convert_element_type(x[i, k]):float32
    block out [i: 0..9, j: 0..35]
      y[i, j] = convert_element_type(exp(sub(convert_element_type(x[i, j]):float32, t[i]))):bfloat16
"""


_WIDE = "convert_element_type({}):float32"
_WIDENED = f"mul({_WIDE.format('x[i, k]')}, {_WIDE.format('w[k, j]')})"
_PRODUCT_BFLOAT16 = _PRODUCT.format(
    narrow="bfloat16", wide="float32", zero="0.0", value=_WIDENED, result="convert_element_type(t[i, j]):bfloat16"
)
_PRODUCT_INT32 = _PRODUCT.format(
    narrow="int32", wide="int32", zero="0", value="mul(x[i, k], w[k, j])", result="t[i, j]"
)


def _bfloat16() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((9, 35)), rng.standard_normal((35, 18))
    special = np.array(x)
    special[2, 3], special[5, 34] = np.nan, np.inf
    return x.astype(ml_dtypes.bfloat16), special.astype(ml_dtypes.bfloat16), w.astype(ml_dtypes.bfloat16)


def _product_bfloat16() -> Program:
    x, special, w = _bfloat16()
    return Program("product-bfloat16", _program(_PRODUCT_BFLOAT16), (Run((x, w)), Run((special, w))), False)


def _product_int32() -> Program:
    rng = np.random.default_rng(4)
    x, w = (rng.integers(-(2**31), 2**31, shape).astype(np.int32) for shape in ((9, 35), (35, 18)))
    return Program("product-int32", _program(_PRODUCT_INT32), (Run((x, w), (x @ w,)),), True)


def _rows_bfloat16() -> Program:
    x, special, _ = _bfloat16()
    return Program("rows-bfloat16", _program(_ROWS), (Run((x,)), Run((special,))), False)


PROGRAMS: dict[str, Callable[[], Program]] = {
    **{c.name: partial(lowered_case, c) for c in (*CASES, *MORE_CASES)},
    "product-bfloat16": _product_bfloat16,
    "product-int32": _product_int32,
    "rows-bfloat16": _rows_bfloat16,
}
"""Everything that backends are held to."""


@functools.cache
def program(name: str) -> Program:
    """One of `PROGRAMS`, made once per process."""
    return PROGRAMS[name]()
