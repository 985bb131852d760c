"""Random functions over several element types at once, as kernels, against the interpreter and JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from test_element_types import TARGETS, lowered, run

from tilewright.ir import dtypes
from tilewright.ir.interp import interpret
from tilewright.ir.lanes import vector_lanes

TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "bfloat16", "float32", "float64")
_BINARY = (lax.add, lax.sub, lax.mul, lax.max, lax.min)
_COMPARED = (lax.lt, lax.ge, lax.ne)
STEPS = 9


def _function(rng: np.random.Generator) -> Callable[..., list[Any]]:
    """A function that applies random operations to random earlier results, converted where types differ."""
    plan = [(int(rng.integers(0, 5)), rng.random(3), int(rng.integers(0, len(TYPES)))) for _ in range(STEPS)]

    def fn(*args: Any) -> list[Any]:
        found = list(args)
        for kind, picks, number in plan:
            a, b = (found[int(p * len(found))] for p in picks[:2])
            b = lax.convert_element_type(b, a.dtype)
            match kind:
                case _ if number == 0:
                    found.append(lax.neg(a))
                case 0 | 1:
                    found.append(_BINARY[int(picks[2] * len(_BINARY))](a, b))
                case 2:
                    found.append(lax.convert_element_type(a, TYPES[number]))
                case 3:
                    found.append(lax.select(_COMPARED[int(picks[2] * len(_COMPARED))](a, b), b, a))
                case _:
                    found.append(_COMPARED[int(picks[2] * len(_COMPARED))](a, b).astype(TYPES[number]))
        return found[len(args) :]

    return fn


def _argument(dtype: str, rng: np.random.Generator, size: int) -> np.ndarray:
    if dtypes.is_integer(dtype):
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, size, dtype=dtype, endpoint=True)
    return rng.uniform(-3, 3, size).astype(dtypes.to_numpy(dtype))


def _close(got: np.ndarray, want: np.ndarray, largest: float, what: str) -> None:
    """Integers are equal; floats may differ by the roundings to 16 bits that one side left out."""
    if not dtypes.is_float(want.dtype.name):
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    got, want = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=0, atol=STEPS * 2.0**-8 * largest, err_msg=what)


@pytest.mark.parametrize("seed", range(24))
def test_random_functions_of_mixed_types(seed):
    rng = np.random.default_rng(seed)
    fn = _function(rng)
    types = [str(t) for t in rng.choice(TYPES, 3, replace=False)]
    args = [_argument(t, rng, 69) for t in types]
    if any(dtypes.is_float(t) for t in types):  # large integers would leave nothing of the others
        args = [np.clip(a, 0, 3) if dtypes.is_integer(a.dtype.name) else a for a in args]
    with jax.enable_x64(True):
        every = [np.asarray(v) for v in jax.jit(fn)(*args)]
        work = lowered(lambda *a: [lax.max(v, v) for v in fn(*a)[-3:]], *args)
    found = run(work, TARGETS[sorted(TARGETS)[seed % len(TARGETS)]], args)
    floats = [np.abs(v.astype(np.float64)) for v in every if dtypes.is_float(v.dtype.name)]
    largest = max((float(v[np.isfinite(v)].max(initial=0)) for v in floats), default=0.0)
    for got, interpreted, want in zip(found, interpret(work.func, args), every[-3:], strict=True):
        np.testing.assert_array_equal(got, interpreted, err_msg="against the interpreter")
        _close(got, want, largest, "against JAX")


def test_one_number_of_lanes_per_program():
    """Vectors of a mixed program have as many lanes as its widest type allows."""
    wide = TARGETS["wide"]
    for dtype, size in (("int8", 1), ("bfloat16", 4), ("float64", 8), ("bool", 1)):
        x = np.zeros(500, dtypes.to_numpy(dtype))
        with jax.enable_x64(True):
            work = lowered(lambda x: jnp.logical_not(x) if x.dtype == bool else x * x, x)
        assert vector_lanes(work.func, wide) == wide.vector_bytes // size
