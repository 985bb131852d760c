"""The complementary error function of float32 by tables of 16, for vectors that AVX-512 looks up in one instruction.

``erfc(a) = exp(-a**2) E(a)`` for ``a = |x|``. E falls smoothly from 1 and is a polynomial on each of 16 pieces, whose
lengths grow with ``a + 1``: its exponent and the highest bits of its mantissa are a piece's place in the tables. A
polynomial around the middle of a piece loses little to rounding, and no division is needed.
"""

from __future__ import annotations

from .vecmath_coeffs import ERFC_PIECES
from .vecmath_core import Ops
from .vecmath_exp_table import exp_parts

_ZERO = 10.1
"""From here on the result rounds to 0."""
_PLACE_BITS = 2
"""Bits of the mantissa that belong to a piece's place; two more are of the exponent."""


def erfc(o: Ops, x: str) -> str:
    """Complementary error function."""
    a = o.at_most(o.abs(x), _ZERO)
    square = o.mul(a, a)
    lost = o.fma(a, a, o.neg(square))
    power, n = exp_parts(o, o.neg(square), lost)
    result = o.scale(o.mul(power, _scaled(o, a)), n, "")
    return o.select(o.compare("lt", x, 0.0), o.sub(2.0, result), result)


def _scaled(o: Ops, a: str) -> str:
    """The factor ``exp(a**2) erfc(a)``."""
    place = o.iop("lshr", o.bits(o.add(a, 1.0)), o.mantissa - _PLACE_BITS)
    middle, *coeffs = (o.lookup16(row, place) for row in ERFC_PIECES)
    t = o.sub(a, middle)
    total = coeffs.pop()
    for coefficient in reversed(coeffs):
        total = o.fma(total, t, coefficient)
    return total
