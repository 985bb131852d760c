"""Trigonometric functions: sin, cos and tan of float32, and the inverse ones of float32 and float64.

Arguments of any size are reduced: ``x / (2 pi)`` modulo 1 in float64, with ``1 / (2 pi)`` in four parts (after Payne
and Hanek). Each product's whole part is removed, exactly, before the parts are added.
"""

from __future__ import annotations

import math

from .vecmath_coeffs import ATAN_TAIL, COS_TAIL, COS_TAIL_WIDE, SIN_TAIL, SIN_TAIL_WIDE, TURNS
from .vecmath_coeffs64 import ATAN_TAIL_64
from .vecmath_core import Ops

_ATAN = {"float32": ATAN_TAIL, "float64": ATAN_TAIL_64}
_PI_LOW = 1.2246467991473532e-16
"""What is missing of pi in float64."""


def _fraction(w: Ops, x: str, part: float) -> str:
    """``x * part`` modulo 1; a product of up to 77 bits needs two steps."""
    rest = w.fma(x, part, w.neg(w.rint(w.mul(x, part))))
    return w.sub(rest, w.rint(rest))


def _reduce(o: Ops, x: str) -> tuple[Ops, str, str]:
    """The angle modulo a quarter turn.

    Returns:
        Instructions on float64, the angle in [-pi/4, pi/4] as float64, and the quarter turns (modulo 4) as int32.
    """
    w = o.widened()
    wide = o.widen(x)
    first, second = _fraction(w, wide, TURNS[0]), _fraction(w, wide, TURNS[1])
    third = w.fma(wide, TURNS[2], w.neg(w.rint(w.mul(wide, TURNS[2]))))
    low = w.fma(wide, TURNS[3], third)
    high = w.add(first, second)
    turns = w.add(w.sub(high, w.rint(high)), low)
    n, n_int = w.round_scaled(turns, 4.0)
    angle = w.mul(w.fma(n, -0.25, turns), 2 * math.pi)
    return w, angle, o.b.cast("trunc", n_int, w.i, o.i)


def _odd(o: Ops, quarters: str) -> str:
    """Whether the number of quarter turns is odd."""
    return o.b.compare("ne", o.i, o.iop("and", quarters, 1), o.ci(0))


def _flip(o: Ops, value: str, quarters: str) -> str:
    """``value``, negated where bit 1 of ``quarters`` is set."""
    sign = o.iop("shl", o.iop("and", quarters, 2), 30)
    return o.from_bits(o.iop("xor", o.bits(value), sign))


def _sin_cos(o: Ops, x: str) -> tuple[str, str, str]:
    """Sine and cosine of the reduced angle, and the quarter turns."""
    _, angle, quarters = _reduce(o, x)
    r = o.narrow(angle)
    z = o.mul(r, r)
    sine = o.fma(o.mul(z, r), o.horner(z, SIN_TAIL), r)
    cosine = o.fma(o.mul(z, z), o.horner(z, COS_TAIL), o.fma(z, -0.5, 1.0))
    return sine, cosine, quarters


def sin(o: Ops, x: str) -> str:
    """Sine."""
    sine, cosine, quarters = _sin_cos(o, x)
    result = _flip(o, o.select(_odd(o, quarters), cosine, sine), quarters)
    return o.select(o.compare("eq", x, 0.0), x, result)


def cos(o: Ops, x: str) -> str:
    """Cosine."""
    sine, cosine, quarters = _sin_cos(o, x)
    return _flip(o, o.select(_odd(o, quarters), sine, cosine), o.iop("add", quarters, 1))


def tan(o: Ops, x: str) -> str:
    """Tangent, the quotient in float64."""
    w, r, quarters = _reduce(o, x)
    z = w.mul(r, r)
    sine = w.fma(w.mul(z, r), w.horner(z, SIN_TAIL_WIDE), r)
    cosine = w.fma(w.mul(z, z), w.horner(z, COS_TAIL_WIDE), w.fma(z, -0.5, 1.0))
    odd = _odd(o, quarters)
    ratio = o.narrow(w.div(w.select(odd, cosine, sine), w.select(odd, w.neg(sine), cosine)))
    return o.select(o.compare("eq", x, 0.0), x, ratio)


def atan(o: Ops, x: str) -> str:
    """Arc tangent."""
    return _atan_ratio(o, x, o.c(1.0))


def atan2(o: Ops, y: str, x: str) -> str:
    """Angle of the point (x, y), zeros with their signs and infinities as in C."""
    return _atan_ratio(o, y, x)


def asin(o: Ops, x: str) -> str:
    """Arc sine: the angle of the point ``(sqrt(1 - x**2), x)``."""
    return _atan_ratio(o, x, _cathetus(o, x))


def acos(o: Ops, x: str) -> str:
    """Arc cosine: the angle of the point ``(x, sqrt(1 - x**2))``."""
    return _atan_ratio(o, _cathetus(o, x), x)


def _cathetus(o: Ops, x: str) -> str:
    """``sqrt(1 - x**2)``, NaN beyond 1."""
    return o.b.intrinsic("sqrt", o.t, o.mul(o.sub(1.0, x), o.add(x, 1.0)))


def _atan_ratio(o: Ops, y: str, x: str) -> str:
    """``atan2(y, x)``."""
    a, b = o.abs(y), o.abs(x)
    steep = o.compare("gt", a, b)
    numerator, denominator = o.select(steep, b, a), o.select(steep, a, b)
    ratio = o.div(numerator, denominator)
    # Neither inf / inf nor 0 / 0 is NaN.
    ratio = o.select(o.compare("eq", a, b), 1.0, ratio)
    ratio = o.select(o.compare("eq", o.add(a, b), 0.0), 0.0, ratio)
    z = o.mul(ratio, ratio)
    angle = o.fma(o.mul(z, ratio), o.horner(z, _ATAN[o.t.dtype]), ratio)
    angle = o.select(steep, _from(o, math.pi / 2, angle), angle)
    behind = o.b.compare("lt", o.i, o.bits(x), o.ci(0))
    angle = o.select(behind, _from(o, math.pi, angle), angle)
    return o.copysign(angle, y)


def _from(o: Ops, whole: float, angle: str) -> str:
    """``whole - angle`` with ``whole``, pi or half of it, to twice the precision."""
    high = o.rounded(whole)
    low = (whole - high) + _PI_LOW * (whole / math.pi)
    return o.sub(high, o.sub(angle, low))
