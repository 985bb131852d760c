"""What each elementwise function computes, in NumPy: the definition that compiled code is tested against.

The functions mean what ``jax.lax`` means by their names, on every input: integer division truncates and never traps,
shifts may be too far, NaN propagates through max and min, conversions to integers saturate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from . import dtypes

Array = np.ndarray[Any, np.dtype[Any]]


def apply(op: str, args: Sequence[Array], dtype: str, params: Sequence[int | str] = ()) -> Array:
    """Apply an elementwise function to arrays of one shape.

    Args:
        op: its ``jax.lax`` name (see `ir.elementwise`).
        args: the operands.
        dtype: element type of the result.
        params: static parameters.

    Returns:
        The result. Transcendental functions of float32 and narrower types are evaluated in float64 and rounded once.

    Raises:
        KeyError: the function is not known.
    """
    with np.errstate(all="ignore"):
        if op in ("convert_element_type", "bitcast_convert_type"):
            new = dtypes.to_numpy(dtype)
            return args[0].view(new) if op == "bitcast_convert_type" else convert(args[0], new)
        if op in _TRANSCENDENTAL:
            wide = [a.astype(np.float64) for a in args]
            return np.asarray(_TRANSCENDENTAL[op](*wide)).astype(dtypes.to_numpy(dtype))
        return np.asarray(_EXACT[op](*args, *params)).astype(dtypes.to_numpy(dtype), copy=False)


def convert(x: Array, dtype: np.dtype[Any]) -> Array:
    """Convert elements: floats to integers by truncation, saturating, NaN to 0; integers wrap around."""
    if dtype == np.bool_:
        return np.asarray(x != 0)
    if x.dtype.kind in "biu" or dtype.kind not in "iu":
        return x.astype(dtype)
    info = np.iinfo(dtype)
    wide = np.trunc(x.astype(np.float64))
    low, high = wide <= float(info.min), wide >= float(info.max)
    out = np.where(low | high | np.isnan(wide), 0.0, wide).astype(dtype)
    out[low] = info.min
    out[high] = info.max
    return out


def _is_int(x: Array) -> bool:
    return x.dtype.kind in "iu"


# ---- arithmetic


def _div(x: Array, y: Array) -> Array:
    if not _is_int(x):
        return x / y
    zero = y == 0
    # Floor division corrected to truncation; an overflowing quotient (min / -1) wraps to min.
    safe = np.where(zero, np.ones_like(y), y)
    quotient = x // safe
    inexact = quotient * safe != x
    quotient = quotient + (inexact & ((x < 0) != (safe < 0))).astype(x.dtype)
    return np.where(zero, ~np.zeros_like(x), quotient)


def _rem(x: Array, y: Array) -> Array:
    if not _is_int(x):
        return np.fmod(x, y)
    zero = y == 0
    safe = np.where(zero, np.ones_like(y), y)
    return np.where(zero, x, np.fmod(x, safe))


def _power_by_squaring(x: Array, y: int) -> Array:
    result = np.ones_like(x)
    base, left = x, abs(y)
    while left:
        if left & 1:
            result = result * base
        base = base * base
        left >>= 1
    return np.ones_like(x) / result if y < 0 else result


def _sign(x: Array) -> Array:
    return np.sign(x) if _is_int(x) else np.where(x == 0, x, np.sign(x))


def _round(x: Array, method: int) -> Array:
    """Round to an integer, halves away from zero (method 0) or to even (method 1)."""
    if method:
        return np.rint(x)
    whole = np.trunc(x)
    half = np.abs(x - whole) >= x.dtype.type(0.5)
    return np.copysign(np.where(half, whole + np.sign(x), whole), x)


# ---- bits


def _bits(x: Array) -> int:
    return x.dtype.itemsize * 8


def _unsigned(x: Array) -> Array:
    return x.view(np.dtype(f"uint{_bits(x)}"))


def _too_far(x: Array, y: Array) -> Array:
    return np.asarray(_unsigned(y) >= _bits(x))


def _shift_left(x: Array, y: Array) -> Array:
    far = _too_far(x, y)
    return np.where(far, np.zeros_like(x), x << np.where(far, np.zeros_like(y), y))


def _shift_right_logical(x: Array, y: Array) -> Array:
    far = _too_far(x, y)
    shifted = _unsigned(x) >> _unsigned(np.where(far, np.zeros_like(y), y))
    return np.where(far, np.zeros_like(x), shifted.view(x.dtype))


def _shift_right_arithmetic(x: Array, y: Array) -> Array:
    signed = x.view(np.dtype(f"int{_bits(x)}"))
    count = np.where(_too_far(x, y), _bits(x) - 1, _unsigned(y)).astype(signed.dtype)
    return (signed >> count).view(x.dtype)


def _clz(x: Array) -> Array:
    left, count = _unsigned(x).copy(), np.full(x.shape, _bits(x))
    while left.any():
        count = np.where(left != 0, count - 1, count)
        left = left >> 1
    return count


# ---- special functions (float64 in, float64 out)


def _erf_inv(x: Array) -> Array:
    return np.array([_erf_inv_scalar(float(v)) for v in x.ravel()]).reshape(x.shape)


def _erf_inv_scalar(x: float) -> float:
    if math.isnan(x) or abs(x) > 1:
        return math.nan
    if abs(x) == 1:
        return math.copysign(math.inf, x)
    guess = -NormalDist().inv_cdf((1 - abs(x)) / 2) / math.sqrt(2) if abs(x) < 1 else math.inf
    # One Newton step restores the digits that 1 - |x| loses where x is small.
    slope = 2 / math.sqrt(math.pi) * math.exp(-guess * guess)
    return math.copysign(guess - (math.erf(guess) - abs(x)) / slope, x)


def _lgamma(x: float) -> float:
    return math.inf if math.isinf(x) or (x <= 0 and x == math.floor(x)) else math.lgamma(x)


def _digamma(x: float) -> float:
    """By the recurrence up to 16, where six terms of the asymptotic series are enough."""
    if math.isnan(x) or x == -math.inf or (x <= 0 and x == math.floor(x)):
        return math.nan
    if x < 0:
        return _digamma(1 - x) - math.pi / math.tan(math.pi * (x - round(x)))
    total = 0.0
    while x < 16:
        total -= 1 / x
        x += 1
    square = 1 / (x * x)
    terms = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760)
    return total + math.log(x) - 0.5 / x - sum(term * square ** (k + 1) for k, term in enumerate(terms))


def _logistic(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _each(f: Callable[[float], float]) -> Callable[[Array], Array]:
    return lambda x: np.array([f(float(v)) for v in x.ravel()]).reshape(x.shape)


_TRANSCENDENTAL: dict[str, Callable[..., Any]] = {
    "exp": np.exp,
    "decay": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "cbrt": np.cbrt,
    "logistic": _logistic,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "pow": np.power,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "erf": _each(math.erf),
    "erfc": _each(math.erfc),
    "erf_inv": _erf_inv,
    "lgamma": _each(_lgamma),
    "digamma": _each(_digamma),
}

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def _threefry(k0: Array, k1: Array, i: Array) -> Array:
    """Threefry-2x32 with 20 rounds of the counter (0, i), both words exclusive-ored (Salmon et al., SC 2011)."""
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(_PARITY))
    x, y = k0, i + k1
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = (y << np.uint32(rotation) | y >> np.uint32(32 - rotation)) ^ x
        x, y = x + keys[(group + 1) % 3], y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x ^ y


_EXACT: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _div,
    "rem": _rem,
    "max": np.maximum,
    "larger": lambda x, y: np.where(y > x, y, x),
    "min": np.minimum,
    "nextafter": np.nextafter,
    "neg": np.negative,
    "abs": np.abs,
    "sign": _sign,
    "square": lambda x: x * x,
    "integer_pow": _power_by_squaring,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": _round,
    "is_finite": np.isfinite,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "population_count": lambda x: np.bitwise_count(_unsigned(x)),
    "clz": _clz,
    "shift_left": _shift_left,
    "shift_right_logical": _shift_right_logical,
    "shift_right_arithmetic": _shift_right_arithmetic,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "select_n": lambda condition, if_false, if_true: np.where(condition, if_true, if_false),
    "copy": np.copy,
    "threefry": _threefry,
}
NAMES = frozenset((*_TRANSCENDENTAL, *_EXACT, "convert_element_type", "bitcast_convert_type"))
