"""Every elementwise function of the interpreter against jax.lax, on ordinary and on extreme operands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import primitives

from tilewright.ir import dtypes, elementwise, interp_ops

FLOATS = ("bfloat16", "float32", "float64")
INTEGERS = ("int8", "int32", "uint8")
STATED = ("convert_element_type", "bitcast_convert_type")
# Distance allowed to XLA's own approximations, in units of the last place of the type; exact functions allow none.
ULPS: dict[str, dict[str, int]] = {
    "float64": dict.fromkeys(("erf_inv", "erfc", "erf"), 64),
    "float32": {"tan": 16, "erf_inv": 16, "erfc": 16, "pow": 16},
}
LAX_NAMES = {
    "and": lax.bitwise_and,
    "or": lax.bitwise_or,
    "xor": lax.bitwise_xor,
    "not": lax.bitwise_not,
    "larger": lambda x, y: jnp.where(y > x, y, x),
    "decay": lax.exp,
}
INEXACT = {*interp_ops._TRANSCENDENTAL, "integer_pow"}


@pytest.fixture(autouse=True)
def _with_64_bits() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def operands(dtype: str, seed: int) -> np.ndarray:
    """Ordinary values, then the extreme ones of the type."""
    rng = np.random.default_rng(seed)
    if dtype == dtypes.BOOL:
        return np.array([True, False])
    if dtypes.is_integer(dtype):
        info = np.iinfo(dtype)
        special = [0, 1, 2, 7, info.max, info.min, info.min // 2, 31, 32, 33, *([-1, -2, -3] if info.min else [])]
        return np.array([*rng.integers(max(info.min, -100), 100, 12), *special], dtypes.to_numpy(dtype))
    special = [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, -2.5, 0.49999997, np.inf, -np.inf, np.nan]
    return np.array([*rng.normal(0, 2, 14), *special], dtypes.to_numpy(dtype))


def cases() -> Iterator[tuple[str, str]]:
    for op, signature in elementwise.SIGNATURES.items():
        if op in STATED or op == "copy":
            continue
        for dtype in (*FLOATS, *INTEGERS, dtypes.BOOL):
            if elementwise._DOMAINS[signature.domain](dtype):
                yield op, dtype


def check_equal(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    if found.dtype.kind not in "biu":  # NumPy does not see that a bfloat16 is NaN
        found, expected = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(found, expected)


def check_close(op: str, found: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    assert found.dtype == expected.dtype
    if op not in INEXACT or expected.dtype.kind in "biu":
        check_equal(found, expected)
        return
    least = 24 * float(jnp.finfo(expected.dtype).eps) if op in ("lgamma", "digamma") else 0.0  # what XLA's cancels
    ulps = ULPS.get(dtype, {}).get(op, 8)
    eps, tiny = float(jnp.finfo(expected.dtype).eps), float(jnp.finfo(expected.dtype).tiny)
    np.testing.assert_allclose(
        found.astype(np.float64),
        expected.astype(np.float64),
        rtol=ulps * eps,
        atol=max(least, ulps * max(eps**2, tiny)),
    )


def arguments(op: str, dtype: str) -> list[np.ndarray]:
    """All pairs of operands, as the columns of the function's arguments."""
    values = operands(dtype, 1)
    if op == "digamma":  # at zero JAX 0.10 and 0.11 differ
        return [values[values != 0]]
    if elementwise.SIGNATURES[op].arity == 1:
        return [values]
    pairs = [np.repeat(values, len(values)), np.tile(values, len(values))]
    if op == "clamp":
        low, high = np.sort(pairs, axis=0)
        return [low, np.roll(pairs[0], 3), high]
    return [np.arange(len(pairs[0])) % 2 == 0, *pairs] if op == "select_n" else pairs


def variants(op: str) -> list[tuple[int, ...]]:
    return {"integer_pow": [(2,), (3,), (7,)], "round": [(0,), (1,)]}.get(op, [()])


@cache
def lax_results(dtype: str) -> dict[tuple[str, tuple[int, ...]], np.ndarray]:
    """What jax.lax gives for every function on one element type, compiled at once to save time."""
    ops = [op for op, d in cases() if d == dtype]
    compute = jax.jit(lambda args: {(op, p): _lax(op, p)(*args[op]) for op in ops for p in variants(op)})
    return {key: np.asarray(value) for key, value in compute({op: arguments(op, dtype) for op in ops}).items()}


@pytest.mark.parametrize(("op", "dtype"), list(cases()))
def test_function_is_that_of_lax(op: str, dtype: str) -> None:
    args = arguments(op, dtype)
    for params in variants(op):
        expected = lax_results(dtype)[op, params]
        found = interp_ops.apply(op, args, str(expected.dtype), params)
        check_close(op, found, expected, dtype)
        elementwise.check(op, [str(a.dtype) for a in args], str(expected.dtype), params)


def _lax(op: str, params: tuple[int, ...]) -> Callable[..., Any]:
    if op == "integer_pow":
        return lambda x: lax.integer_pow(x, params[0])
    if op == "round":
        return lambda x: lax.round(x, lax.RoundingMethod(params[0]))
    return LAX_NAMES[op] if op in LAX_NAMES else getattr(lax, op)


@pytest.mark.parametrize("old", [*FLOATS, *INTEGERS, "bool"])
@pytest.mark.parametrize("new", [*FLOATS, *INTEGERS, "bool"])
def test_conversion_is_that_of_lax(old: str, new: str) -> None:
    x = operands(old, 2)
    if old in FLOATS:
        x = np.concatenate([x, np.array([127.6, -128.9, 255.5, 300.0, -300.0, 3e9, -3e9, 2e19], x.dtype)])
    with jax.enable_x64(True):  # and as XLA does it: JAX leaves what is NumPy's to NumPy
        expected = np.asarray(lax.convert_element_type(jnp.asarray(x), dtypes.to_numpy(new)))
    check_equal(interp_ops.apply("convert_element_type", [x], new), expected)


def test_bitcast_keeps_bits() -> None:
    x = operands("float32", 3)
    expected = np.asarray(lax.bitcast_convert_type(x, np.int32))
    np.testing.assert_array_equal(interp_ops.apply("bitcast_convert_type", [x], "int32"), expected)


def test_random_words_are_those_of_jax() -> None:
    key = np.array([0x13198A2E, 0x03707344], np.uint32)
    counters = np.array([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF, *range(1000, 1064)], np.uint32)
    keys = [np.full_like(counters, word) for word in key]
    high, low = primitives.threefry2x32_p.bind(*keys, np.zeros_like(counters), counters)
    np.testing.assert_array_equal(interp_ops.apply("threefry", [*keys, counters], "uint32"), high ^ low)


def test_float_power_with_integer_exponent() -> None:
    x, y = np.array([2.0, -2.0, 0.5, 0.0], np.float32), np.array([3, 3, -2, 0], np.int32)
    np.testing.assert_array_equal(interp_ops.apply("pow", [x, y], "float32"), np.asarray(lax.pow(x, y)))


def test_negative_integer_power_of_floats() -> None:
    x = np.array([2.0, -4.0, 0.0], np.float32)
    expected = np.asarray(lax.integer_pow(x, -2))
    np.testing.assert_array_equal(interp_ops.apply("integer_pow", [x], "float32", (-2,)), expected)


def test_every_signature_has_a_function() -> None:
    assert set(elementwise.SIGNATURES) == interp_ops.NAMES
