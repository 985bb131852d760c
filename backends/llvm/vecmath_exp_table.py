"""Exponentials of float32 by a table of 16 powers, for vectors that AVX-512 looks up in one instruction.

``x = n ln2 + r`` where n is a multiple of 1/16, so that ``|r| <= ln2 / 32``: three terms of ``expm1(r)`` are enough.
The low bits of the shifted x that rounds it to n are the place in the table of ``2**(k/16)``, and the instruction that
scales takes the rest of n as it is (`vscalefps` rounds down).
"""

from __future__ import annotations

import math

from .vecmath_coeffs import EXPM1_SHORT
from .vecmath_core import LOG2E, Ops

_BITS = 4
_TABLE = tuple(2.0 ** (k / 2**_BITS) for k in range(2**_BITS))
_TABLE_32 = tuple(2.0 ** (k / 32) for k in range(32))
_EXPM1_LINE = (1 + (math.log(2) / 64) ** 2 / 8, 0.5)
"""``expm1(r) / r`` for ``|r| <= h = ln2 / 64``: of ``r**3 / 6``, what is closest to it goes into the first term. The
error is ``h**3 / 24``, which is ``2**-24.2``."""
_LN2_HIGH, _LN2_LOW = 0.693147182464599609375, -1.904654299957767e-09
LOW = -104.5
"""Up to here the result is less than half the smallest denormal."""


def exp_bounded(o: Ops, x: str) -> str:
    """``e**x`` of values up to 89, or NaN."""
    power, n = exp_parts(o, o.at_least(x, LOW))
    return o.scale(power, n, "")


def decay(o: Ops, x: str) -> str:
    """``e**x`` of rounded numbers up to 0, or NaN, by a table of 32 powers and two terms of ``expm1(r)``.

    What ln2 rounded leaves out changes x by less than a tenth of what rounding x did.
    """
    x = o.at_least(x, LOW)
    magic = 1.5 * 2.0 ** (o.mantissa - _BITS - 1)
    shifted = o.fma(x, LOG2E, magic)
    n = o.sub(shifted, magic)
    r = o.fma(n, -_LN2_HIGH, x)
    power = o.lookup32(_TABLE_32, o.bits(shifted))
    return o.scale(o.fma(power, o.mul(o.horner(r, _EXPM1_LINE), r), power), n, "")


def exp_parts(o: Ops, x: str, rest: str | None = None) -> tuple[str, str]:
    """``p`` and ``n`` with ``exp(x - rest) = p 2**floor(n)``, for x between `LOW` and 89 and a tiny ``rest``."""
    magic = 1.5 * 2.0 ** (o.mantissa - _BITS)
    shifted = o.fma(x, LOG2E, magic)
    n = o.sub(shifted, magic)
    r = o.fma(n, -_LN2_LOW, o.fma(n, -_LN2_HIGH, x))
    r = r if rest is None else o.sub(r, rest)
    power = o.lookup16(_TABLE, o.bits(shifted))
    return o.fma(power, o.mul(o.horner(r, EXPM1_SHORT), r), power), n
