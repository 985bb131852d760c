"""Trigonometric functions of float64: sin, cos and tan.

The angle modulo a quarter turn is known to twice the precision. Arguments below 2**24 are reduced by multiples of
pi/2 in four parts (after Cody and Waite); a branch that is rarely taken reduces others with a table of ``1 / (2 pi)``
shifted to their size (after Payne and Hanek).
"""

from __future__ import annotations

import math

from .vecmath_coeffs64 import COS_TAIL_64, SIN_TAIL_64, TURNS_64
from .vecmath_core import Ops

_LARGE = 2.0**24
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
_TWO_PI = (6.283185307179586, 2.4492935982947064e-16)
Angle = tuple[str, str, str]
"""The angle in [-pi/4, pi/4], what is missing of it, and the number of quarter turns as an integer."""


def _reduce(o: Ops, x: str) -> Angle:
    """The angle modulo a quarter turn; of infinities and NaN it is NaN."""
    usual = _reduce_small(o, x)
    large = o.compare("ge", o.abs(x), _LARGE)

    def others() -> Angle:
        high, low, quarters = _reduce_large(o, x)
        chosen = o.b.select(o.i, large, quarters, usual[2])
        return o.select(large, high, usual[0]), o.select(large, low, usual[1]), chosen

    types = (o.t, o.t, o.i)
    high, low, quarters = o.rarely(large, tuple(zip(types, usual, strict=True)), others)
    return high, low, quarters


def _reduce_small(o: Ops, x: str) -> Angle:
    n, n_int = o.round_scaled(x, 2 / math.pi)
    first = o.fma(n, -_HALF_PI[0], x)  # exact
    product, lost = o.two_product(n, _HALF_PI[1])
    high, rest = o.two_sum(first, o.neg(product))
    high, low = o.fast_two_sum(high, o.sub(rest, o.fma(n, _HALF_PI[2], lost)))
    return high, low, n_int


def _reduce_large(o: Ops, x: str) -> Angle:
    """With ``x = m 2**k``, m whole and k of the table: the fraction of ``m (2**k / (2 pi))``, to about 2**-100.

    Sixteen exponents share a row of the table, so that m has up to 69 bits.
    """
    exponent = o.iop("sub", o.iop("and", o.iop("lshr", o.bits(x), o.mantissa), 0x7FF), o.bias)
    row = o.iop("and", o.iop("ashr", exponent, 4), 63)
    shift = o.iop("sub", o.iop("shl", row, 4), o.mantissa)
    m = o.from_bits(o.iop("sub", o.bits(x), o.iop("shl", shift, o.mantissa)))
    parts = [o.lookup(column, row) for column in TURNS_64]
    products = [o.two_product(m, part) for part in parts]
    high, low = o.two_sum(_fraction(o, products[0][0]), _fraction(o, products[0][1]))
    for term in (products[1][0], products[1][1], products[2][0]):
        high, lost = o.two_sum(_fraction(o, high), _fraction(o, term))
        low = o.add(low, lost)
    low = o.add(low, o.add(products[2][1], products[3][0]))
    high = _fraction(o, high)
    n, n_int = o.round_scaled(high, 4.0)
    turns, rest = o.fast_two_sum(o.fma(n, -0.25, high), low)
    angle, lost = o.two_product(turns, _TWO_PI[0])
    return angle, o.fma(rest, _TWO_PI[0], o.fma(turns, _TWO_PI[1], lost)), n_int


def _fraction(o: Ops, x: str) -> str:
    """``x`` modulo 1, between -1/2 and 1/2."""
    return o.sub(x, o.rint(x))


def _sine(o: Ops, r: str, low: str, z: str) -> str:
    return o.add(r, o.fma(o.mul(z, r), o.horner(z, SIN_TAIL_64), low))


def _cosine(o: Ops, r: str, low: str, z: str) -> str:
    half = o.mul(z, 0.5)
    whole = o.sub(1.0, half)
    lost = o.sub(o.sub(1.0, whole), half)
    tail = o.fma(o.mul(z, z), o.horner(z, COS_TAIL_64), o.fma(o.neg(r), low, lost))
    return o.add(whole, tail)


def _sin_cos(o: Ops, x: str) -> tuple[str, str, str]:
    """Sine and cosine of the reduced angle, and the quarter turns."""
    r, low, quarters = _reduce(o, x)
    z = o.mul(r, r)
    return _sine(o, r, low, z), _cosine(o, r, low, z), quarters


def _odd(o: Ops, quarters: str) -> str:
    return o.b.compare("ne", o.i, o.iop("and", quarters, 1), o.ci(0))


def _flip(o: Ops, value: str, quarters: str) -> str:
    """``value``, negated where bit 1 of ``quarters`` is set."""
    sign = o.iop("shl", o.iop("and", quarters, 2), 62)
    return o.from_bits(o.iop("xor", o.bits(value), sign))


def _edges(o: Ops, x: str, result: str) -> str:
    """``result`` of finite numbers, NaN of infinities and NaN."""
    return o.select(o.compare("lt", o.abs(x), float("inf")), result, float("nan"))


def sin(o: Ops, x: str) -> str:
    """Sine."""
    sine, cosine, quarters = _sin_cos(o, x)
    result = _flip(o, o.select(_odd(o, quarters), cosine, sine), quarters)
    return o.select(o.compare("eq", x, 0.0), x, _edges(o, x, result))


def cos(o: Ops, x: str) -> str:
    """Cosine."""
    sine, cosine, quarters = _sin_cos(o, x)
    return _edges(o, x, _flip(o, o.select(_odd(o, quarters), sine, cosine), o.iop("add", quarters, 1)))


def tan(o: Ops, x: str) -> str:
    """Tangent."""
    sine, cosine, quarters = _sin_cos(o, x)
    odd = _odd(o, quarters)
    ratio = o.div(o.select(odd, cosine, sine), o.select(odd, o.neg(sine), cosine))
    return o.select(o.compare("eq", x, 0.0), x, _edges(o, x, ratio))
