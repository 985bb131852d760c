"""Powers and roots of float32: pow and cbrt, logarithms in float64, the exponential in float32; rsqrt of both."""

from __future__ import annotations

from .vecmath_coeffs import EXP2, LOG1P_TAIL_WIDE
from .vecmath_core import LOG2E, Ops
from .vecmath_log import split_exponent

_INF = float("inf")


def rsqrt(o: Ops, x: str) -> str:
    """``1 / sqrt(x)``: infinite with the sign of a zero, NaN below zero."""
    return o.div(1.0, o.b.intrinsic("sqrt", o.t, x))


def cbrt(o: Ops, x: str) -> str:
    """Cube root."""
    w = o.widened()
    magnitude = o.abs(x)
    root = _exp2_wide(o, w.mul(_log2_wide(o, magnitude), 1 / 3))
    return o.copysign(o.select(o.compare("uno", x, x), x, root), x)


def pow(o: Ops, x: str, y: str) -> str:
    """``x**y`` with C's special cases: ``1**y`` and ``x**0`` are 1, even of NaN."""
    w = o.widened()
    return power_edges(o, x, y, _exp2_wide(o, w.mul(_log2_wide(o, o.abs(x)), o.widen(y))))


def power_edges(o: Ops, x: str, y: str, result: str) -> str:
    """``x**y`` from ``result = |x|**y``: the sign of the base and special values."""
    b = o.b
    boolean = o.t.with_dtype("bool")
    magnitude = o.abs(x)
    result = o.select(o.compare("eq", magnitude, 1.0), 1.0, result)
    # A negative base: the sign of an odd power, NaN unless the exponent is whole (infinities are even).
    half = o.mul(y, 0.5)
    whole = o.compare("eq", b.intrinsic("trunc", o.t, y), y)
    odd = b.op("and", boolean, whole, o.compare("ne", b.intrinsic("trunc", o.t, half), half))
    result = o.select(odd, o.copysign(result, x), result)
    fraction_of_negative = b.op(
        "and", boolean, b.op("xor", boolean, whole, b.const(True, boolean)), o.compare("lt", x, 0.0)
    )
    infinite_base = o.compare("eq", magnitude, _INF)
    bad = b.select(boolean, infinite_base, b.const(False, boolean), fraction_of_negative)
    bad = b.op("or", boolean, bad, o.compare("uno", x, y))
    one = b.op("or", boolean, o.compare("eq", y, 0.0), o.compare("eq", x, 1.0))
    return o.select(one, 1.0, o.select(bad, float("nan"), result))


def _log2_wide(o: Ops, x: str) -> str:
    """``log2`` of a non-negative float32 as float64, to 37 bits; -inf of 0, inf of inf, undefined of NaN."""
    w = o.widened()
    wide = o.widen(x)
    e, shift = split_exponent(w, wide)
    f = w.sub(w.from_bits(w.iop("sub", w.bits(wide), shift)), 1.0)
    square = w.mul(f, f)
    tail = w.fma(w.mul(square, f), w.horner(f, LOG1P_TAIL_WIDE), w.fma(square, -0.5, f))
    exponent = o.b.cast("sitofp", o.b.cast("trunc", e, w.i, o.i), o.i, w.t)
    result = w.fma(tail, LOG2E, exponent)
    result = w.select(w.compare("eq", wide, 0.0), -_INF, result)
    return w.select(w.compare("eq", wide, _INF), _INF, result)


def _exp2_wide(o: Ops, x: str) -> str:
    """``2**x`` of a float64 as float32."""
    w = o.widened()
    clamped = w.at_most(w.at_least(x, -152.0), 129.0)
    n, n_int = w.round_scaled(clamped, 1.0)
    f = o.narrow(w.sub(clamped, n))
    return o.scale(o.horner(f, EXP2), o.narrow(n), o.b.cast("trunc", n_int, w.i, o.i))
